"""FVD: stored numbers of the public implementations, samples, and the Frechet distance for any number of rows."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vidtok.errors import ModelError, UnknownNameError, UsageError
from vidtok.metrics import fvd
from vidtok.metrics.frechet import Gaussian, distance, distance_of_rows
from vidtok.metrics.fvd import DIALECTS, Features, Sampling
from vidtok.metrics.i3d import load_i3d
from vidtok.metrics.weights import TRUST, load_script

PEERS = Path(os.environ.get("VIDTOK_PEERS", Path(__file__).parents[2] / "shared/peers")) / "metrics"
stored = pytest.mark.skipif(not PEERS.is_dir(), reason="the stored numbers are not here")


def manifest(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((PEERS / folder / "manifest.json").read_text())
    return found


def noise(key: str, shape: Any) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(tuple(shape))


RULES = {
    "L": lambda n: 8 * n / np.sqrt(np.prod(n.shape[1:])),
    "C": lambda n: n * np.sqrt(2 / np.prod(n.shape[1:])),
    "M": lambda n: 0.1 * n,
    "V": lambda n: np.exp(0.25 * n),
    "G": lambda n: 1 + 0.1 * n,
    "B": lambda n: 0.02 * n,
}


@pytest.fixture(scope="module")
def i3d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published file's keys with the weights of the stored numbers."""
    state: dict[str, Tensor] = {}
    for entry in manifest("i3d_400")["state_dict"]:
        if entry["rule"] in RULES:
            values = RULES[entry["rule"]](noise(entry["key"], entry["shape"])).astype(np.float32)
            state[entry["key"]] = torch.from_numpy(values)
    path = tmp_path_factory.mktemp("i3d") / "i3d_pretrained_400.pt"
    torch.save(state, path)
    return path


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    monkeypatch.setenv(TRUST, manifest("styleganv")["standin"]["sha256"])
    return load_script(fvd.STYLEGANV, PEERS / "styleganv" / "i3d_torchscript_standin.pt")


@stored
def test_logits_of_i3d(i3d: Path) -> None:
    """One step of the last pool (10 frames, cropped) and two (16 frames, stretched)."""
    network = load_i3d(i3d)
    with np.load(PEERS / "i3d_400" / "fixture.npz") as arrays:
        clips = [torch.from_numpy(arrays[f"b_clips_{side}"][0]) for side in "AB"]
        features = Features(network, DIALECTS["fvd:i3d400-crop"], Sampling(frames=10, take="first"))
        features.update(*clips)
        found = features.result()
        assert found.shape == (1, 2, 400)
        for mine, side in zip(found[0].numpy(), "AB", strict=True):
            assert np.abs(mine - arrays[f"b_common_logits_{side}_T10"][0]).max() < 3e-4
        dialect = DIALECTS["fvd:i3d400-stretch"]
        with torch.inference_mode():
            mine = fvd.logits(network, dialect, dialect.prepare(torch.from_numpy(arrays["a_clips_A"][0]))[None])
        assert np.abs(mine[0].numpy() - arrays["a_logits_A"][0]).max() < 3e-4


@stored
@pytest.mark.parametrize(("name", "letter"), [("fvd:i3d400-stretch", "a"), ("fvd:i3d400-crop", "b")])
def test_frames_and_distances_of_i3d(name: str, letter: str) -> None:
    with np.load(PEERS / "i3d_400" / "fixture.npz") as arrays:
        pictures = [(torch.from_numpy(arrays[f"{letter}_clips_A"][0]), arrays[f"{letter}_pre_clipA0_sub16"])]
        if letter == "b":
            pictures.append((torch.from_numpy(arrays["b_turned_clip"]), arrays["b_pre_turned_sub16"]))
        logits = [arrays[f"{letter}_logits_{side}"] for side in "AB"]
    for frames, prepared in pictures:
        assert np.abs(DIALECTS[name].prepare(frames).numpy()[:, :, ::16, ::16] - prepared).max() < 1e-6
    components = manifest("i3d_400")[f"dialect_{letter}"]["components"]
    assert distance_of_rows(*logits) == pytest.approx(components["exact_fd_float64"], rel=1e-9)
    population = distance_of_rows(*logits, population=True)
    assert population == pytest.approx(components["exact_fd_population_covariance"], rel=1e-9)


@stored
@pytest.mark.parametrize(
    ("name", "clips", "stored_as", "value"),
    [
        ("fvd", "b", "common_features", ("common_metrics_styleganv", "components", "exact_fd_float64")),
        ("fvd:styleganv", "b", "tokenbench_features", ("tokenbench", "components", "exact_fd_float64")),
        ("fvd:larp", "a", "larp_features", ("larp", "fvd_public")),
    ],
)
def test_features_and_distances_of_styleganv(
    name: str, clips: str, stored_as: str, value: tuple[str, ...], standin: torch.nn.Module
) -> None:
    expected: Any = manifest("styleganv")
    for key in value:
        expected = expected[key]
    rows = []
    with np.load(PEERS / "i3d_400" / "fixture.npz") as arrays, np.load(PEERS / "styleganv" / "fixture.npz") as theirs:
        for a, b in zip(arrays[f"{clips}_clips_A"], arrays[f"{clips}_clips_B"], strict=True):
            features = Features(standin, DIALECTS[name], Sampling(take="whole", frames=300))
            features.update(torch.from_numpy(a[:9]), torch.from_numpy(b[:9]))
            features.update(torch.from_numpy(a[9:]), torch.from_numpy(b[9:]))
            rows.append(features.result()[0].numpy())
        mine = np.stack(rows, 1)
        for found, side in zip(mine, "AB", strict=True):
            assert np.abs(found - theirs[f"{stored_as}_{side}"]).max() < 1e-5
    population = DIALECTS[name].population
    assert distance_of_rows(*mine, population=population) == pytest.approx(expected, rel=1e-5)


@stored
def test_larp_crops_large_clips_as_published() -> None:
    with np.load(PEERS / "styleganv" / "fixture.npz") as arrays:
        mine = fvd.crop_128(torch.from_numpy(arrays["larp_big_clip"])).numpy() / 2 + 0.5
        assert np.abs(mine[:, :, ::8, ::8] - arrays["larp_big_pre_sub8"]).max() < 1e-6


@stored
def test_frechet_distance_of_full_rank_sets() -> None:
    for case in manifest("i3d_400")["synthetic_frechet"]["cases"]:
        shape, d = (case["N"], case["D"]), case["D"]
        x, y, mix = noise("frechet.A", shape), noise("frechet.B", shape), noise("frechet.mix", (d, d)) / np.sqrt(d)
        a, b = (4 * (x @ mix) + 2).astype(np.float32), (4.4 * (y @ mix) + 0.6 * y + 2.2).astype(np.float32)
        assert distance_of_rows(a, b) == pytest.approx(case["exact"]["fd"], rel=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 24), st.booleans(), st.integers(0, 2**32 - 1))
def test_rows_and_running_gaussians_agree(n: int, m: int, d: int, population: bool, seed: int) -> None:
    """However many rows there are and however they come; zero for equal sets; symmetric."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(3, 2, (n, d)), rng.normal(0, 1, (m, d)) @ rng.normal(0, 1, (d, d))
    running = []
    for rows in (x, y):
        cut = int(rng.integers(0, len(rows) + 1))
        whole, part = Gaussian(d), Gaussian(d)
        whole.update(rows[:cut])
        part.update(rows[cut:])
        whole.merge(part)
        running.append(whole)
    value = distance_of_rows(x, y, population=population)
    scale = np.square(x).sum() / n + np.square(y).sum() / m
    assert distance(*running, population=population) == pytest.approx(value, abs=1e-6 * scale)
    assert distance_of_rows(y, x, population=population) == pytest.approx(value, abs=1e-9 * scale)
    assert distance_of_rows(x, x) == pytest.approx(0, abs=1e-9 * scale)


class Counting(torch.nn.Module):
    """A network that tells how many frames a sample has and what is in it."""

    def forward(self, x: Tensor, rescale: bool, resize: bool, return_features: bool) -> Tensor:
        assert x.shape[-2:] == (224, 224) and not rescale and not resize and return_features
        row = torch.stack([torch.full((len(x),), float(x.shape[2])), x[:, 0, 0, 0, 0]], 1)
        return torch.nn.functional.pad(row, (0, 398))


@pytest.mark.parametrize(
    ("take", "frames", "total", "samples"),
    [("all", 16, 40, [16, 16]), ("first", 16, 40, [16]), ("first", 16, 15, []), ("whole", 300, 40, [40]),
     ("whole", 20, 40, [20]), ("whole", 300, 9, []), ("all", 10, 30, [10, 10, 10])],
)  # fmt: skip
def test_samples_of_a_clip(take: str, frames: int, total: int, samples: list[int]) -> None:
    clip = torch.arange(total, dtype=torch.uint8).view(-1, 1, 1, 1).expand(total, 8, 8, 3)
    features = Features(Counting(), DIALECTS["fvd"], Sampling(frames=frames, take=take))
    for i in range(0, total, 7):
        features.update(clip[i : i + 7], 255 - clip[i : i + 7])
    found = features.result()
    assert found[:, 0, 0].tolist() == samples
    firsts = [round((float(x) + 1) * 127.5) for x in found[:, 0, 1]]
    assert firsts == [i * frames for i in range(len(samples))]
    assert torch.allclose(found[:, 0, 1], -found[:, 1, 1], atol=1e-6)


def test_wrong_sampling_and_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="choice of fvd samples"):
        Sampling(take="some")
    with pytest.raises(UsageError, match="at least 9"):
        Sampling(frames=8)
    torch.save({"Conv3d_1a_7x7.conv3d.weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(ModelError, match="does not hold the I3D network"):
        load_i3d(tmp_path / "other.pt")
