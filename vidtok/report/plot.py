"""Line plots as inline SVG, made to be read on a phone: 400 units wide, letters of 13.

Curves differ in colour, in marker and in dash, by the classes c0 .. c7 of the style sheet and the shapes here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from vidtok.report.escape import name, number, text

WIDTH, HEIGHT = 400, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 20, 14, 44
COLOURS = 8
POINTWISE = ("x", "y", "low", "high", "words")  # the fields of a Curve that have an entry per point
DASHES = ("", "7 4", "2 3", "10 3 2 3")
MARKED = 30  # points of a curve up to which each has a marker and a title


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points in the order they are joined. `low`, `high`: a band (frames) or whiskers (`whiskers`) at each point;
    `words`: what is said of each point."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    words: Sequence[str] = ()
    whiskers: bool = False
    joined: bool = True


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A label, and how values become places."""

    label: str
    log: bool = False
    whole: bool = False  # only whole numbers are marked
    include: tuple[float, ...] = ()  # values that are on the axis whether there is a point or not


def line_plot(curves: Sequence[Curve], x: Axis, y: Axis, *, title: str, cursor: bool = False) -> str:
    """The plot, or "" where there is no point. `cursor`: a line that a script may move along x."""
    curves = [_finite(curve) for curve in curves]
    xs = [value for curve in curves for value in curve.x]
    ys = [v for curve in curves for v in (*curve.y, *curve.low, *curve.high) if v is not None]
    if not xs:
        return ""
    across = _Scale(xs, x, LEFT, WIDTH - RIGHT)
    up = _Scale(ys, y, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(title)}"'
        f' data-x0="{across.low:.6g}" data-x1="{across.high:.6g}" data-left="{LEFT}" data-right="{WIDTH - RIGHT}">'
    ]
    parts += _grid(across, up, x, y)
    for i, curve in enumerate(curves):
        parts += _curve(curve, i, across, up)
    if cursor:
        parts.append(f'<line class="cursor" x1="{LEFT}" x2="{LEFT}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    return "".join([*parts, "</svg>"])


def legend(names: Sequence[str]) -> str:
    """A list of the curves with their colours, dashes and markers; "" for one curve."""
    if len(names) < 2:
        return ""
    items = []
    for i, label in enumerate(names):
        line = f'<line class="c{i % COLOURS}" x1="1" x2="33" y1="7" y2="7"{_dash(i)}/>'
        items.append(
            f'<li><svg class="key" viewBox="0 0 34 14" aria-hidden="true">{line}{_marker(i, 17, 7)}</svg> '
            f"{name(label)}</li>"
        )
    return f'<ul class="legend">{"".join(items)}</ul>'


def ticks(low: float, high: float, count: int = 5, whole: bool = False) -> list[float]:
    """Round numbers within [low, high], about `count` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    if whole:
        step = max(1.0, math.ceil(step))
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, 20, ... within [low, high]; only powers of ten where that would be many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(powers) < 4 else (1,)
    found = [m * 10.0**p for p in powers for m in steps]
    return [v for v in found if low * 0.999 <= v <= high * 1.001] or [low, high]


class _Scale:
    """Values of an axis -> places between `start` and `end`, a little room at both ends."""

    def __init__(self, values: Sequence[float], axis: Axis, start: float, end: float) -> None:
        values = [*values, *axis.include]
        low, high = min(values), max(values)
        self.log = axis.log and low > 0
        if high == low:
            room = 0.5 if axis.whole else abs(low) * 0.05 or 0.5
            low, high = (low / 1.5, high * 1.5) if self.log else (low - room, high + room)
        else:
            low, high = self._widen(low, high)
        self.low, self.high, self._start, self._end = low, high, start, end
        self.ticks = log_ticks(low, high) if self.log else ticks(low, high, whole=axis.whole)

    def _widen(self, low: float, high: float) -> tuple[float, float]:
        if self.log:
            factor = (high / low) ** 0.05
            return low / factor, high * factor
        room = (high - low) * 0.05
        return low - room, high + room

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self._start + (value - low) / (high - low) * (self._end - self._start)


def _finite(curve: Curve) -> Curve:
    """Without points that have no place."""
    kept = [i for i, (x, y) in enumerate(zip(curve.x, curve.y, strict=True)) if math.isfinite(x) and math.isfinite(y)]
    if len(kept) == len(curve.x):
        return curve
    lists: dict[str, Any] = {name: getattr(curve, name) for name in POINTWISE}
    lists = {name: [values[i] for i in kept] for name, values in lists.items() if values}
    return replace(curve, **lists)


def _grid(across: _Scale, up: _Scale, x: Axis, y: Axis) -> list[str]:
    bottom = HEIGHT - BOTTOM
    parts = ['<g aria-hidden="true">']
    for value in up.ticks:
        place = up(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place:.1f}" y2="{place:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{place + 4:.1f}" text-anchor="end">{_short(value, up)}</text>')
    for value in across.ticks:
        place = across(value)
        parts.append(f'<line class="grid" x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(f'<text x="{place:.1f}" y="{bottom + 17}" text-anchor="middle">{_short(value, across)}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{WIDTH - RIGHT}"/>')
    parts.append(
        f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">'
        f"{text(x.label)}</text></g>"
    )
    return parts


def _short(value: float, scale: _Scale) -> str:
    """A tick as text, all of an axis with as many digits as say them exactly."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6 or abs(value) < 1e-4:
        return f"{value:.0e}"
    own = [value] if scale.log else scale.ticks
    return f"{value:.{max(map(_places, own))}f}"


def _places(value: float) -> int:
    """Digits after the point that a round number needs, at most 6."""
    near = 1e-9 * max(abs(value), 1e-6)
    return next((places for places in range(6) if abs(round(value, places) - value) <= near), 6)


def _curve(curve: Curve, i: int, across: _Scale, up: _Scale) -> list[str]:
    points = [(across(x), up(y)) for x, y in zip(curve.x, curve.y, strict=True)]
    parts = [f'<g class="c{i % COLOURS}">']
    if curve.low and not curve.whiskers and any(a != b for a, b in zip(curve.low, curve.high, strict=True)):
        parts.append(_band(curve, across, up))
    if curve.joined and len(points) > 1:
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path class="line" d="M{path}"{_dash(i)}/>')
    if curve.whiskers:
        parts += [_whisker(x, up(a), up(b)) for (x, _), a, b in _bounds(points, curve)]
    if len(points) <= MARKED or not curve.joined:
        for n, (x, y) in enumerate(points):
            words = curve.words[n] if curve.words else f"{curve.name}: {number(float(curve.y[n]))}"
            parts.append(f"<g>{_marker(i, x, y)}<title>{text(words)}</title></g>")
    return [*parts, "</g>"]


def _bounds(
    points: Sequence[tuple[float, float]], curve: Curve
) -> list[tuple[tuple[float, float], float, float]]:
    """The points that have both a low and a high."""
    rows = zip(points, curve.low, curve.high, strict=True) if curve.low else []
    return [(point, a, b) for point, a, b in rows if a is not None and b is not None]


def _band(curve: Curve, across: _Scale, up: _Scale) -> str:
    rows = [(across(x), up(a), up(b)) for (x, _), a, b in _bounds(list(zip(curve.x, curve.y, strict=True)), curve)]
    there = [f"{x:.1f} {b:.1f}" for x, _, b in rows]
    back = [f"{x:.1f} {a:.1f}" for x, a, _ in reversed(rows)]
    return f'<path class="band" d="M{"L".join(there + back)}Z"/>'


def _whisker(x: float, low: float, high: float) -> str:
    ends = "".join(f"M{x - 4:.1f} {y:.1f}h8" for y in (low, high))
    return f'<path class="whisker" d="M{x:.1f} {low:.1f}V{high:.1f}{ends}"/>'


def _dash(i: int) -> str:
    dash = DASHES[(i // COLOURS + i) % len(DASHES)]
    return f' stroke-dasharray="{dash}"' if dash else ""


def _marker(i: int, x: float, y: float) -> str:
    """A filled shape of about 8 units."""
    shapes = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>',
        f'<rect x="{x - 3.6:.1f}" y="{y - 3.6:.1f}" width="7.2" height="7.2"/>',
        f'<path d="M{x:.1f} {y - 5:.1f}l4.6 8.4h-9.2z"/>',
        f'<path d="M{x:.1f} {y - 5.2:.1f}l5.2 5.2l-5.2 5.2l-5.2-5.2z"/>',
        f'<path d="M{x:.1f} {y + 5:.1f}l4.6-8.4h-9.2z"/>',
    )
    return f'<g class="mark c{i % COLOURS}">{shapes[i % len(shapes)]}</g>'
