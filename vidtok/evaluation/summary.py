"""Rows of one run -> its summary: means over clips, worst clips, intervals, and metrics of the whole set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vidtok.evaluation.clip import TOKEN_KEYS
from vidtok.evaluation.options import EvalOptions, Row, Warn
from vidtok.evaluation.runs import Run
from vidtok.metrics import LOWER_IS_BETTER, SET_METRICS, TokenStatistics
from vidtok.metrics.fid import FEATURES as FID_FEATURES
from vidtok.metrics.frechet import Gaussian
from vidtok.metrics.sets import fid_row, fvd_of, fvd_row, too_few

RESAMPLES = 1000
SET_RESAMPLES = 100
LEVEL = (2.5, 97.5)  # percentiles: a 95 % interval
BLOCK = 2**22

Array = np.ndarray[Any, Any]


class Summary:
    """Collects the rows of one run. `missing`: metrics of sets that cannot be had, with the reason."""

    def __init__(self, run: Run, options: EvalOptions, missing: Mapping[str, str]) -> None:
        self.run, self._options, self._missing = run, options, dict(missing)
        self.rows: list[Row] = []
        self._failed = 0
        self._tokens: TokenStatistics | None = None
        self._features: dict[str, list[Array]] = {}  # a (samples, 2, D) for every clip
        self._frames: tuple[Gaussian, Gaussian] = (Gaussian(0), Gaussian(0))

    def add(self, row: Row) -> Row:
        """Take a row with its `state`; the row without it."""
        state = row.pop("state", {})
        self.rows.append(row)
        if "tokens" in state:
            counted = TokenStatistics.unpacked(state["tokens"])
            if self._tokens is None:
                self._tokens = counted
            else:
                self._tokens.merge(counted)
        for name, found in state.items():
            if name == "fid":
                self._add_frames(found)
            elif name != "tokens":
                self._features.setdefault(name, []).append(found)
        return row

    def without(self, name: str, reason: str) -> None:
        """A metric of the set cannot be had any more."""
        self._missing.setdefault(name, reason)

    def failure(self, path: str, reason: str) -> Row:
        self._failed += 1
        return {"path": path} | self.run.head | {"error": reason}

    def result(self, warn: Warn) -> Row:
        """Means over clips; `METRIC_worst` is the worst value, `METRIC_worst_path` the clip with it,
        `METRIC_interval` a 95 % bootstrap interval of the mean over clips."""
        rows = self.rows
        row: Row = {"summary": True} | self.run.head
        row |= {"clips": len(rows), "failed": self._failed, "frames": sum(r["frames"] for r in rows)}
        row |= {"bpp": _mean(rows, "bpp"), "file_bytes": sum(r["file_bytes"] for r in rows)}
        row |= _interval(rows, "bpp")
        for name in self._options.metrics:
            if name in SET_METRICS:
                row |= self._of_set(name, warn)
            elif name != "tokens":
                row |= _summarise(rows, name)
        if self._tokens is not None:
            pooled = self._tokens.result()
            row |= {key: pooled[key] for key in TOKEN_KEYS}
        return row | {key: _mean([r for r in rows if r[key] is not None], key) for key in ("encode_fps", "decode_fps")}

    def _add_frames(self, pair: tuple[Gaussian, Gaussian]) -> None:
        if not self._frames[0].count:
            self._frames = Gaussian(FID_FEATURES), Gaussian(FID_FEATURES)
        for mine, theirs in zip(self._frames, pair, strict=True):
            mine.merge(theirs)

    def _of_set(self, name: str, warn: Warn) -> Row:
        if name in self._missing:
            return {name: None, f"{name}_missing": self._missing[name]}
        clips = [rows for rows in self._features.get(name, []) if len(rows)]
        row = fid_row(self._frames) if name == "fid" else fvd_row(name, clips, self._options.fvd.frames)
        if row[name] is None:
            return row
        if words := too_few(name, row[f"{name}_samples"]):
            warn(words)
        return row | ({} if name == "fid" else _set_interval(name, clips, row[name]))


def _summarise(rows: Sequence[Row], name: str) -> Row:
    """Mean, interval, worst value and worst clip of a metric over the clips that have it."""
    have = [row for row in rows if row[name] is not None]
    found: Row = {name: _mean(have, name)}
    if have:
        worst = (max if name in LOWER_IS_BETTER else min)(have, key=lambda row: float(row[name]))
        found |= {f"{name}_worst": worst[name], f"{name}_worst_path": worst["path"]}
        found |= _interval(have, name)
    if len(have) < len(rows):
        reason = next(row[f"{name}_missing"] for row in rows if row[name] is None)
        found[f"{name}_missing"] = f"{len(rows) - len(have)} of {len(rows)} clips: {reason}"
    elif not rows:
        found[f"{name}_missing"] = "no clip could be measured"
    return found


def _mean(rows: Sequence[Row], key: str) -> float | None:
    return sum(row[key] for row in rows) / len(rows) if rows else None


def _interval(rows: Sequence[Row], key: str) -> Row:
    """{KEY_interval: [low, high]}, nothing with one clip."""
    return {f"{key}_interval": interval([float(row[key]) for row in rows])} if len(rows) > 1 else {}


def interval(values: Sequence[float]) -> list[float]:
    """95 % of the means of 1000 resamples with replacement; the same for the same values."""
    array, rng = np.array(values, np.float64), np.random.default_rng(0)
    block = max(1, BLOCK // len(array))
    means = [
        array[rng.integers(0, len(array), (min(block, RESAMPLES - i), len(array)))].mean(1)
        for i in range(0, RESAMPLES, block)
    ]
    return [float(v) for v in np.percentile(np.concatenate(means), LEVEL)]


def _set_interval(name: str, clips: Sequence[Array], found: float) -> Row:
    """Clips are resampled, not samples. Sets with repeats are farther apart, so the spread is put round the value."""
    if len(clips) < 3:
        return {}
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, len(clips), len(clips)) for _ in range(SET_RESAMPLES)]
    values = np.array([fvd_of(name, [clips[i] for i in draw]) for draw in draws])
    low, high = np.percentile(values - values.mean(), LEVEL) + found
    return {f"{name}_interval": [max(0.0, float(low)), float(high)]}
