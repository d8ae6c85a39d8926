"""Ordinary codecs on RGB frames: x264, x265, SVT-AV1 and VP9 through PyAV, counted and decoded as fairly as can be.

Frames become 8-bit 4:2:0 BT.709 limited range (4:4:4 where a side is odd or it is asked for) and come back with the
same converter that reads every video. What counts is the coded packets alone: no container, and not the 700 bytes
of settings that x264 and x265 write into the stream as text. Thread counts that bytes depend on are fixed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av import library_versions as av_libraries

from vidtok.errors import UsageError, VidtokError
from vidtok.video.colour import ToRgb
from vidtok.video.demux import reason
from vidtok.video.filters import ToYuv
from vidtok.video.info import ColourTags, Pixels

THREADS = 4
START_CODE = b"\0\0\1"
SEI, USER_DATA = 6, 5  # H.264: NAL type and payload type of x264's settings


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """How PyAV knows a codec."""

    ffmpeg_name: str
    decoder: str
    preset: str  # the default one
    highest_crf: int = 51
    full_chroma: bool = True
    smallest: int = 16  # side in pixels

    def options(self, crf: float, preset: str, extra: dict[str, str]) -> dict[str, str]:
        return {"crf": f"{crf:g}", "preset": preset, **extra}


class X265(Encoder):
    def options(self, crf: float, preset: str, extra: dict[str, str]) -> dict[str, str]:
        options = super().options(crf, preset, extra)
        return options | {"x265-params": "info=0:log-level=none:frame-threads=2"}


class Vp9(Encoder):
    def options(self, crf: float, preset: str, extra: dict[str, str]) -> dict[str, str]:
        return {"crf": f"{crf:g}", "b": "0", "deadline": "good", "cpu-used": preset, "row-mt": "1", **extra}


ENCODERS: dict[str, Encoder] = {
    "x264": Encoder(ffmpeg_name="libx264", decoder="h264", preset="medium"),
    "x265": X265(ffmpeg_name="libx265", decoder="hevc", preset="medium"),
    "svtav1": Encoder(
        ffmpeg_name="libsvtav1", decoder="libdav1d", preset="6", highest_crf=63, full_chroma=False, smallest=64
    ),
    "vp9": Vp9(ffmpeg_name="libvpx-vp9", decoder="vp9", preset="2", highest_crf=63),
}


@dataclass(frozen=True, kw_only=True)
class OrdinaryOptions:
    """One codec at one rate. `preset`: the encoder's own words (a number for svtav1; cpu-used for vp9)."""

    codec: str
    crf: float
    preset: str
    tune: str = ""
    keyint: int = 0  # most frames from key frame to key frame; 0: the encoder's default
    chroma444: bool = False


class OrdinaryWriter:
    """Frames into packets in a file that knows nothing but them; `packet_bytes` are their sizes."""

    def __init__(self, path: Path, options: OrdinaryOptions, width: int, height: int, rate: Fraction | None) -> None:
        self.options, self.width, self.height = options, width, height
        self.packet_bytes: list[int] = []
        self.header = b""
        encoder = ENCODERS[options.codec]
        odd = bool(width % 2 or height % 2)
        if (odd or options.chroma444) and not encoder.full_chroma:
            raise UsageError(f"{options.codec} takes 4:2:0 with even sides here, not {width}x{height}; --resize helps")
        if min(width, height) < encoder.smallest:  # SVT-AV1 writes beyond its buffers there
            raise UsageError(f"{options.codec} takes sides of {encoder.smallest} and more, not {width}x{height}")
        self._to_yuv = ToYuv("yuv444p" if odd or options.chroma444 else "yuv420p")
        rate = rate or Fraction(25)
        os.environ.setdefault("SVT_LOG", "1")  # else it writes a page to stderr
        try:
            context: Any = av.CodecContext.create(encoder.ffmpeg_name, "w")
            context.width, context.height = width, height
            context.pix_fmt = "yuv444p" if odd or options.chroma444 else "yuv420p"
            context.framerate, context.time_base = rate, 1 / rate
            context.colorspace, context.color_range = 1, 1
            context.color_primaries, context.color_trc = 1, 1
            context.thread_count = THREADS
            extra = {"tune": options.tune} if options.tune else {}
            if options.keyint:
                extra["g"] = str(options.keyint)
            context.options = encoder.options(options.crf, options.preset, extra)
            context.open()
        except (av.FFmpegError, ValueError, OSError) as error:
            raise self._wrong(error) from error
        self._context, self._count = context, 0
        self._file = open(path, "wb")  # noqa: SIM115, closed by close

    def __enter__(self) -> OrdinaryWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def write(self, pixels: Pixels) -> None:
        """One (H, W, 3) frame."""
        frame = self._to_yuv(pixels)
        frame.pts, frame.time_base = self._count, self._context.time_base
        self._count += 1
        self._encode(frame)

    def finish(self) -> int:
        """Empties the encoder; the bytes of all packets."""
        self._encode(None)
        self.close()
        return sum(self.packet_bytes)

    def close(self) -> None:
        self._file.close()

    def _encode(self, frame: Any) -> None:
        try:
            packets = [bytes(packet) for packet in self._context.encode(frame)]
        except (av.FFmpegError, ValueError, MemoryError) as error:
            raise self._wrong(error) from error
        for data in packets:
            if self.options.codec == "x264":
                data = without_settings(data)
            if data:
                self.packet_bytes.append(len(data))
                self._file.write(data)

    def _wrong(self, error: Exception) -> VidtokError:
        o = self.options
        return UsageError(
            f"{o.codec} cannot encode {self.width}x{self.height} with crf {o.crf:g}, preset {o.preset}: {reason(error)}"
        )


def read_ordinary(path: Path, writer: OrdinaryWriter) -> Iterator[Pixels]:
    """The frames (H, W, 3) of what `writer` wrote, in order of showing."""
    context: Any = av.CodecContext.create(ENCODERS[writer.options.codec].decoder, "r")
    # PyAV frees a decoder while holding Python's lock, and these packets, whose bytes are Python's, want that lock to
    # be freed: a thread of the decoder that lets go of one just then would wait for ever. Hence none.
    context.thread_type, context.thread_count = "NONE", 1
    to_rgb = ToRgb(ColourTags(matrix=1, range=1, primaries=1, transfer=1), writer.width, writer.height)
    with open(path, "rb") as file:
        for size in [*writer.packet_bytes, 0]:
            packet = av.Packet(file.read(size)) if size else None
            for frame in context.decode(packet):
                yield np.ascontiguousarray(to_rgb(frame))


def library_versions() -> dict[str, str]:
    """Of PyAV and the FFmpeg in it."""
    return {"av": av.__version__, "libavcodec": ".".join(str(n) for n in av_libraries["libavcodec"])}


def without_settings(data: bytes) -> bytes:
    """An H.264 byte stream without the message in which x264 tells its settings."""
    starts = []
    at = data.find(START_CODE)
    while at >= 0:
        starts.append(at - (at > 0 and data[at - 1] == 0))
        at = data.find(START_CODE, at + 3)
    pieces = [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]
    return b"".join(piece for piece in pieces if not _tells_settings(piece.lstrip(b"\0")[1:3]))


def _tells_settings(head: bytes) -> bool:
    return len(head) == 2 and head[0] & 31 == SEI and head[1] == USER_DATA
