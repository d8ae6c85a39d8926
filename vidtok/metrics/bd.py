"""Bjontegaard deltas of two rate-distortion curves (Bjontegaard 2001; VCEG-M33), with numpy alone.

    BD-rate     how much more rate the test curve takes for the same quality, percent: below 0 it is better
    BD-quality  how much more quality it has at the same rate, in units of the metric: above 0 it is better

Rates go to log10. Both curves are integrated over the range they share, and the difference is divided by its length.
`pchip` interpolates piecewise (Fritsch and Carlson 1980, as SciPy does), `cubic` is one polynomial by least squares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vidtok.errors import UnknownNameError, UsageError

Array = np.ndarray[Any, Any]
METHODS = ("pchip", "cubic")
LEAST = {"pchip": 2, "cubic": 4}


@dataclass(frozen=True)
class Curve:
    """Points of one coder: rates above 0 and qualities, more is better, in any order."""

    rates: tuple[float, ...]
    qualities: tuple[float, ...]

    def __post_init__(self) -> None:
        values = np.array([*self.rates, *self.qualities], np.float64)
        if len(self.rates) != len(self.qualities) or not np.isfinite(values).all() or min(self.rates, default=1) <= 0:
            raise UsageError("a curve needs a finite quality for every rate, and rates above 0")

    @property
    def points(self) -> tuple[Array, Array]:
        """(log10 of rates, qualities), sorted by rate."""
        order = np.argsort(self.rates, kind="stable")
        return np.log10(np.array(self.rates, np.float64)[order]), np.array(self.qualities, np.float64)[order]

    def check(self, method: str) -> None:
        """UsageError if no curve of this kind goes through the points."""
        if method not in METHODS:
            raise UnknownNameError("way to interpolate", method, METHODS)
        if len(self.rates) < LEAST[method]:
            raise UsageError(f"{len(self.rates)} points; {method} needs at least {LEAST[method]}")
        rates, qualities = self.points
        if (np.diff(rates) <= 0).any() or (np.diff(qualities) <= 0).any():
            raise UsageError("quality does not rise with rate from point to point")


@dataclass(frozen=True)
class Overlap:
    """The range two curves share; `share` of the range that either covers, 0..1."""

    low: float
    high: float
    share: float


def quality_overlap(anchor: Curve, test: Curve) -> Overlap:
    """In quality; UsageError where there is none."""
    return _overlap(anchor.qualities, test.qualities, "quality")


def rate_overlap(anchor: Curve, test: Curve) -> Overlap:
    """In rate (not its logarithm; `share` is of logarithms); UsageError where there is none."""
    logs = _overlap(np.log10(anchor.rates).tolist(), np.log10(test.rates).tolist(), "rate")
    return Overlap(10**logs.low, 10**logs.high, logs.share)


def bd_rate(anchor: Curve, test: Curve, method: str = "pchip") -> float:
    """Percent of rate more (less: negative) at equal quality. UsageError where curves share no quality."""
    for curve in (anchor, test):
        curve.check(method)
    both = quality_overlap(anchor, test)
    means = [_mean(qualities, rates, both, method) for rates, qualities in (anchor.points, test.points)]
    return float((10 ** (means[1] - means[0]) - 1) * 100)


def bd_quality(anchor: Curve, test: Curve, method: str = "pchip") -> float:
    """Quality more (less: negative) at equal rate. UsageError where curves share no rate."""
    for curve in (anchor, test):
        curve.check(method)
    both = _overlap(anchor.points[0], test.points[0], "rate")
    means = [_mean(rates, qualities, both, method) for rates, qualities in (anchor.points, test.points)]
    return means[1] - means[0]


def _overlap(a: Sequence[float] | Array, b: Sequence[float] | Array, what: str) -> Overlap:
    if not len(a) or not len(b):
        raise UsageError("a curve without points")
    low, high = max(min(a), min(b)), min(max(a), max(b))
    if low >= high:
        kind = f"{what}s" if what == "rate" else "qualities"
        raise UsageError(f"the {kind} do not overlap: {min(a):.4g}..{max(a):.4g} and {min(b):.4g}..{max(b):.4g}")
    whole = max(max(a), max(b)) - min(min(a), min(b))
    return Overlap(float(low), float(high), float((high - low) / whole))


def _mean(x: Array, y: Array, over: Overlap, method: str) -> float:
    """Mean of the curve through (x, y), x rising, over a range inside it."""
    integral: Callable[[Array, Array, float, float], float] = _pchip if method == "pchip" else _cubic
    return integral(x, y, over.low, over.high) / (over.high - over.low)


def _cubic(x: Array, y: Array, low: float, high: float) -> float:
    polynomial = np.polynomial.Polynomial.fit(x, y, 3).integ()
    return float(polynomial(high) - polynomial(low))


def _pchip(x: Array, y: Array, low: float, high: float) -> float:
    """Integral of the piecewise cubic Hermite interpolation."""
    h, slopes = np.diff(x), _slopes(x, y)
    total = 0.0
    for i, width in enumerate(h):
        a, b = max(low, x[i]) - x[i], min(high, x[i + 1]) - x[i]
        if b <= a:
            continue
        rise = (y[i + 1] - y[i]) / width
        second = (3 * rise - 2 * slopes[i] - slopes[i + 1]) / width
        third = (slopes[i] + slopes[i + 1] - 2 * rise) / width**2
        terms = (y[i], slopes[i] / 2, second / 3, third / 4)
        total += sum(c * (b ** (n + 1) - a ** (n + 1)) for n, c in enumerate(terms))
    return float(total)


def _slopes(x: Array, y: Array) -> Array:
    """Slopes at the points that keep the curve as monotonic as they are."""
    h = np.diff(x)
    rise = np.diff(y) / h
    if len(rise) == 1:
        return np.repeat(rise, 2)
    slopes = np.zeros(len(x))
    left, right = rise[:-1], rise[1:]
    w1, w2 = 2 * h[1:] + h[:-1], h[1:] + 2 * h[:-1]
    same = left * right > 0
    slopes[1:-1][same] = (w1 + w2)[same] / (w1[same] / left[same] + w2[same] / right[same])
    slopes[0] = _end(h[0], h[1], rise[0], rise[1])
    slopes[-1] = _end(h[-1], h[-2], rise[-1], rise[-2])
    return slopes


def _end(h0: float, h1: float, rise0: float, rise1: float) -> float:
    """Three-point slope at an end, kept from overshooting."""
    slope = ((2 * h0 + h1) * rise0 - h0 * rise1) / (h0 + h1)
    if slope * rise0 <= 0:
        return 0.0
    if rise0 * rise1 <= 0 and abs(slope) > 3 * abs(rise0):
        return 3 * rise0
    return slope
