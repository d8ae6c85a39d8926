"""Timestamps only grow, whatever the file says, and pictures keep their order."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidtok.video.timing import Repair, Resampler, Timed


def repaired(pts: list[int | None], step: float = 10, start: int = 0) -> list[int]:
    repair: Repair[int] = Repair(Fraction(step), start, lambda note: None)
    out = list(repair.run((number, p, 0) for number, p in enumerate(pts)))
    assert [t.item for t in out] == list(range(len(pts)))
    assert all(a.pts + a.duration == b.pts for a, b in pairwise(out))
    assert not out or out[-1].duration >= 1
    return [t.pts for t in out]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([0, 10, 20], [0, 10, 20]),
        ([-20, -10, 0, 7, 100], [-20, -10, 0, 7, 100]),
        ([None, None, None], [0, 10, 20]),
        ([0, None, None, 30], [0, 10, 20, 30]),
        ([0, 20, 10, 30], [0, 10, 20, 30]),
        ([10, 0, 20], [0, 10, 20]),
        ([0, 10, 10, 20], [0, 10, 15, 20]),
        ([0, 10, 20, 0, 10, 20], [0, 10, 20, 30, 40, 50]),
        ([0, 10, 20, 70, 20, 90, 100], [0, 10, 20, 70, 80, 90, 100]),
        ([], []),
    ],
)
def test_known_repairs(given: list[int | None], wanted: list[int]) -> None:
    assert repaired(given) == wanted


def test_fractional_steps_do_not_drift() -> None:
    assert repaired([None] * 100, step=1001 / 24)[-1] == round(99 * 1001 / 24)


@given(st.lists(st.none() | st.integers(-1000, 1000), max_size=40), st.integers(1, 50))
def test_anything_becomes_strictly_growing(pts: list[int | None], step: int) -> None:
    out = repaired(pts, step)
    assert all(a < b for a, b in pairwise(out))


@given(st.lists(st.integers(-10_000, 10_000), max_size=40, unique=True))
def test_sound_timestamps_stay(pts: list[int]) -> None:
    assert repaired(sorted(pts)) == sorted(pts)


def resampled(rate: Fraction, frames: list[tuple[int, int]], time_base: Fraction) -> list[tuple[int, Fraction]]:
    clock: Resampler[int] = Resampler(rate, time_base)
    timed = [Timed(number, pts, duration) for number, (pts, duration) in enumerate(frames)]
    return [(t.item, t.pts * clock.time_base) for t in clock.run(timed)]


def test_half_rate_takes_every_second_frame_and_double_rate_repeats() -> None:
    frames = [(n * 1001, 1001) for n in range(6)]
    half = resampled(Fraction(15000, 1001), frames, Fraction(1, 30000))
    assert [n for n, _ in half] == [0, 2, 4]
    double = resampled(Fraction(60000, 1001), frames, Fraction(1, 30000))
    assert [n for n, _ in double] == [n // 2 for n in range(12)]


def test_new_clock_starts_with_the_first_frame_and_shows_the_last_frame_not_after() -> None:
    out = resampled(Fraction(10), [(7, 50), (57, 200), (257, 60)], Fraction(1, 1000))
    assert [t for _, t in out] == [Fraction(7, 1000) + Fraction(k, 10) for k in range(4)]
    assert [n for n, _ in out] == [0, 1, 1, 2]
