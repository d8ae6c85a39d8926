"""`--resize 256` (short side), `--resize 640x360` and `--resize 256x256:crop` (the centre)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from vidtok.errors import UsageError

LARGEST_SIDE = 65535


@dataclass(frozen=True)
class Resize:
    """A wish for a size; `short` alone keeps the aspect, otherwise `width` x `height`, stretched or, with `crop`, the
    centre of a picture that is scaled to cover it.

    Never enlarges unless `enlarge`. Shrinking averages areas, enlarging is bicubic.
    """

    short: int | None = None
    width: int | None = None
    height: int | None = None
    enlarge: bool = False
    crop: bool = False

    @classmethod
    def parse(cls, text: str, enlarge: bool = False) -> Resize:
        """Resize of "N", "WxH" or "WxH:crop"; UsageError otherwise."""
        found = re.fullmatch(r"(\d{1,5})(?:[xX](\d{1,5})(:crop)?)?", text.strip())
        sides = [int(n) for n in found.groups()[:2] if n] if found else []
        if not sides or not all(1 <= n <= LARGEST_SIDE for n in sides):
            raise UsageError(
                f"size {text!r} is not N, WxH or WxH:crop with sides of 1 to {LARGEST_SIDE}; e.g. 256 or 640x360"
            )
        if len(sides) == 1:
            return cls(short=sides[0], enlarge=enlarge)
        return cls(width=sides[0], height=sides[1], enlarge=enlarge, crop=bool(found and found[3]))

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) that upright frames of width x height get."""
        if self.short is not None:
            return self._by_short_side(width, height)
        assert self.width is not None and self.height is not None
        if self.enlarge:
            return self.width, self.height
        return min(self.width, width), min(self.height, height)

    def scaled(self, width: int, height: int) -> tuple[int, int]:
        """The size before the centre is cut out; without `crop` that of the result."""
        if not self.crop:
            return self.size(width, height)
        assert self.width is not None and self.height is not None
        scale = max(Fraction(self.width, width), Fraction(self.height, height))
        if scale > 1 and not self.enlarge:
            return width, height
        return max(self.width, round(width * scale)), max(self.height, round(height * scale))

    def _by_short_side(self, width: int, height: int) -> tuple[int, int]:
        assert self.short is not None
        short = min(width, height)
        if short == self.short or (short < self.short and not self.enlarge):
            return width, height
        long = Fraction(max(width, height) * self.short, short)
        other = self.short if width == height else max(2, 2 * round(long / 2))
        other = min(other, LARGEST_SIDE)
        return (self.short, other) if width <= height else (other, self.short)
