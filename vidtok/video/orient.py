"""Upright pictures: display matrices of containers and EXIF orientation of pictures.

FFmpeg hands both over as one matrix of nine 32-bit numbers per frame,

        | a b u |
        | c d v |      x' = a x + c y,   y' = b x + d y     (y points down)
        | x y w |

of which only the eight orientations without shear are meant in practice.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType

from vidtok.video.info import Pixels


@dataclass(frozen=True)
class Orientation:
    """Transpose first, then flip left-right, then flip top-bottom."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @classmethod
    def of_matrix(cls, a: int, b: int, c: int, d: int) -> Orientation:
        """The nearest of the eight orientations."""
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(False, a < 0, d < 0)
        return cls(True, c < 0, b < 0)

    @classmethod
    def of_frame(cls, frame: av.VideoFrame) -> Orientation:
        """What the frame's display matrix says; upright without one."""
        for data in _side_data(frame):
            if data.type.name == "DISPLAYMATRIX":
                a, b, _, c, d = struct.unpack("=5i", bytes(data)[:20])
                return cls.of_matrix(a, b, c, d)
        return cls()

    @property
    def mirrored(self) -> bool:
        """Whether the picture must be mirrored, not only turned."""
        return (self.transpose + self.flip_x + self.flip_y) % 2 == 1

    @property
    def rotation(self) -> int:
        """Degrees clockwise, after mirroring left-right where `mirrored`."""
        if not self.transpose:
            return 180 if self.flip_y else 0
        return 90 if self.flip_x else 270

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of the upright picture, or back: it is its own inverse."""
        return (height, width) if self.transpose else (width, height)

    def apply(self, pixels: Pixels) -> Pixels:
        """The upright picture of a stored one, (H, W, 3), contiguous."""
        if self.transpose:
            pixels = pixels.transpose(1, 0, 2)
        if self.flip_x:
            pixels = pixels[:, ::-1]
        if self.flip_y:
            pixels = pixels[::-1]
        return np.ascontiguousarray(pixels)


def _side_data(frame: av.VideoFrame) -> list[Any]:
    """What is attached to a frame. PyAV 18.1 fails on kinds newer than itself (EXIF is 31): drop those first."""
    try:
        return list(frame.side_data)
    except ValueError:
        pass
    graph = av.filter.Graph()
    node: Any = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format,
                                 time_base=Fraction(1, 25))
    for kind in range(len(SideDataType), 64):
        node.link_to(drop := graph.add("sidedata", f"mode=delete:type={kind}"))
        node = drop
    node.link_to(graph.add("buffersink"))
    graph.configure()
    graph.push(frame)
    return list(graph.pull().side_data)
