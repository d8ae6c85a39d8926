"""Known damage moves every metric the way it should, and by as much as can be said beforehand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from vidtok.metrics import LOWER_IS_BETTER
from vidtok.metrics.table import FRAME_METRICS, measure
from vidtok.video.info import Pixels

METRICS = tuple(FRAME_METRICS)  # all that need no weights and no program
FRAMES, SIDE, STEP = 6, 176, 2
BEST = {"ssim": 1.0, "ssim:y": 1.0, "ms_ssim": 1.0, "ms_ssim:y": 1.0, "vif": 1.0, "flicker": 0.0}
Found = dict[str, Any]


def smooth(picture: np.ndarray[Any, Any], taps: int) -> np.ndarray[Any, Any]:
    """Box means of (..., H, W, 3), borders repeated."""
    half, found = taps // 2, picture.astype(np.float64)
    for axis in (-3, -2):
        wide = np.pad(found, [(half, half) if i == found.ndim + axis else (0, 0) for i in range(found.ndim)], "edge")
        found = sum(np.take(wide, range(i, i + found.shape[axis]), axis) for i in range(taps)) / taps
    return found


def clip(step: int = STEP) -> Pixels:
    """A texture of several sizes in colours, 60 to 190, that moves `step` pixels to the left each frame."""
    rng = np.random.default_rng(0)
    texture = sum(smooth(rng.uniform(-1, 1, (SIDE, SIDE + FRAMES * STEP, 3)), taps) * taps for taps in (1, 3, 9, 21))
    texture = 125 + 65 * texture / np.abs(texture).max()
    return np.stack([texture[:, step * t : step * t + SIDE] for t in range(FRAMES)]).round().astype(np.uint8)


def noisy(frames: Pixels, sigma: float) -> Pixels:
    noise = np.random.default_rng(1).normal(0, sigma, frames.shape)
    return (frames + noise).round().clip(0, 255).astype(np.uint8)


SOURCE = clip()
DAMAGE: dict[str, Callable[[float], Pixels]] = {
    "noise": lambda much: noisy(SOURCE, 12 if much else 4),
    "blur": lambda much: smooth(SOURCE, 5 if much else 3).round().astype(np.uint8),
    "pixels": lambda much: np.roll(SOURCE, 2 if much else 1, axis=2),
    "frames": lambda much: SOURCE[[0, 0, 0, 1, 2, 3] if much else [0, 0, 1, 2, 3, 4]],
}  # each a little, and twice as much or more


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, bool], Found]:
    cases = itertools.product(DAMAGE, (False, True))
    return {(name, much): measure(SOURCE, DAMAGE[name](much), METRICS) for name, much in cases}


def worse(metric: str, a: float, b: float) -> bool:
    return a > b if metric in LOWER_IS_BETTER else a < b


@pytest.mark.parametrize("metric", METRICS)
def test_nothing_is_the_best_there_is(metric: str) -> None:
    assert measure(SOURCE, SOURCE.copy(), metric)[metric] == pytest.approx(BEST.get(metric, 100.0), abs=1e-6)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("metric", METRICS)
def test_more_damage_is_worse(found: dict[tuple[str, bool], Found], metric: str, damage: str) -> None:
    """Noise, blur, shifts by one pixel or one frame: worse than nothing, and more of it worse than less. (Two frames
    late instead of one is no more flicker: errors are larger, but so is the part of the clip that stands still.)"""
    little, much = (found[damage, more][metric] for more in (False, True))
    assert worse(metric, little, BEST.get(metric, 100.0))
    assert worse(metric, much, little) or (metric, damage) == ("flicker", "frames")


def test_noise_costs_what_its_variance_says(found: dict[tuple[str, bool], Found]) -> None:
    """And the errors of two frames are independent: |difference| of two is 2 sigma / sqrt(pi) in the mean."""
    for much, sigma in ((False, 4), (True, 12)):
        row = found["noise", much]
        variance = sigma**2 + 1 / 12
        for metric in ("psnr", "psnr:video", "psnr:worst"):
            assert row[metric] == pytest.approx(10 * math.log10(255**2 / variance), abs=0.1)
        luma = variance * (0.2126**2 + 0.7152**2 + 0.0722**2)
        assert row["psnr:y"] == pytest.approx(10 * math.log10(255**2 / luma), abs=0.1)
        assert row["flicker"] == pytest.approx(2 * math.sqrt(variance / math.pi), rel=0.02)


def test_a_shift_in_time_is_seen_where_things_move() -> None:
    """Of a still nothing changes; of what moves by two pixels it is as bad as a shift by two pixels."""
    still = clip(step=0)
    assert measure(still, still[[0, 0, 1, 2, 3, 4]], "psnr,flicker") == {"psnr": 100.0, "flicker": 0.0}
    late, beside = SOURCE[:-1], np.roll(SOURCE[1:], STEP, axis=2)
    inside = np.s_[:, :, STEP:]
    assert np.array_equal(late[inside], beside[inside])
    for metric in ("psnr", "ssim", "ms_ssim", "vif", "xpsnr"):
        by_frame, by_pixels = (measure(SOURCE[1:], other, metric)[metric] for other in (late, beside))
        assert by_frame == pytest.approx(by_pixels, rel=0.05)


def test_levels_that_are_off_move_what_looks_at_levels() -> None:
    """8 more everywhere: PSNR says exactly that, the structure is hardly touched, nothing flickers."""
    row = measure(SOURCE, SOURCE + np.uint8(8), METRICS)
    exact = 20 * math.log10(255 / 8)
    for metric in ("psnr", "psnr:video", "psnr:worst", "psnr:y"):
        assert row[metric] == pytest.approx(exact, abs=1e-4)
    assert row["flicker"] == 0
    assert all(0.99 < row[metric] < 1 for metric in ("ssim", "ssim:y", "ms_ssim", "ms_ssim:y"))
    assert row["vif"] > 0.97 and 20 < row["xpsnr"] < 60
    # the same error in turns: PSNR cannot tell, flicker does
    levels = np.where(np.arange(FRAMES) % 2, 8, -8)[:, None, None, None]
    turns = measure(SOURCE, (SOURCE.astype(int) + levels).astype(np.uint8), "psnr,flicker")
    assert turns["psnr"] == pytest.approx(exact, abs=1e-4) and turns["flicker"] == 16


def test_one_bad_frame_counts_as_each_name_says() -> None:
    bad = SOURCE.copy()
    bad[3] = noisy(SOURCE[3:4], 20)[0]
    row = measure(SOURCE, bad, ("psnr", "psnr:video", "psnr:worst", "flicker"))
    alone = measure(SOURCE[3:4], bad[3:4], "psnr")["psnr"]
    assert row["psnr:worst"] == pytest.approx(alone)
    assert row["psnr"] == pytest.approx((100 * (FRAMES - 1) + alone) / FRAMES)
    assert row["psnr:video"] == pytest.approx(alone + 10 * math.log10(FRAMES))
    error = np.abs(bad[3].astype(int) - SOURCE[3]).mean()
    assert row["flicker"] == pytest.approx(2 * error / (FRAMES - 1)), "it comes and it goes"
