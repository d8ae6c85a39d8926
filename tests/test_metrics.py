"""PSNR, SSIM and MS-SSIM against stored numbers and pytorch-msssim; streaming; names and reasons."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from vidtok.errors import UnknownNameError, UsageError
from vidtok.metrics import DIALECTS, LOWER_IS_BETTER, NOT_BUILT, SET_METRICS, parse_metrics
from vidtok.metrics.fvd import DIALECTS as FVD
from vidtok.metrics.table import FRAME_METRICS, OUTSIDE, MetricSet, measure

FIXTURES = Path(os.environ.get("VIDTOK_PEERS", Path(__file__).parents[2] / "shared/peers")) / "metrics/ssim"


def noisy_pair(frames: int, height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of colour and a noisy copy: uint8 (T, H, W, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (frames, -(-height // 8), -(-width // 8), 3))
    clean = coarse.repeat(8, 1).repeat(8, 2)[:, :height, :width]
    noisy = clean + rng.normal(0, 12, clean.shape)
    return clean.astype(np.uint8), noisy.clip(0, 255).astype(np.uint8)


def peer(name: str, a: np.ndarray, b: np.ndarray) -> list[float]:
    """Per frame value of pytorch-msssim."""
    pytorch_msssim = pytest.importorskip("pytorch_msssim", reason="pytorch-msssim is the reference")
    x, y = (torch.from_numpy(frames).permute(0, 3, 1, 2).float() for frames in (a, b))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns about sides under 11 pixels
        return [float(v) for v in getattr(pytorch_msssim, name)(x, y, data_range=255, size_average=False)]


@pytest.mark.skipif(not FIXTURES.exists(), reason="the folder of peers' numbers is not beside the repository")
@pytest.mark.parametrize("pair", ["pair0", "pair1"])
def test_stored_numbers(pair: str) -> None:
    arrays = np.load(FIXTURES / "fixture.npz")
    results = json.loads((FIXTURES / "manifest.json").read_text())["results"][pair]
    row = measure(arrays[f"{pair}_a"][None], arrays[f"{pair}_b"][None], "psnr,ssim,ms_ssim")
    stored = {
        name: next(v for key, v in results[name].items() if key.startswith(start))
        for name, start in (
            ("psnr", "plain"),
            ("ssim", "pytorch_msssim.ssim float64"),
            ("ms_ssim", "pytorch_msssim.ms_ssim float64"),
        )
    }
    assert row["psnr"] == pytest.approx(stored["psnr"], abs=1e-9)
    assert row["ssim"] == pytest.approx(stored["ssim"], abs=1e-5)
    assert row["ms_ssim"] == pytest.approx(stored["ms_ssim"], abs=1e-5)


@pytest.mark.skipif(not FIXTURES.exists(), reason="the folder of peers' numbers is not beside the repository")
def test_stored_averaging() -> None:
    arrays = np.load(FIXTURES / "fixture.npz")
    stored = json.loads((FIXTURES / "manifest.json").read_text())["video_averaging"]
    a, b = arrays["pair0_a"], arrays["pair0_b"]
    brighter = (a.astype(np.int16) + 12).clip(0, 255).astype(np.uint8)
    row = measure(np.stack([a] * 3), np.stack([b, a // 2 * 2, brighter]), "psnr,psnr:video,psnr:worst")
    assert row["psnr"] == pytest.approx(stored["mean_of_frame_psnr_VidTok_common_metrics"], abs=1e-9)
    assert row["psnr:video"] == pytest.approx(stored["psnr_of_mean_mse_TokenBench_LARP_per_video"], abs=1e-9)
    assert row["psnr:worst"] == pytest.approx(min(stored["per_frame_psnr"]), abs=1e-9)


@pytest.mark.parametrize(
    ("frames", "height", "width"),
    [(1, 161, 163), (3, 176, 200), (2, 256, 257), (1, 320, 1100), (17, 64, 64), (2, 11, 12), (1, 131, 77)],
)
def test_equal_to_pytorch_msssim(frames: int, height: int, width: int) -> None:
    a, b = noisy_pair(frames, height, width)
    names = ("ssim", "ms_ssim") if min(height, width) > 160 else ("ssim",)
    row = measure(a, b, names)
    for name in names:
        assert row[name] == pytest.approx(np.mean(peer(name, a, b)), abs=2e-6)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 40), (40, 5)])
def test_sides_shorter_than_the_window(height: int, width: int) -> None:
    a, b = noisy_pair(2, height, width)
    assert measure(a, b, "ssim")["ssim"] == pytest.approx(np.mean(peer("ssim", a, b)), abs=1e-4)


def test_one_pixel() -> None:
    a = np.full((1, 1, 1, 3), 100, np.uint8)
    row = measure(a, a + np.uint8(1), "psnr,ssim")
    assert row["psnr"] == pytest.approx(48.1308, abs=1e-4)
    assert 0.99 < row["ssim"] < 1  # type: ignore[operator]


def test_equal_frames() -> None:
    a, _ = noisy_pair(2, 176, 192)
    row = measure(a, a.copy(), list(FRAME_METRICS))
    best = {name: 100.0 if "psnr" in name else 1.0 for name in FRAME_METRICS} | {"flicker": 0.0}
    assert row == best


def test_luma_is_bt709() -> None:
    a, b = noisy_pair(2, 170, 180)
    x, y = (frames.astype(np.float64) @ [0.2126, 0.7152, 0.0722] for frames in (a, b))
    psnr = np.mean(10 * np.log10(255**2 / ((x - y) ** 2).mean((1, 2))))
    row = measure(a, b, "psnr:y,ssim:y,ms_ssim:y")
    assert row["psnr:y"] == pytest.approx(psnr, abs=1e-4)
    for name in ("ssim", "ms_ssim"):
        pytorch_msssim = pytest.importorskip("pytorch_msssim")
        planes = (torch.from_numpy(v).float()[:, None] for v in (x, y))
        assert row[f"{name}:y"] == pytest.approx(
            float(getattr(pytorch_msssim, name)(*planes, data_range=255)), abs=1e-5
        )


def test_pieces_give_the_same_as_the_whole() -> None:
    a, b = noisy_pair(40, 48, 56)
    whole, pieces = MetricSet(FRAME_METRICS), MetricSet(FRAME_METRICS)
    whole.update(a, b)
    for first, end in ((0, 1), (1, 1), (1, 8), (8, 40)):
        pieces.update(a[first:end], b[first:end])
    assert whole.frames == pieces.frames == 40
    for name, value in whole.result().items():
        same = pytest.approx(value, abs=1e-7) if isinstance(value, float) else value
        assert pieces.result()[name] == same


def test_flicker() -> None:
    a = np.full((3, 4, 5, 3), 100, np.uint8)
    b = a.copy()
    b[1] += 6  # error 0, 6, 0: changes by 6 twice
    assert measure(a, b, "flicker")["flicker"] == 6
    b[2] += 6
    assert measure(a, b, "flicker")["flicker"] == 3


def test_values_of_frames() -> None:
    """As many as frames, their mean is the result, and they do not depend on how frames come."""
    a, b = noisy_pair(5, 168, 176)
    names = "psnr,ssim,ms_ssim:y,flicker,psnr:video,psnr:worst,vif"
    whole, pieces = MetricSet(names, per_frame=True), MetricSet(names, per_frame=True)
    whole.update(a, b)
    for i in range(5):
        pieces.update(a[i : i + 1], b[i : i + 1])
    row, again = whole.result(), pieces.result()
    assert set(row["per_frame"]) == {"psnr", "ssim", "ms_ssim:y", "flicker", "vif"}
    for name, values in row["per_frame"].items():
        have = [value for value in values if value is not None]
        assert len(values) == 5 and len(have) == 5 - (name == "flicker")
        assert row[name] == pytest.approx(np.mean(have), abs=1e-9)
        assert again["per_frame"][name] == pytest.approx(values, abs=1e-6)
    assert row["psnr:worst"] == min(row["per_frame"]["psnr"])
    assert row["per_frame"]["ssim"] == pytest.approx(peer("ssim", a, b), abs=2e-6)
    assert "per_frame" not in measure(a, b, "psnr")


def test_degradations_move_the_right_metrics() -> None:
    """A level shift leaves structure; a shift in space costs all; one frame late is worse where things move; a
    constant error does not flicker, noise does."""
    rng = np.random.default_rng(1)
    big = rng.integers(0, 200, (1, 50, 60, 3)).repeat(8, 1).repeat(8, 2)
    scene = np.stack([big[0, 3 * t : 3 * t + 200, 2 * t : 2 * t + 240] for t in range(6)]).astype(np.uint8)
    noise = (scene + rng.normal(0, 10, scene.shape)).clip(0, 255).astype(np.uint8)
    still = scene[:1].repeat(6, 0)
    pairs = {
        "level": (scene, scene + np.uint8(10)),
        "noise": (scene, noise),
        "pixel": (scene[:, :, 1:], scene[:, :, :-1]),
        "late": (scene[1:], scene[:-1]),
        "still": (still[1:], still[:-1]),
    }
    rows = {name: measure(a, b, "psnr,ssim,ms_ssim,flicker,xpsnr,vif") for name, (a, b) in pairs.items()}
    assert rows["level"]["psnr"] == pytest.approx(28.13, abs=0.01) and rows["level"]["flicker"] == 0
    assert rows["level"]["ms_ssim"] > 0.99 > rows["noise"]["ssim"]
    assert rows["noise"]["flicker"] > 5 and abs(rows["noise"]["psnr"] - rows["level"]["psnr"]) < 1
    assert rows["pixel"]["psnr"] > rows["late"]["psnr"] and rows["pixel"]["vif"] > rows["late"]["vif"]
    assert rows["late"]["flicker"] > rows["noise"]["flicker"]
    assert rows["still"]["psnr"] == rows["still"]["xpsnr"] == 100 and rows["still"]["vif"] == 1


def test_reasons_for_what_is_missing() -> None:
    a, b = noisy_pair(1, 160, 400)
    row = measure(a, b, "ms_ssim,dists,flicker,psnr")
    assert row["ms_ssim"] is row["dists"] is row["flicker"] is None
    assert row["ms_ssim_missing"] == "short side 160; MS-SSIM needs more than 160 pixels"
    assert row["dists_missing"] == NOT_BUILT["dists"]
    assert "psnr_missing" not in row
    assert MetricSet("psnr").result() == {"psnr": None, "psnr_missing": "no frames"}


def test_names() -> None:
    assert parse_metrics("psnr, MS-SSIM,bpp,psnr") == ("psnr", "ms_ssim")
    assert parse_metrics(["psnr,ssim", "fvd"]) == ("psnr", "ssim", "fvd")
    with pytest.raises(UnknownNameError, match="'pnsr'; did you mean 'psnr'"):
        parse_metrics("pnsr")
    with pytest.raises(UnknownNameError, match="psnr:z"):
        parse_metrics("psnr:z")
    assert parse_metrics("fvd:i3d400_stretch,FVD:i3d400-crop") == ("fvd:i3d400-stretch", "fvd:i3d400-crop")
    assert {*FRAME_METRICS, *OUTSIDE, *SET_METRICS, "tokens"} == set(DIALECTS)
    assert {"fid", *FVD} == set(SET_METRICS) and set(DIALECTS) > LOWER_IS_BETTER
    assert not set(DIALECTS) & set(NOT_BUILT)


def test_shapes_must_agree() -> None:
    with pytest.raises(UsageError, match="differ in shape"):
        measure(np.zeros((1, 4, 4, 3), np.uint8), np.zeros((1, 4, 6, 3), np.uint8), "psnr")
