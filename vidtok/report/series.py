"""Numbers of a clip, frame by frame, in bounded space: a long clip is kept as equal spans of frames."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

CAPACITY = 512


@dataclass
class Series:
    """Values in order of frames; as soon as there are more than CAPACITY spans, neighbours are joined.

    Span i is of frames first + i * span .. and so on, the last one may be shorter. `first` is the number of the
    first frame that has a value (a change between frames has none for frame 0).
    """

    first: int = 0
    span: int = 1  # frames per entry of the lists
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    _sums: list[float] = field(default_factory=list)
    count: int = 0  # values so far

    def extend(self, values: Iterable[float]) -> None:
        for value in values:
            self._add(value)

    @property
    def lengths(self) -> list[int]:
        """Frames of each span: all `span`, but for the last."""
        return [min(self.span, self.count - start) for start in range(0, self.count, self.span)]

    @property
    def mean(self) -> list[float]:
        """Mean of each span."""
        return [total / length for total, length in zip(self._sums, self.lengths, strict=True)]

    @property
    def centres(self) -> list[float]:
        """The frame number in the middle of each span."""
        starts = range(0, self.count, self.span)
        return [self.first + (start + min(start + self.span, self.count) - 1) / 2 for start in starts]

    def _add(self, value: float) -> None:
        if self.count % self.span:
            self.low[-1] = min(self.low[-1], value)
            self.high[-1] = max(self.high[-1], value)
            self._sums[-1] += value
        else:
            if len(self._sums) == CAPACITY:
                self._halve()
            self.low.append(value)
            self.high.append(value)
            self._sums.append(value)
        self.count += 1

    def _halve(self) -> None:
        """Join pairs of spans. CAPACITY is even and all are full, so pairs come out even."""
        self.low = [min(pair) for pair in zip(self.low[::2], self.low[1::2], strict=True)]
        self.high = [max(pair) for pair in zip(self.high[::2], self.high[1::2], strict=True)]
        self._sums = [sum(pair) for pair in zip(self._sums[::2], self._sums[1::2], strict=True)]
        self.span *= 2
