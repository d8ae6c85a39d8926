"""RGB frames into PNG files, or into one .npy array (T, H, W, 3)."""

from __future__ import annotations

import os
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from vidtok.errors import OutputError, UsageError
from vidtok.video.beside import BesideFile, cannot_write, refuse_existing, remove, temporary
from vidtok.video.info import Pixels


class PngFiles:
    """`out.png`: that file for one frame, `out_00001.png`... for more; or a pattern `name_%05d.png`."""

    def __init__(self, path: Path, *, width: int, height: int, force: bool) -> None:
        self.path, self._force, self._count = path, force, 0
        self._pattern = _pattern(path)
        refuse_existing(self._one if self._numbered else path, force)
        refuse_existing(self._name(1), force)
        self._folder = temporary(path)
        self._encoder: Any = av.CodecContext.create("png", "w")
        self._encoder.width, self._encoder.height, self._encoder.pix_fmt = width, height, "rgb24"
        self._encoder.time_base = Fraction(1, 25)
        self._encoder.thread_count = 1
        try:
            self._folder.mkdir()
        except OSError as error:
            raise cannot_write(path, error) from error

    @property
    def _numbered(self) -> bool:
        return "%" in self.path.name

    @property
    def _one(self) -> Path:
        return self._name(1)

    def _name(self, number: int) -> Path:
        return self.path.with_name(self._pattern.replace("%", "%%", 0) % number)

    def write(self, pixels: Pixels, pts: int, duration: int) -> None:
        """One (H, W, 3) frame."""
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts = self._count
        self._count += 1
        try:
            with open(self._folder / str(self._count), "xb") as file:
                for packet in self._encoder.encode(frame):
                    file.write(bytes(packet))
                file.flush()
                os.fsync(file.fileno())
        except (av.FFmpegError, OSError) as error:
            raise cannot_write(self.path, error) from error

    def finish(self) -> None:
        """Moves all files to their names."""
        names = [self._name(n + 1) for n in range(self._count)]
        if self._count == 1 and not self._numbered:
            names = [self.path]
        try:
            for name in names:
                refuse_existing(name, self._force)
            for number, name in enumerate(names):
                os.replace(self._folder / str(number + 1), name)
        except OSError as error:
            if isinstance(error, OutputError):
                raise
            raise cannot_write(self.path, error) from error
        remove(self._folder)

    def discard(self) -> None:
        """Leaves no trace."""
        remove(self._folder)


def _pattern(path: Path) -> str:
    """The %-pattern of file names: the name's own, or NAME_%05d.png."""
    name = path.name
    if "%" in name:
        if not re.fullmatch(r"[^%]*%0?\d*d[^%]*", name):
            raise UsageError(f"{name!r} is not a pattern for numbered files; e.g. frame_%05d.png")
        return name
    return f"{path.stem}_%05d{path.suffix}"


class NpyFile:
    """One .npy array (T, H, W, 3) uint8, streamed; the header is put right at the end."""

    def __init__(self, path: Path, *, width: int, height: int, force: bool) -> None:
        self.path, self._shape, self._count = path, (height, width, 3), 0
        self._target = BesideFile(path, force)
        try:
            self._write(self._header())
        except OutputError:
            self.discard()
            raise

    def _header(self) -> bytes:
        text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {(self._count, *self._shape)}, }}"
        return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + text.ljust(117).encode() + b"\n"

    def _write(self, data: Any) -> None:
        try:
            self._target.file.write(data)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def write(self, pixels: Pixels, pts: int, duration: int) -> None:
        """One (H, W, 3) frame."""
        self._write(np.ascontiguousarray(pixels).data)
        self._count += 1

    def finish(self) -> None:
        """Writes the true number of frames and puts the file in place."""
        try:
            self._target.file.seek(0)
            self._target.file.write(self._header())
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._target.commit()

    def discard(self) -> None:
        """Leaves no trace."""
        self._target.discard()
