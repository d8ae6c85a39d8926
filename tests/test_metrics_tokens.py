"""Token statistics: exact against plain numpy, for any vocabulary, within bounded memory."""

from __future__ import annotations

import numpy as np
import pytest

import vidtok.metrics.statistics as statistics
from vidtok.metrics import TokenStatistics


def plain(ids: np.ndarray, vocabulary: int) -> dict[str, float]:
    _, counts = np.unique(ids, return_counts=True)
    p = counts / counts.sum()
    entropy = float(-(p * np.log2(p)).sum())
    used = len(counts)
    return {"used": used, "usage": used / vocabulary, "entropy": entropy, "perplexity": 2**entropy}


@pytest.mark.parametrize("vocabulary", [2, 1000, 2**16, 2**20 + 1, 2**36])
@pytest.mark.parametrize("spill", [False, True])
def test_equal_to_plain_numpy(vocabulary: int, spill: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if spill:  # tiny limits: many runs go through the temporary file
        monkeypatch.setattr(statistics, "BUFFER_LIMIT", 500)
        monkeypatch.setattr(statistics, "RUN_LIMIT", 3000)
    rng = np.random.default_rng(1)
    ids = (rng.random((120, 12, 20)) ** 4 * vocabulary).astype(np.uint64)
    found = TokenStatistics(vocabulary)
    for first in range(0, 120, 7):
        found.update(ids[first : first + 7])
    for _ in range(2):  # asking does not change the answer
        result = found.result()
        for key, value in plain(ids, vocabulary).items():
            assert result[key] == pytest.approx(value, rel=1e-12)
    assert result["ids"] == ids.size
    assert result["repeats"] == np.count_nonzero(ids[1:] == ids[:-1]) / ids[1:].size
    assert result["digit_entropy"] is None


def test_digits() -> None:
    rng = np.random.default_rng(2)
    slow, fast = rng.integers(0, 5, 4000), rng.integers(0, 2, 4000)
    found = TokenStatistics(40, digits=(2, 4, 5))
    found.update((fast + 2 * 3 + 8 * slow).reshape(40, 10, 10).astype(np.uint16))
    first, second, third = found.result()["digit_entropy"]
    assert first == pytest.approx(plain(fast, 2)["entropy"])
    assert second == 0
    assert third == pytest.approx(plain(slow, 5)["entropy"])


def test_codebooks() -> None:
    ids = np.stack([np.arange(32).reshape(2, 4, 4), np.zeros((2, 4, 4), int)], -1)
    result = statistics_of(ids, (32, 8), ((32,), (8,)))
    assert result["used"] == 33
    assert result["usage"] == pytest.approx((1 + 1 / 8) / 2)
    assert result["entropy"] == pytest.approx(2.5)
    assert result["perplexity"] == pytest.approx(16.5)
    assert result["digit_entropy"] == [[5.0], [0.0]]
    assert result["repeats"] == 0.5
    one_for_all = TokenStatistics(32, codebooks=2)
    one_for_all.update(ids)
    assert one_for_all.result()["used"] == 33


def statistics_of(ids: np.ndarray, vocabulary: tuple[int, ...], digits: tuple[tuple[int, ...], ...]) -> dict:
    found = TokenStatistics(vocabulary, digits)
    found.update(ids)
    return found.result()


def test_nothing_and_one_latent_frame() -> None:
    found = TokenStatistics(16)
    assert found.result()["entropy"] == 0
    assert found.result()["repeats"] is None
    found.update(np.zeros((1, 3, 3), np.uint8))
    assert found.result() == {
        "ids": 9,
        "used": 1,
        "usage": 1 / 16,
        "entropy": 0.0,
        "perplexity": 1.0,
        "digit_entropy": None,
        "repeats": None,
    }


def test_memory_stays_bounded() -> None:
    """4 million distinct ids of 2**36: what is kept in memory is a run, the rest is in a file."""
    found = TokenStatistics(2**36)
    rng = np.random.default_rng(3)
    total = 0
    for _ in range(8):
        ids = rng.integers(0, 2**36, (2, 512, 512), dtype=np.uint64)
        total += ids.size
        found.update(ids)
    histogram = found._histograms[0]
    assert isinstance(histogram, statistics._SparseCounts)
    assert len(histogram._run[0]) < statistics.RUN_LIMIT + statistics.BUFFER_LIMIT
    assert found.result()["ids"] == total
    assert total - 1000 < found.result()["used"] <= total
