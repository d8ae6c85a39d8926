"""Clock: watches timestamps go by while a file is written."""

from __future__ import annotations

from collections.abc import Sequence

from vidtok.bitstream.header import TokenHeader
from vidtok.bitstream.records import is_steady
from vidtok.bitstream.wire import ZIGZAG_LIMIT
from vidtok.errors import UsageError


class Clock:
    """Whether timestamps rise, are steady, or follow the nominal rate."""

    def __init__(self, header: TokenHeader) -> None:
        self.step = header.frame_step
        self.first = self.last = self.frames = 0
        self.last_gap = 0
        self.steady = True
        self.nominal = bool(header.fps and header.time_base)
        period = 1 / (header.fps * header.time_base) if header.fps and header.time_base else None
        self.period = (period.numerator, period.denominator) if period else (0, 1)

    def add(self, pts: Sequence[int]) -> None:
        """More timestamps, in order."""
        for now in map(int, pts):
            if not -ZIGZAG_LIMIT < now < ZIGZAG_LIMIT >> 1:
                raise UsageError(f"timestamp {now} is out of range; they are below 2^61")
            if not self.frames:
                self.first = now
            elif now <= self.last:
                raise UsageError(f"timestamps rise; {now} follows {self.last}")
            else:
                self.last_gap = now - self.last
                self.steady = self.steady and is_steady((self.last, now), self.step)
                late = (now - self.first) * self.period[1] - self.frames * self.period[0]
                self.nominal = self.nominal and abs(late) <= self.period[1]
            self.last = now
            self.frames += 1

    def usual_step(self) -> int:
        """Ticks the last frame stays, where nobody said."""
        return self.step or self.last_gap or round(self.period[0] / self.period[1])
