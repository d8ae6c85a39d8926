"""Timestamps that only ever grow: missing ones filled, unordered ones repaired, another frame rate.

Decoders hand pictures over in the order they are to be seen, so the order of pictures is never touched;
where timestamps disagree with it, the timestamps give way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, TypeVar

Item = TypeVar("Item")
Note = Callable[[str], None]


@dataclass
class Timed(Generic[Item]):
    """Something shown from `pts` on for `duration` ticks."""

    item: Item
    pts: int
    duration: int


class Repair(Generic[Item]):
    """Feeds on (item, pts or None, duration or 0) in display order; gives items with growing pts.

    `step`: ticks between frames as far as the header tells (may be fractional), > 0. `start`: pts of the
    first frame if it has none. `last_duration`: asked with the last pts how long that frame is shown.
    Two items are held back, so that a swapped pair can be put right.
    """

    def __init__(self, step: Fraction, start: int, note: Note,
                 last_duration: Callable[[int], int | None] | None = None) -> None:
        self._step, self._note, self._last_duration = step, note, last_duration
        self._anchor, self._missing = start, 0  # the run of missing pts counts from the last known one
        self._offset, self._old_offset = 0, 0
        self._held: Timed[Item] | None = None  # the newest one, whose pts may still be put right
        self._before: Timed[Item] | None = None  # the one before it, whose duration waits for that

    def run(self, items: Iterable[tuple[Item, int | None, int]]) -> Iterator[Timed[Item]]:
        """Strictly growing pts; each duration reaches to the next pts, the last one's is its own or a step."""
        for item, pts, duration in items:
            timed = Timed(item, self._place(pts), duration)
            if self._before is not None and self._held is not None:
                self._before.duration = self._held.pts - self._before.pts
                yield self._before
            self._before, self._held = self._held, timed
        if self._before is not None and self._held is not None:
            self._before.duration = self._held.pts - self._before.pts
            yield self._before
        if self._held is not None:
            known = self._last_duration(self._held.pts) if self._last_duration else None
            self._held.duration = known or self._held.duration or max(1, round(self._step))
            yield self._held

    def _place(self, pts: int | None) -> int:
        newest = self._held.pts if self._held else None
        if pts is None:
            return self._fill(newest)
        self._missing = 0
        placed = pts + self._offset
        if self._offset != self._old_offset:
            placed = self._judge_jump(pts, placed)
            newest = self._held.pts if self._held else None
        if newest is not None and placed <= newest:
            placed = self._repair(pts, placed, newest)
        self._anchor = placed
        return placed

    def _fill(self, newest: int | None) -> int:
        if newest is None:
            return self._anchor
        self._missing += 1
        self._note("some frames have no timestamp; filled in from the frame rate")
        return max(newest + 1, self._anchor + round(self._missing * self._step))

    def _judge_jump(self, pts: int, placed: int) -> int:
        """One timestamp jumped back. If this one goes on from before the jump, that was an outlier;
        otherwise the clock started anew, and the offset stays."""
        before, held = self._before.pts if self._before else None, self._held
        without = pts + self._old_offset
        if held is None or before is None or without <= before + 1:
            self._old_offset = self._offset
            return placed
        self._offset = self._old_offset
        if held.pts >= without:
            held.pts = before + (without - before) // 2
        return without

    def _repair(self, pts: int, placed: int, newest: int) -> int:
        assert self._held is not None
        before = self._before.pts if self._before else None
        self._note("timestamps are not in order; repaired, the order of the pictures is kept")
        if placed < newest and (before is None or placed > before) and newest - placed < 4 * self._step:
            self._held.pts = placed
            return newest
        self._old_offset = self._offset
        self._offset = newest + max(1, round(self._step)) - pts
        return pts + self._offset


class Resampler(Generic[Item]):
    """Frames of a steady clock: the one at `start + k / rate` is the last source frame not after it."""

    def __init__(self, rate: Fraction, time_base: Fraction) -> None:
        self.rate = rate
        self.time_base = _common_base(time_base, 1 / rate)
        self._scale = time_base / self.time_base
        self._step = 1 / rate / self.time_base

    def run(self, items: Iterable[Timed[Item]]) -> Iterator[Timed[Item]]:
        """Growing pts in ticks of `self.time_base`; the clock starts with the first frame."""
        origin: Fraction | None = None
        count = 0
        for timed in items:
            begin, end = timed.pts * self._scale, (timed.pts + timed.duration) * self._scale
            origin = begin if origin is None else origin
            while origin + count * self._step < end or count == 0:
                now, after = (round(origin + k * self._step) for k in (count, count + 1))
                yield Timed(timed.item, now, after - now)
                count += 1


def _common_base(a: Fraction, b: Fraction) -> Fraction:
    """The largest tick of which both are whole multiples; a tick near 1/90000 of a second if that is too fine."""
    den = math.lcm(a.denominator, b.denominator)
    num = math.gcd(a.numerator * (den // a.denominator), b.numerator * (den // b.denominator))
    base = Fraction(num, den)
    return base if base.denominator < 2**31 else b / max(1, round(b * 90000))
