"""BD-rate and BD-quality: the stored numbers of the `bjontegaard` package, properties, refusals."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vidtok.errors import UnknownNameError, UsageError
from vidtok.metrics.bd import METHODS, Curve, bd_quality, bd_rate, quality_overlap, rate_overlap

FIXTURES = Path(os.environ.get("VIDTOK_PEERS", Path(__file__).parents[2] / "shared/peers")) / "metrics/ssim"

# of bjontegaard 1.3.0 for the two curves below: (BD-rate percent, BD-PSNR dB), and with the curves swapped
ANCHOR = Curve((487.2, 891.4, 1655.0, 3121.6), (32.11, 34.62, 37.05, 39.41))
TEST = Curve((402.9, 742.3, 1398.7, 2704.4), (32.34, 34.91, 37.22, 39.49))
RECORDED = {
    "cubic": ((-20.46942161720785, 0.8766845479315885), (25.737800520807962, -0.8766845479315885)),
    "pchip": ((-20.44721230654092, 0.8783280560099284), (25.70269741562068, -0.8783280560099284)),
}


@pytest.mark.parametrize("method", METHODS)
def test_recorded_numbers(method: str) -> None:
    there, back = RECORDED[method]
    assert (bd_rate(ANCHOR, TEST, method), bd_quality(ANCHOR, TEST, method)) == pytest.approx(there, rel=1e-9)
    assert (bd_rate(TEST, ANCHOR, method), bd_quality(TEST, ANCHOR, method)) == pytest.approx(back, rel=1e-9)


@pytest.mark.skipif(not FIXTURES.exists(), reason="the stored numbers are not here")
@pytest.mark.parametrize("method", METHODS)
def test_stored_numbers(method: str) -> None:
    """Of unequal numbers of points too."""
    for case in json.loads((FIXTURES / "manifest.json").read_text())["bjontegaard"]["cases"]:
        anchor, test = (Curve(tuple(case[k]["rate"]), tuple(case[k]["psnr"])) for k in ("anchor", "test"))
        wanted = case["result"][method]
        assert bd_rate(anchor, test, method) == pytest.approx(wanted["bd_rate_percent"], rel=1e-6)
        assert bd_quality(anchor, test, method) == pytest.approx(wanted["bd_psnr_db"], rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_against_the_package(method: str) -> None:
    bjontegaard = pytest.importorskip("bjontegaard", reason="bjontegaard is the reference")
    args = (ANCHOR.rates, ANCHOR.qualities, TEST.rates, TEST.qualities)
    assert bd_rate(ANCHOR, TEST, method) == pytest.approx(bjontegaard.bd_rate(*args, method=method), rel=1e-9)


curves = st.lists(
    st.tuples(st.floats(0.05, 1), st.floats(0.05, 5)), min_size=4, max_size=7
).map(lambda steps: tuple(np.cumsum(np.array(steps), 0).T))  # fmt: skip


@settings(deadline=None)
@given(curves, st.floats(0.2, 5), st.sampled_from(METHODS))
def test_a_curve_against_itself_at_another_rate(points: tuple[np.ndarray, np.ndarray], factor: float, how: str) -> None:
    """The same curve is no delta; at `factor` times the rates it is that many percent; points may come shuffled."""
    logs, qualities = points
    rates = 10**logs
    anchor = Curve(tuple(rates), tuple(qualities))
    test = Curve(tuple(rates[::-1] * factor), tuple(qualities[::-1]))
    assert bd_rate(anchor, anchor, how) == pytest.approx(0, abs=1e-6)
    assert bd_rate(anchor, test, how) == pytest.approx((factor - 1) * 100, abs=1e-5)
    better = Curve(tuple(rates), tuple(qualities + 1))
    assert bd_quality(anchor, better, how) == pytest.approx(1, abs=1e-6)
    assert quality_overlap(anchor, test).share == pytest.approx(1)
    assume(logs[-1] - logs[0] > 1)
    assert bd_quality(anchor, Curve(tuple(rates * 1.5), tuple(qualities)), "pchip") < 0


def test_overlap_is_stated_and_wanted() -> None:
    both = quality_overlap(ANCHOR, TEST)
    assert (both.low, both.high) == (32.34, 39.41) and both.share == pytest.approx(7.07 / 7.38)
    assert rate_overlap(ANCHOR, TEST).low == pytest.approx(487.2)
    above = Curve((1, 2, 3, 4), (50, 51, 52, 53))
    with pytest.raises(UsageError, match=r"qualities do not overlap: 32.11..39.41 and 50..53"):
        bd_rate(ANCHOR, above)
    with pytest.raises(UsageError, match="rates do not overlap"):
        bd_quality(ANCHOR, above)


@pytest.mark.parametrize(
    ("curve", "method", "words"),
    [
        (Curve((1, 2, 3), (1, 2, 3)), "cubic", "3 points; cubic needs at least 4"),
        (Curve((1,), (1,)), "pchip", "1 points; pchip needs at least 2"),
        (Curve((1, 2, 3, 4), (1, 2, 2, 3)), "pchip", "does not rise"),
        (Curve((1, 1, 3, 4), (1, 2, 3, 4)), "pchip", "does not rise"),
    ],
)
def test_curves_that_are_none(curve: Curve, method: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        bd_rate(ANCHOR, curve, method)
    with pytest.raises(UnknownNameError, match="way to interpolate"):
        bd_rate(ANCHOR, TEST, "line")
    with pytest.raises(UsageError, match="rates above 0"):
        Curve((0.0, 1.0), (1.0, 2.0))
