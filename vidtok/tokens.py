"""Tokens: ids on a (t, h, w) grid and what is needed to turn them into frames again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class Tokens:
    """What a model makes of an array of frames. `ids` may be a numpy array or a tensor.

    ids: integers (t, h, w) or (t, h, w, K), with a batch axis B in front where frames had one.
    """

    ids: np.ndarray | Any
    frames: int  # T of the video they came from
    height: int  # pixels
    width: int
    vocabulary: int | tuple[int, ...]  # ids per codebook; one per codebook where they differ

    def __post_init__(self) -> None:
        if self.ids.ndim not in (3, 4, 5):
            raise ValueError(f"ids are ([B,] t, h, w[, K]), got shape {tuple(self.ids.shape)}")
        if min(self.frames, self.height, self.width) < 1:
            raise ValueError(f"{self.frames} frames of {self.width}x{self.height} are no video")
