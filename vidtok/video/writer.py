"""VideoWriter: RGB frames with timestamps into a file chosen by its suffix, whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol

import numpy as np

from vidtok.errors import OutputError, UsageError
from vidtok.video.encode import FORMATS, LARGEST_TICK_RATE, EncodedFile
from vidtok.video.info import Pixels
from vidtok.video.pictures import NpyFile, PngFiles

SUFFIXES = (".mp4", ".mkv", ".png", ".npy")


class _Sink(Protocol):
    def write(self, pixels: Pixels, pts: int, duration: int) -> None: ...
    def finish(self) -> None: ...
    def discard(self) -> None: ...


class VideoWriter:
    """Writes frames of width x height to .mp4, .mkv, .png or .npy.

    pts are ticks of `time_base` seconds, strictly growing; exact in .mp4 (a negative start is moved to
    zero, sound along with it), rounded to milliseconds in .mkv, not kept in .png and .npy.
    `rate`: nominal frames per second, a help for the encoder. `chroma444`: keep full chroma, as always
    where a side is odd. `audio`: NUT bytes as VideoReader.take_audio gives them. `primaries`, `transfer`:
    H.273 tags of the RGB values. Nothing appears under the target's name before `close`.
    Errors: OutputError and its kinds; UsageError for a suffix nobody knows.
    """

    def __init__(self, path: str | Path, *, width: int, height: int, time_base: Fraction = Fraction(1, 90000),
                 rate: Fraction | None = None, sample_aspect: Fraction = Fraction(1), chroma444: bool = False,
                 crf: float = 16, audio: BinaryIO | None = None, force: bool = False,
                 primaries: int = 1, transfer: int = 1) -> None:
        self.path, self._shape = Path(path), (height, width, 3)
        suffix = self.path.suffix.lower()
        if suffix not in SUFFIXES:
            raise UsageError(f"cannot write {str(path)!r}: its suffix is none of {', '.join(SUFFIXES)}")
        if width < 1 or height < 1 or time_base <= 0:
            raise UsageError(f"cannot write frames of {width}x{height} with ticks of {time_base} s")
        # a time base finer than containers can hold gives way to microseconds
        self._scale = Fraction(1)
        if time_base.denominator > LARGEST_TICK_RATE:
            self._scale, time_base = time_base * 1_000_000, Fraction(1, 1_000_000)
        self._step = max(1, round(1 / (rate or Fraction(25)) / time_base))
        self._held: tuple[Pixels, int] | None = None
        self._closed = False
        self._sink: _Sink
        if suffix in FORMATS:
            self._sink = EncodedFile(
                self.path, width=width, height=height, time_base=time_base, rate=rate, sample_aspect=sample_aspect,
                chroma444=chroma444, crf=crf, audio=audio, force=force,
                primaries=_known(primaries), transfer=_known(transfer))
        elif suffix == ".png":
            self._sink = PngFiles(self.path, width=width, height=height, force=force)
        else:
            self._sink = NpyFile(self.path, width=width, height=height, force=force)

    def write(self, pixels: Pixels, pts: Sequence[int]) -> None:
        """Frames (T, H, W, 3) uint8 RGB and their T pts."""
        assert pixels.shape == (len(pts), *self._shape) and pixels.dtype == np.uint8, (pixels.shape, self._shape)
        for picture, tick in zip(pixels, pts, strict=True):
            tick = round(tick * self._scale)
            if self._held is not None:
                self._put(max(1, tick - self._held[1]))
            self._held = picture, tick
        if self._held is not None and len(pixels):
            self._held = self._held[0].copy(), self._held[1]  # the caller may reuse its array

    def _put(self, duration: int) -> None:
        assert self._held is not None
        try:
            self._sink.write(np.ascontiguousarray(self._held[0]), self._held[1], duration)
        except BaseException:
            self.discard()
            raise

    def close(self, last_duration: int | None = None) -> None:
        """Writes the last frame, shown for `last_duration` ticks (None: one nominal frame), and renames."""
        if self._closed:
            return
        if self._held is None:
            self.discard()
            raise OutputError(f"cannot write {str(self.path)!r}: no frames came")
        self._put(max(1, round(last_duration * self._scale)) if last_duration else self._step)
        self._closed = True
        try:
            self._sink.finish()
        except BaseException:
            self._sink.discard()
            raise

    def discard(self) -> None:
        """Gives up; no file is left."""
        if not self._closed:
            self._closed = True
            self._sink.discard()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


def _known(code: int) -> int:
    """BT.709 where the H.273 code says nothing."""
    return 1 if code in (0, 2) else code
