"""The Frechet distance between Gaussians fitted to features, in float64 (Dowson and Landau 1982).

    |mean_a - mean_b|^2 + tr(S_a) + tr(S_b) - 2 tr((S_a S_b)^(1/2))

With S_a = A A^T and S_b = B B^T the last trace is the sum of the singular values of A^T B. That is exact for any
number of samples: no square root of a product of rank-deficient matrices is ever taken, which is where public code
differs by percents or breaks down. A and B are the centred features themselves, or come from eigenvectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class Gaussian:
    """Count, mean and scatter of rows pushed in any number of pieces (Chan et al. 1979). Memory: D^2."""

    def __init__(self, dimensions: int) -> None:
        self.count = 0
        self.mean = np.zeros(dimensions)
        self.scatter = np.zeros((dimensions, dimensions))

    def update(self, rows: Array) -> None:
        """Add rows (N, D)."""
        if len(rows):
            rows = np.asarray(rows, np.float64)
            mean = rows.mean(0)
            centred = rows - mean
            self._add(len(rows), mean, centred.T @ centred)

    def merge(self, other: Gaussian) -> None:
        """Add what another has seen."""
        if other.count:
            self._add(other.count, other.mean, other.scatter)

    def covariance(self, *, population: bool = False) -> Array:
        """(D, D) with divisor N - 1, or N for the population."""
        return self.scatter / (self.count if population else self.count - 1)

    def _add(self, count: int, mean: Array, scatter: Array) -> None:
        total = self.count + count
        shift = mean - self.mean
        self.scatter += scatter + np.outer(shift, shift) * (self.count * count / total)
        self.mean += shift * (count / total)
        self.count = total


def distance(a: Gaussian, b: Gaussian, *, population: bool = False) -> float:
    """Between two Gaussians of at least two rows each."""
    s, t = (g.covariance(population=population) for g in (a, b))
    shift = a.mean - b.mean
    overlap = float(np.linalg.svd(_factor(s).T @ _factor(t), compute_uv=False).sum())
    return max(0.0, float(shift @ shift + np.trace(s) + np.trace(t)) - 2 * overlap)


def distance_of_rows(x: Array, y: Array, *, population: bool = False) -> float:
    """Between features (N, D) and (M, D), at least two rows each; quick where there are fewer rows than D."""
    if max(len(x), len(y)) > x.shape[1]:
        pair = []
        for rows in (x, y):
            pair.append(Gaussian(rows.shape[1]))
            pair[-1].update(rows)
        return distance(*pair, population=population)
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    shift = x.mean(0) - y.mean(0)
    a, b = ((rows - rows.mean(0)) / np.sqrt(len(rows) - (not population)) for rows in (x, y))
    overlap = float(np.linalg.svd(a @ b.T, compute_uv=False).sum())
    return max(0.0, float(shift @ shift + np.square(a).sum() + np.square(b).sum()) - 2 * overlap)


def _factor(covariance: Array) -> Array:
    """A (D, rank) with A A^T = covariance; directions that are only rounding are left out."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    factor: Array = vectors[:, kept] * np.sqrt(values[kept])
    return factor
