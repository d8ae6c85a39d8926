"""Decoded pictures of any pixel format to 8-bit full-range RGB, and what the file says of its colours.

Tags win. Without a matrix: BT.2020 or BT.709 if the primaries say so, else BT.709 from 720 lines or 1280
columns on and BT.601 below, as players do. Without a range: full for RGB, gray and the "J" formats,
limited otherwise. HDR transfer curves are not converted.
"""

from __future__ import annotations

from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from vidtok.video.info import ColourTags, Pixels

SEVERAL_THREADS = 1 << 19  # pixels from which conversion is shared among the processor cores
LIMITED, FULL = 1, 2
# without these swscale darkens by 1.2 levels on average and differs from processor to processor
EXACT = (
    Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
)
# H.273 matrix -> the name swscale knows it by (5 and 6 are both BT.601, 9 and 10 both BT.2020)
_SWSCALE_MATRIX = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
_MATRIX_OF_PRIMARIES = {1: 1, 5: 5, 6: 6, 7: 7, 9: 9}


def colour_tags(frame: av.VideoFrame, codec: str = "") -> ColourTags:
    """The frame's colour description, guessed where the file is silent."""
    primaries, transfer = int(frame.color_primaries), int(frame.color_trc)
    matrix, span = int(frame.colorspace), int(frame.color_range)
    name = frame.format.name
    rgb_or_gray = frame.format.is_rgb or name.startswith(("gray", "ya", "mono", "pal8"))
    guessed = False
    if rgb_or_gray:
        return ColourTags(matrix=0 if frame.format.is_rgb else matrix, range=FULL,
                          primaries=primaries, transfer=transfer)
    if matrix not in _SWSCALE_MATRIX:
        guessed = True
        matrix = 6 if codec == "webp" else _guess_matrix(frame.width, frame.height, primaries)
    if span not in (LIMITED, FULL):
        guessed = True
        span = FULL if name.startswith("yuvj") else LIMITED
    return ColourTags(matrix=matrix, range=span, primaries=primaries, transfer=transfer, guessed=guessed)


def _guess_matrix(width: int, height: int, primaries: int) -> int:
    if primaries in _MATRIX_OF_PRIMARIES:
        return _MATRIX_OF_PRIMARIES[primaries]
    return 1 if height >= 720 or width >= 1280 else 6


def has_alpha(format: av.VideoFormat) -> bool:
    """Whether the pixel format has a transparency channel (palettes count)."""
    return format.name == "pal8" or format.name.startswith(("ya8", "ya16", "yaf")) or (
        len(format.components) == 4 and any(c.is_alpha for c in format.components)
    )


class ToRgb:
    """One shared converter: call it with decoded frames, get (height, width, 3) uint8 RGB."""

    def __init__(self, tags: ColourTags, width: int, height: int) -> None:
        self.tags, self.width, self.height = tags, width, height
        self.saw_transparency = False
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> Pixels:
        """The stored (not yet upright) picture at the wanted size; transparent parts over black."""
        alpha = has_alpha(frame.format)
        picture = self._reformatter.reformat(frame, **self._arguments(frame, "rgba" if alpha else "rgb24"))
        pixels: Any = picture.to_ndarray()
        return self._over_black(pixels) if alpha else pixels

    def _arguments(self, frame: av.VideoFrame, format: str) -> dict[str, Any]:
        matrix = _SWSCALE_MATRIX.get(self.tags.matrix)
        shrinks = frame.width >= self.width and frame.height >= self.height
        same = frame.width == self.width and frame.height == self.height
        scaler = Interpolation.AREA if shrinks and not same else Interpolation.BICUBIC
        return {
            "width": self.width, "height": self.height, "format": format, "interpolation": int(scaler | EXACT),
            "src_colorspace": None if frame.format.is_rgb else matrix,
            "src_color_range": self.tags.range, "dst_color_range": FULL,
            "threads": 0 if frame.width * frame.height >= SEVERAL_THREADS else 1,  # the same result either way
        }

    def _over_black(self, rgba: Pixels) -> Pixels:
        alpha = rgba[..., 3:]
        if alpha.min() == 255:
            return np.ascontiguousarray(rgba[..., :3])
        self.saw_transparency = True
        return ((rgba[..., :3].astype(np.uint16) * alpha + 127) // 255).astype(np.uint8)
