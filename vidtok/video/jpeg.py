"""Pictures as JPEG data of bounded size, for pages that carry them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from vidtok.video.colour import EXACT
from vidtok.video.info import Pixels

SCALES = (3, 6, 12, 31)  # quantizer scales tried in turn, 2 is the finest and 31 the coarsest that JPEG has
LEAST_SIDE = 16  # a picture is not shrunk below this to save bytes


@dataclass(frozen=True)
class Jpeg:
    """A whole JPEG file, 4:4:4, and the size of its picture. `tries`: how many were too large before it."""

    data: bytes
    width: int
    height: int
    tries: int

    def next_first(self, most_bytes: int) -> int:
        """Where to begin with the next picture of a video: here, or one step finer where there is room."""
        return self.tries if len(self.data) > most_bytes // 2 else max(0, self.tries - 1)


def encode_jpeg(pixels: Pixels, side: int, most_bytes: int, first: int = 0) -> Jpeg:
    """(H, W, 3) RGB -> JPEG with sides of at most `side`, by area averages, never enlarged.

    As fine as `most_bytes` allows; what is too large even at the coarsest scale is halved until it fits or is
    LEAST_SIDE small. `first`: tries that are left out, since the picture before was too large with them. The same
    arguments give the same bytes.
    """
    height, width = pixels.shape[:2]
    whole = min(1.0, side / max(height, width))
    size, picture = (0, 0), None
    for tries in itertools.count(first):
        halvings, step = divmod(tries, len(SCALES))
        factor = whole / 2**halvings
        fresh = max(1, round(width * factor)), max(1, round(height * factor))
        if fresh != size:
            size, picture = fresh, _planes(pixels, *fresh)
        data = _encode(picture, SCALES[step])
        if len(data) <= most_bytes or (max(size) <= LEAST_SIDE and step == len(SCALES) - 1):
            return Jpeg(data, *size, tries)
    raise AssertionError("never")


def _planes(pixels: Pixels, width: int, height: int) -> Any:
    """RGB -> a frame of BT.601 full range 4:4:4, as JPEG files have it."""
    scaler = Interpolation.AREA if (height, width) != pixels.shape[:2] else Interpolation.BICUBIC
    frame: Any = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    frame = frame.reformat(
        width=width,
        height=height,
        format="yuvj444p",
        interpolation=int(scaler | EXACT),
        dst_colorspace=Colorspace.ITU601,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.JPEG,
    )
    frame.pts = 0
    return frame


def _encode(frame: Any, scale: int) -> bytes:
    encoder: Any = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = frame.width, frame.height, "yuvj444p"
    encoder.time_base, encoder.thread_count = Fraction(1, 25), 1
    encoder.options = {"qmin": str(scale), "qmax": str(scale), "flags": "+qscale+bitexact"}
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
