"""Two streams of frames through a filter of FFmpeg's that compares them: xpsnr, vif."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.filter import Graph, filters_available
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from vidtok.errors import UsageError
from vidtok.video.colour import EXACT
from vidtok.video.info import Pixels

RATE = Fraction(25)


class PairFilter:
    """Frames are compared as 8-bit 4:2:0 BT.709, limited range, at 25 per second, converted as `decode` writes them.

    UsageError where the FFmpeg in use has no such filter, or it refuses the size.
    """

    def __init__(self, name: str, width: int, height: int) -> None:
        if name not in filters_available:
            raise UsageError(f"the FFmpeg libraries in use have no {name} filter")
        self.name, self._count = name, 0
        self._to_yuv = ToYuv("yuv420p")
        graph = Graph()
        words = (
            f"video_size={width}x{height}:pix_fmt=yuv420p:time_base={1 / RATE}:frame_rate={RATE}:pixel_aspect=1/1:"
            "colorspace=bt709:range=tv"
        )
        try:
            self._inputs = [graph.add("buffer", words) for _ in range(2)]
            both, self._sink = graph.add(name), graph.add("buffersink")
            for i, source in enumerate(self._inputs):
                source.link_to(both, 0, i)
            both.link_to(self._sink)
            graph.configure()
        except (av.FFmpegError, ValueError) as error:
            raise UsageError(f"{name} cannot take frames of {width}x{height}: {error}") from error
        self._graph = graph

    def push(self, reference: Pixels, other: Pixels) -> list[dict[str, float]]:
        """One (H, W, 3) pair -> what the filter says of the frames that are ready; keys without their prefix."""
        for source, pixels in zip(self._inputs, (other, reference), strict=True):  # the first input is the distorted
            frame = self._to_yuv(pixels)
            frame.pts, frame.time_base = self._count, 1 / RATE
            source.push(frame)
        self._count += 1
        return self._pull()

    def finish(self) -> list[dict[str, float]]:
        """The frames still inside."""
        for source in self._inputs:
            source.push(None)
        return self._pull()

    def _pull(self) -> list[dict[str, float]]:
        found: list[dict[str, float]] = []
        while True:
            try:
                frame: Any = self._sink.pull()
            except (av.BlockingIOError, av.EOFError):
                return found
            prefix = f"lavfi.{self.name}."
            words = dict(frame.metadata)
            found.append({k.removeprefix(prefix): float(v) for k, v in words.items() if k.startswith(prefix)})


class ToYuv:
    """RGB (H, W, 3) uint8 -> a frame in BT.709 limited range, `format` yuv420p or yuv444p."""

    def __init__(self, format: str) -> None:
        self._format, self._reformatter = format, VideoReformatter()

    def __call__(self, pixels: Pixels) -> Any:
        return self._reformatter.reformat(
            av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24"),
            format=self._format,
            dst_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
            interpolation=int(Interpolation.BICUBIC | EXACT),
            threads=1,
        )


class ToYuv444:
    """RGB (H, W, 3) uint8 -> planes (3, H, W) of BT.709 limited range."""

    def __init__(self) -> None:
        self._to_yuv = ToYuv("yuv444p")

    def __call__(self, pixels: Pixels) -> Pixels:
        frame = self._to_yuv(pixels)
        planes = []
        for plane in frame.planes:
            rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
            planes.append(rows[: frame.height, : frame.width])
        return np.stack(planes)
