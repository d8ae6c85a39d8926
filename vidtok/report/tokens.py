"""Token usage over the grid: how often ids change at a place, and how many bits they are worth there.

The entropy of a place is the sum of the entropies of its digits over time. Digits are the levels of the quantizer;
where those are unknown, or a level is large, the bits of the number. It is an upper bound of the entropy of the
ids, and can be counted in memory that depends on the grid alone. Large grids are counted in square blocks of cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vidtok.report.content import TokenMap

Array = np.ndarray[Any, Any]

MOST_CELLS = 96  # blocks along a side of a map
MOST_STAGES = 8  # stages that get maps; later ones are not shown
LARGEST_LEVEL = 64  # a digit with more levels is counted as bits


class TokenMaps:
    """Fed with ids (n, h, w) or (n, h, w, K), latent frames in order. `digits` as a token file's header has them."""

    def __init__(
        self,
        height: int,
        width: int,
        vocabulary: int | Sequence[int],
        digits: Sequence[int] | Sequence[Sequence[int]] = (),
        stages: int = 1,
    ) -> None:
        block = -(-max(height, width) // MOST_CELLS)
        self._rows, self._columns = -(-height // block), -(-width // block)
        y, x = np.mgrid[:height, :width] // block
        self._block = (y * self._columns + x).ravel()
        self._cells = np.bincount(self._block)
        self._levels = [_levels(vocabulary, digits, k) for k in range(min(stages, MOST_STAGES))]
        self._counts = [[np.zeros(len(self._cells) * level, np.int64) for level in ls] for ls in self._levels]
        self._changes = [np.zeros(len(self._cells), np.int64) for _ in self._levels]
        self._last: Array | None = None
        self._latents = 0

    def update(self, ids: Array) -> None:
        for frame in ids:
            self._add(frame.reshape(len(self._block), -1)[:, : len(self._levels)])

    def result(self) -> tuple[TokenMap, ...]:
        """Two maps for each stage; "changes" is left out where there is one latent frame only."""
        found = []
        for k in range(len(self._levels) if self._latents else 0):
            if self._latents > 1:
                share = self._changes[k] / (self._cells * (self._latents - 1))
                found.append(TokenMap(stage=k, name="changes", values=self._shape(share), most=1.0))
            bits = sum(_entropy(counts.reshape(len(self._cells), -1)) for counts in self._counts[k])
            values = self._shape(bits * np.ones(len(self._cells)))
            found.append(TokenMap(stage=k, name="entropy", values=values, most=max(float(values.max()), 1e-6)))
        return tuple(found)

    def _add(self, frame: Array) -> None:
        """One latent frame (cells, stages)."""
        for k, levels in enumerate(self._levels):
            rest = frame[:, k].astype(np.uint64)
            for level, counts in zip(levels, self._counts[k], strict=True):
                rest, digit = np.divmod(rest, np.uint64(level))
                counts += np.bincount(self._block * level + digit.astype(np.int64), minlength=len(counts))
            if self._last is not None:
                changed = frame[:, k] != self._last[:, k]
                self._changes[k] += np.bincount(self._block[changed], minlength=len(self._cells))
        self._last = frame.copy()
        self._latents += 1

    def _shape(self, values: Array) -> Array:
        return values.reshape(self._rows, self._columns).astype(np.float32)


def _levels(vocabulary: int | Sequence[int], digits: Sequence[Any], stage: int) -> list[int]:
    """Levels of the digits that ids of a stage are counted by, fastest first."""
    size = vocabulary if isinstance(vocabulary, int) else vocabulary[stage]
    nested = bool(digits) and not isinstance(digits[0], int)
    own = list((digits[stage] if len(digits) > 1 else digits[0]) if nested else digits)
    if not own or max(own) > LARGEST_LEVEL:
        return [2] * max(1, (size - 1).bit_length())
    return own


def _entropy(counts: Array) -> Array:
    """Bits of tables of counts (cells, levels) -> (cells,)."""
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return np.asarray(-(share * np.log2(np.where(share > 0, share, 1))).sum(1))
