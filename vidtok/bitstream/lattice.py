"""In which order the cells of a latent frame are told: integers only.

Ids are told in four passes, over the four sub-lattices of 2 x 2 blocks, each given those before. Free symbols, which
stay the same over large areas, are told in seven turns from coarse to fine, here in each 4 x 4 cells:

    passes   0 2 0 2    turns   0 5 2 5
             3 1 3 1            6 4 6 4
             0 2 0 2            3 5 1 5
             3 1 3 1            6 4 6 4
"""

from __future__ import annotations

from typing import NamedTuple

Places = tuple[tuple[int, int], ...]  # (y, x)

ORDER = ((0, 0), (1, 1), (0, 1), (1, 0))  # (y, x) of the passes' first cells
NEAR: tuple[Places, ...] = (  # by pass, the (y, x) distances of neighbours that are known
    (),
    ((-1, -1), (-1, 1), (1, -1), (1, 1)),
    ((-1, 0), (0, -1), (0, 1), (1, 0)),
    ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)),
)


class Turn(NamedTuple):
    """Cells (y, x), (y, x + step), ... (y + step, x), ..."""

    step: int
    y: int
    x: int
    near: Places  # distances of neighbours that earlier turns told

    @property
    def cells(self) -> tuple[slice, slice]:
        """Of a plane (h, w)."""
        return slice(self.y, None, self.step), slice(self.x, None, self.step)

    def neighbours(self, dy: int, dx: int, h: int, w: int) -> tuple[slice, slice]:
        """Of a plane with a border of REACH around it: those so far from each of the turn's (h, w) cells."""
        top, left = self.y + dy + REACH, self.x + dx + REACH
        return slice(top, top + h * self.step, self.step), slice(left, left + w * self.step, self.step)


REACH = 2  # cells
TURNS = (
    Turn(4, 0, 0, ()),
    *(
        Turn(2 * unit, y * unit, x * unit, tuple((dy * unit, dx * unit) for dy, dx in near))
        for unit in (2, 1)
        for (y, x), near in zip(ORDER[1:], NEAR[1:], strict=True)
    ),
)
SOURCES = tuple(1 + len(turn.near) for turn in TURNS)  # a turn's: the latent frame before, and its neighbours
