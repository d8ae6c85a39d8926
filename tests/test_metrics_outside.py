"""XPSNR and VIF by FFmpeg's filters, VMAF by a program on PATH, LPIPS as a metric of clips, and how weights are had."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vidtok.errors import ModelError, UsageError
from vidtok.metrics import lpips, vmaf, weights
from vidtok.metrics.lpips import Lpips, load_lpips
from vidtok.metrics.networks import Networks
from vidtok.metrics.table import MetricSet, measure, missing_metrics
from vidtok.metrics.weights import WeightsFile, fetch, find, sha256_of
from vidtok.video.filters import ToYuv444


@pytest.fixture(autouse=True)
def nothing_at_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variables, an empty cache, no network."""
    for name in ("VIDTOK_LPIPS_WEIGHTS", "VIDTOK_I3D_WEIGHTS", "VIDTOK_FVD_WEIGHTS", "VIDTOK_FID_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))


def pair(frames: int = 4, height: int = 48, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 256, (frames, height // 8 + 1, width // 8 + 1, 3)).repeat(8, 1).repeat(8, 2)
    clean = clean[:, :height, :width]
    return clean.astype(np.uint8), (clean + rng.normal(0, 8, clean.shape)).clip(0, 255).astype(np.uint8)


def test_filters_stream_and_average(capfd: pytest.CaptureFixture[str]) -> None:
    """The mean of xpsnr is over roots of weighted errors, as the filter's own summary has it."""
    a, b = pair()
    a[2] = b[2]  # an equal frame is infinite to the filter
    whole, pieces = (MetricSet("xpsnr,vif", per_frame=True) for _ in range(2))
    whole.update(a, b)
    for i in range(4):
        pieces.update(a[i : i + 1], b[i : i + 1])
    row = whole.result()
    assert row == pieces.result() == whole.result()
    values = np.array(row["per_frame"]["xpsnr"])
    assert values[2] == 100 and row["per_frame"]["vif"][2] == 1
    roots = np.where(values == 100, 0, 10 ** (-values / 20))
    assert row["xpsnr"] == pytest.approx(-20 * np.log10(roots.mean()), abs=1e-9)
    assert 0 < row["vif"] < 1
    assert not capfd.readouterr().err


@pytest.mark.parametrize(("height", "width"), [(8, 8), (15, 400), (44, 46)])
def test_frames_too_small_for_filters(height: int, width: int) -> None:
    """Refused before FFmpeg is asked, which divides by zero there."""
    a, b = pair(2, height, width)
    row = measure(a, b, "xpsnr,vif,psnr")
    assert row["xpsnr"] is None and row["xpsnr_missing"] == f"frames of {width}x{height} are too small for xpsnr"
    assert (row["vif"] is None) == (min(height, width) < 16)


def test_luma_of_the_filters_is_bt709_limited() -> None:
    grays = np.array([0, 255, 128], np.uint8).repeat(3).reshape(1, 3, 3)
    planes = ToYuv444()(grays.repeat(2, 0))
    assert planes.shape == (3, 2, 3)
    assert planes[0, 0].tolist() == [16, 235, 126] and (planes[1:] == 128).all()
    red = ToYuv444()(np.array([[[255, 0, 0]]], np.uint8))
    assert abs(int(red[0, 0, 0]) - (16 + 219 * 0.2126)) <= 1


PROGRAM = """#!{python}
import json, sys
if "-filters" in sys.argv:
    print(" .. {filter}  VV->V  Calculate the VMAF between two video streams.")
    sys.exit()
graph = sys.argv[sys.argv.index("-lavfi") + 1]
width, height = map(int, sys.argv[sys.argv.index("-s") + 1].split("x"))
assert f"crop={{width // 2}}:{{height}}:{{width // 2}}:0[result]" in graph and "[result][source]libvmaf" in graph
if {fail}:
    sys.exit("no model of that name\\n")
frames = []
while block := sys.stdin.buffer.read(3 * width * height):
    rows = [block[i * width : (i + 1) * width] for i in range(height)]
    error = sum(abs(x - y) for row in rows for x, y in zip(row[: width // 2], row[width // 2 :]))
    frames.append({{"metrics": {{"vmaf": 100 - error / (width // 2 * height)}}}})
open("vmaf.json", "w").write(json.dumps({{"frames": frames}}))
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`program(filter=..., fail=...)` puts an ffmpeg on PATH whose VMAF is 100 - mean |error of luma|."""

    def make(filter: str = "libvmaf", fail: bool = False) -> None:
        path = tmp_path / "bin" / "ffmpeg"
        path.parent.mkdir(exist_ok=True)
        path.write_text(PROGRAM.format(python=sys.executable, filter=filter, fail=fail))
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(path.parent))
        vmaf._has_libvmaf.cache_clear()

    return make


def test_vmaf_by_a_program(program: Any) -> None:
    program()
    a, b = pair(3, 21, 33)
    metrics = MetricSet("vmaf", per_frame=True)
    metrics.update(a[:1], b[:1])
    metrics.update(a[1:], b[1:])
    row = metrics.result()
    luma = [[ToYuv444()(frame)[0].astype(int) for frame in frames] for frames in (a, b)]
    expected = [100 - np.abs(x - y).mean() for x, y in zip(*luma, strict=True)]
    assert row["per_frame"]["vmaf"] == pytest.approx(expected) and row["vmaf"] == pytest.approx(np.mean(expected))
    assert metrics.result()["vmaf"] == row["vmaf"]


def test_vmaf_that_cannot_be_had(program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pair(2)
    program(fail=True)
    assert measure(a, b, "vmaf")["vmaf_missing"] == "ffmpeg failed: no model of that name"
    program(filter="other")
    assert "has no libvmaf" in measure(a, b, "vmaf")["vmaf_missing"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert measure(a, b, "vmaf")["vmaf_missing"] == "vmaf needs an ffmpeg with libvmaf on PATH; there is no ffmpeg"


@pytest.fixture(scope="module")
def alex(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an AlexNet of random weights."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    network = Lpips("alex").features.state_dict(prefix="features.")
    save_file({k: torch.randn_like(v) * 0.05 for k, v in network.items()}, folder / "alexnet-owt-7be5be79.safetensors")
    return folder


def test_lpips_of_a_clip(alex: Path) -> None:
    a, b = pair(5, 40, 44)
    x, y = (torch.from_numpy(v).permute(0, 3, 1, 2).float() / 127.5 - 1 for v in (a, b))
    expected = load_lpips("alex", alex)(x, y)
    networks = Networks(weights=alex)
    metrics = MetricSet("lpips:alex", networks, per_frame=True)
    metrics.update(a[:2], b[:2])
    metrics.update(a[2:], b[2:])
    row = metrics.result()
    assert row["per_frame"]["lpips:alex"] == pytest.approx(expected.tolist(), rel=1e-5)
    assert row["lpips:alex"] == pytest.approx(float(expected.mean()), rel=1e-5)
    assert networks.files == {"alexnet-owt-7be5be79.pth": sha256_of(alex / "alexnet-owt-7be5be79.safetensors")}
    small = MetricSet("lpips:alex", networks)
    small.update(a[:, :20], b[:, :20])
    assert small.result()["lpips:alex_missing"] == "frames of 44x20; sides of 31 are least"


def test_what_is_missing_is_said_and_not_asked_for_twice(
    alex: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def refuse(url: str, *_: Any) -> str:
        asked.append(url)
        raise OSError("no route to host")

    monkeypatch.setattr(weights, "_download", refuse)
    names = ("psnr", "lpips", "lpips:vgg", "lpips:alex", "fvd", "fvd:i3d400-crop", "fid", "tokens")
    reasons = missing_metrics(names, Networks(weights=alex))
    assert set(reasons) == {"lpips", "lpips:vgg", "fvd", "fvd:i3d400-crop", "fid"} and not asked
    assert all("leave out --offline" in reason and "MB from https://" in reason for reason in reasons.values())
    online = Networks(weights=alex, offline=False)
    for _ in range(2):
        reasons = missing_metrics(names, online)
        assert "no route to host" in reasons["lpips"] and "\n" not in reasons["lpips"]
    assert len(asked) == len(set(asked)) == 6, "vgg once, two addresses each of two I3Ds, Inception once"
    with pytest.raises(UsageError, match="there is no such file"):
        Networks(weights=tmp_path / "nowhere")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="--device cuda"):
            Networks(device="cuda")


def test_fetching(tmp_path: Path) -> None:
    """The first address that gives the right bytes wins; others leave nothing behind; progress counts bytes."""
    good, bad, target = tmp_path / "good", tmp_path / "bad", tmp_path / "cache" / "weights.pt"
    good.write_bytes(b"x" * 3_000_000)
    bad.write_bytes(b"y" * 10)
    file = WeightsFile(
        title="fvd test", file="weights.pt", variable="VIDTOK_TEST_WEIGHTS", megabytes=3, sha256=sha256_of(good),
        urls=((tmp_path / "gone").as_uri(), bad.as_uri(), good.as_uri()),
    )  # fmt: skip
    seen: list[tuple[int, int | None]] = []
    fetch(file, target, lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == good.read_bytes() and list(target.parent.iterdir()) == [target]
    assert seen[-1] == (3_000_000, 3_000_000) and len(seen) > 2
    target.unlink()
    good.write_bytes(b"z")
    with pytest.raises(ModelError, match=r"gone: .*bad: invalid hash value"):
        fetch(file, target)
    assert not list(target.parent.iterdir())
    with pytest.raises(ModelError, match="FVD weights: path says"):
        find(file, tmp_path / "nowhere")


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_scripts_of_unknown_hash_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Script(torch.nn.Module):
        def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
            return x.float().mean([2, 3]).repeat(1, 683)[:, :2048]

    path = tmp_path / "inception-2015-12-05.pt"
    torch.jit.script(Script()).save(str(path))
    monkeypatch.setenv("VIDTOK_FID_WEIGHTS", str(path))
    reason = missing_metrics(["fid"], Networks())["fid"]
    assert "would run its code" in reason and sha256_of(path) in reason
    monkeypatch.setenv(weights.TRUST, f"00ff, {sha256_of(path)}")
    assert not missing_metrics(["fid"], Networks())
    metrics = MetricSet("fid,psnr", Networks())
    a, b = pair(3)
    metrics.update(a, b)
    assert set(metrics.result()) == {"psnr"}, "fid is about a set of clips"
    source, result = metrics.features["fid"].pair  # type: ignore[union-attr]
    assert source.count == result.count == 3
    assert source.mean[:3] == pytest.approx(a.mean((0, 1, 2)), rel=1e-6)


def test_names_of_other_networks_stay_theirs() -> None:
    with pytest.raises(UsageError, match="not built"):
        from vidtok.metrics.table import metric_of

        metric_of("dists", Networks())
    assert json.dumps(sorted(lpips.BACKBONES)) == '["alex", "vgg"]'
