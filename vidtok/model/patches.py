"""Frames <-> patches of time x space x space pixels, one row per grid cell: pure rearrangement, any dtype.

frames  (B, T, H, W, 3), H and W multiples of `space`, T of `time`
patches (B, T/time, H/space, W/space, time * space * space * 3)
"""

from __future__ import annotations

from torch import Tensor

from vidtok.geometry import Geometry


def patch_values(geometry: Geometry) -> int:
    """Values in one patch."""
    return geometry.time * geometry.space**2 * 3


def to_patches(frames: Tensor, geometry: Geometry) -> Tensor:
    """(B, T, H, W, 3) -> (B, t, h, w, P)."""
    b, frame_count, height, width, _ = frames.shape
    k, s = geometry.time, geometry.space
    t, h, w = frame_count // k, height // s, width // s
    cells = frames.reshape(b, t, k, h, s, w, s, 3).permute(0, 1, 3, 5, 2, 4, 6, 7)
    return cells.reshape(b, t, h, w, patch_values(geometry))


def from_patches(patches: Tensor, geometry: Geometry) -> Tensor:
    """(B, t, h, w, P) -> (B, T, H, W, 3)."""
    b, t, h, w, _ = patches.shape
    k, s = geometry.time, geometry.space
    frames = patches.reshape(b, t, h, w, k, s, s, 3).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return frames.reshape(b, t * k, h * s, w * s, 3)
