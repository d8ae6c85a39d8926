"""Metrics of sets of clips: features of all clips -> one value, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vidtok.metrics.frechet import Gaussian, distance, distance_of_rows
from vidtok.metrics.fvd import DIALECTS

Array = np.ndarray[Any, Any]
Row = dict[str, Any]


def fvd_of(name: str, clips: Sequence[Array]) -> float:
    """FVD in the dialect `name` between the two sides of features (samples, 2, 400) of clips, two samples at least."""
    rows = np.concatenate(clips)
    return distance_of_rows(rows[:, 0], rows[:, 1], population=DIALECTS[name].population)


def fvd_row(name: str, clips: Sequence[Array], frames: int) -> Row:
    """{fvd, fvd_samples}, or null and the reason where there are fewer than two samples of `frames` frames."""
    samples = sum(len(rows) for rows in clips)
    if samples < 2:
        why = f"{samples} samples of {frames} frames; a distance of sets needs at least 2"
        return {name: None, f"{name}_samples": samples, f"{name}_missing": why}
    return {name: fvd_of(name, clips), f"{name}_samples": samples}


def fid_row(pair: tuple[Gaussian, Gaussian]) -> Row:
    """{fid, fid_samples}, or null and the reason where there are fewer than two frames."""
    count = pair[0].count
    if count < 2:
        return {"fid": None, "fid_samples": count, "fid_missing": f"{count} frames; at least 2 are needed"}
    return {"fid": distance(*pair), "fid_samples": count}


def too_few(name: str, samples: int) -> str:
    """The warning about a distance from fewer samples than features have dimensions; "" where there are enough."""
    dimensions = 2048 if name == "fid" else 400
    if samples > dimensions:
        return ""
    return (
        f"{name} is from {samples} samples; below {dimensions + 1} its covariances are incomplete and the value is "
        f"too high by an unknown part: compare equal numbers of samples only"
    )
