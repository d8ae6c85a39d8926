"""Summaries at several rates -> rate-distortion curves, and Bjontegaard deltas of every metric against an anchor."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from vidtok.errors import UnknownNameError, UsageError
from vidtok.evaluation.options import Row
from vidtok.evaluation.runs import Run
from vidtok.evaluation.summary import interval
from vidtok.metrics import LOWER_IS_BETTER, SET_METRICS
from vidtok.metrics.bd import METHODS, Curve, bd_quality, bd_rate, quality_overlap, rate_overlap


def curves_of(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows of summaries by coder (model, or codec with its preset), by rising bpp; coders at one rate left out."""
    curves: dict[str, list[Row]] = {}
    for row in rows:
        if row.get("bpp"):
            curves.setdefault(coder_of(row), []).append(row)
    return {name: sorted(rows, key=lambda row: float(row["bpp"])) for name, rows in curves.items() if len(rows) > 1}


def coder_of(row: Row) -> str:
    """The model, or the codec with its preset."""
    return str(row.get("model") or row.get("codec"))


def choose_anchor(wanted: str, runs: Sequence[Run]) -> str:
    """The coder that others are compared with: by name (or its beginning), else the first codec, else the first
    model, of those at several rates; "" if there is none. UnknownNameError where `wanted` is not among them."""
    rates = Counter(run.name for run in runs)
    several = [name for name, count in rates.items() if count > 1]
    if wanted:
        found = [name for name in several if name == wanted] or [name for name in several if name.startswith(wanted)]
        if not found:
            raise UnknownNameError("anchor (a coder at several rates)", wanted, several)
        return found[0]
    codecs = [run.name for run in runs if "codec" in run.head and run.name in several]
    return next(iter([*codecs, *several]), "")


def deltas(clips: Iterable[Row], summaries: Iterable[Row], metrics: Sequence[str], anchor: str) -> Iterator[Row]:
    """A row for every metric of every other coder: {bd: True, anchor, test, metric, bd_rate, bd_quality, ...}.

    `clips` and `summaries` are rows of clips and of runs. Of the curves through the means over clips; `bd_rate_clips`
    is the mean of the deltas of single clips. Nothing where the anchor has no curve.
    """
    curves, own = curves_of(summaries), list(clips)
    if anchor not in curves:
        return
    for test in curves:
        for metric in metrics if test != anchor else ():
            if metric != "tokens":
                row = {"bd": True, "anchor": anchor, "test": test, "metric": metric}
                yield row | _delta(curves[anchor], curves[test], metric) | _by_clip(own, anchor, test, metric)


def _delta(anchor: Sequence[Row], test: Sequence[Row], metric: str) -> Row:
    """Each of the two deltas is there where the curves share what it is integrated over: quality, or rate."""
    try:
        pair = curve(anchor, metric), curve(test, metric)
    except UsageError as exc:
        return dict.fromkeys(("bd_rate", "bd_quality")) | {"bd_rate_missing": str(exc), "bd_quality_missing": str(exc)}
    row: Row = {}
    with contextlib.suppress(UsageError):
        both = quality_overlap(*pair)
        row |= {"overlap": _in_units(both.low, both.high, metric), "overlap_share": both.share}
    with contextlib.suppress(UsageError):
        rates = rate_overlap(*pair)
        row |= {"rate_overlap": [rates.low, rates.high], "rate_overlap_share": rates.share}
    for method in METHODS:
        for name, delta in (("bd_rate", bd_rate), ("bd_quality", bd_quality)):
            key = name if method == METHODS[0] else f"{name}_{method}"
            try:
                row[key] = delta(*pair, method)
            except UsageError as exc:
                row |= {key: None, f"{key}_missing": str(exc)}
    return row


def _by_clip(rows: Sequence[Row], anchor: str, test: str, metric: str) -> Row:
    if metric in SET_METRICS:
        return {}
    clips: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        if coder_of(row) in (anchor, test):
            clips.setdefault(row["path"], {}).setdefault(coder_of(row), []).append(row)
    found = []
    for both in clips.values():
        try:
            found.append(bd_rate(curve(both.get(anchor, []), metric), curve(both.get(test, []), metric)))
        except UsageError:
            continue  # this clip's curves share nothing; `clips` says how many do
    deltas: Row = {"clips": len(clips), "clips_overlapping": len(found)}
    deltas |= {"bd_rate_clips": float(np.mean(found)) if found else None}
    return deltas | ({"bd_rate_clips_interval": interval(found)} if len(found) > 1 else {})


def curve(rows: Sequence[Row], metric: str) -> Curve:
    """Through bpp and a metric, turned round where less is better; UsageError with fewer than two points."""
    have = [row for row in rows if row.get(metric) is not None]
    sign = -1 if metric in LOWER_IS_BETTER else 1
    if len(have) < 2:
        raise UsageError(f"{len(have)} points have {metric}; a curve needs at least 2")
    return Curve(tuple(float(row["bpp"]) for row in have), tuple(sign * float(row[metric]) for row in have))


def _in_units(low: float, high: float, metric: str) -> list[float]:
    return [-high, -low] if metric in LOWER_IS_BETTER else [low, high]
