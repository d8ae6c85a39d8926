"""What a page shows, as plain data: numpy arrays, bytes, numbers and names, nothing that is open or running."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from vidtok.errors import UsageError
from vidtok.metrics import LOWER_IS_BETTER
from vidtok.report.series import Series

Row = Mapping[str, Any]

DIFFERENCE_GAIN = 4  # (result - source) * gain + 128 is what pictures of a difference hold


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """How much of the clips a page carries: what bounds its size, and the memory and disk of a run."""

    frames: int = 48  # preview frames of a clip and run, evenly spaced; 0: no pictures at all
    clips: int = 12  # clips with players and plots, the worst ones; all are in the tables
    side: int = 480  # pixels of the longer side of a preview, never enlarged

    def __post_init__(self) -> None:
        limits = {"frames": (0, 10_000), "clips": (0, 10_000), "side": (16, 4096)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise UsageError(f"--report-{name} {value}: {low} to {high}")

    @property
    def picture_bytes(self) -> int:
        """What a preview picture may take: 23 kB at a side of 480, about 1.4 bits per pixel of 16:9."""
        return max(2000, self.side * self.side // 10)


@dataclass(frozen=True, kw_only=True)
class Preview:
    """One frame of source, result and difference as JPEG files; `values` has its metrics."""

    frame: int
    source: bytes
    result: bytes
    difference: bytes
    values: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class TokenMap:
    """A number for each cell, or block of cells, of one stage over the whole clip: (h, w) float32, >= 0."""

    stage: int
    name: str  # "changes" or "entropy"
    values: npt.NDArray[np.float32]
    most: float  # the end of the scale


@dataclass(frozen=True, kw_only=True)
class ClipDetail:
    """One clip of one run. `score` ranks clips, lower is worse."""

    path: str
    run: str
    frames: int
    width: int
    height: int
    rate: float | None  # frames per second
    score: float
    preview_width: int
    preview_height: int
    series: dict[str, Series] = field(default_factory=dict)
    previews: tuple[Preview, ...] = ()
    worst: tuple[Preview, ...] = ()  # the worst frame first
    worst_by: str | None = None  # the metric that says so
    maps: tuple[TokenMap, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Report:
    """A page: all rows as `evaluate` or `compare` gives them, and details of some clips, runs of a clip together.

    `provenance`: what is needed to run it again, name -> value or mapping. `clips` may be some of those that rows
    are about; it is gone through more than once (a list, or a Recorder).
    """

    title: str
    rows: Sequence[Row]
    dialects: Mapping[str, str]
    provenance: Mapping[str, Any]
    clips: Iterable[ClipDetail] = ()

    @property
    def clip_rows(self) -> list[Row]:
        return [row for row in self.rows if not row.get("summary") and "error" not in row and "path" in row]

    @property
    def compared(self) -> bool:
        """Whether this is about two videos, and not about runs over clips."""
        return not any(row.get("summary") for row in self.rows)

    @property
    def failures(self) -> list[Row]:
        return [row for row in self.rows if "error" in row]

    @property
    def summaries(self) -> list[Row]:
        """The summary rows; of two videos that were compared, the row itself."""
        return [row for row in self.rows if row.get("summary") and run_label(row)] or self.clip_rows

    @property
    def deltas(self) -> list[Row]:
        """Bjontegaard deltas between curves."""
        return [row for row in self.rows if row.get("bd")]

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that rows have, in order: numbers with a dialect, or without a value."""
        names = dict.fromkeys(name for name in self.dialects if name != "tokens")
        rows = [*self.summaries, *self.clip_rows]
        names |= dict.fromkeys(key.removesuffix("_missing") for row in rows for key in row if key.endswith("_missing"))
        return [name for name in names if any(name in row for row in rows)]


def run_label(row: Row) -> str:
    """What measured this row: 'vidtok-2 q3', 'x264:preset=medium crf 23'; '' where it does not say."""
    quality = row.get("quality")
    if quality is None:
        return series_label(row)
    return f"{series_label(row)} crf {quality:g}" if row.get("codec") else f"{series_label(row)} q{quality}"


def series_label(row: Row) -> str:
    """The curve a row is a point of: the model, or the codec with all that is the same at every rate."""
    return str(row.get("codec") or row.get("model") or row.get("other") or "")


def lower_is_better(metric: str) -> bool:
    return metric in LOWER_IS_BETTER
