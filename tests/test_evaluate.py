"""evaluate, compare and bench with a tiny untrained model: rows, means, failures, side-by-side videos."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

import vidtok
from vidtok.bench import BenchOptions, bench, moving_picture, write_moving_picture
from vidtok.checkpoint import save_tokenizer
from vidtok.codec import EncodeOptions
from vidtok.compare import compare
from vidtok.errors import UnknownNameError, UsageError
from vidtok.evaluate import EvalOptions, evaluate
from vidtok.metrics.table import measure
from vidtok.model.quantizer import QuantizerConfig
from vidtok.model.tokenizer import ModelConfig, build_tokenizer
from vidtok.video import VideoReader, VideoWriter


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of a model with random weights."""
    return make_model(tmp_path_factory.mktemp("model") / "tiny.safetensors", seed=0)


def make_model(path: Path, seed: int) -> str:
    torch.manual_seed(seed)
    sizes = {"width": 16, "hidden": 16, "delayed": 4, "encoder_blocks": 1, "decoder_blocks": 1}
    config = ModelConfig(backbone=sizes, quantizer=QuantizerConfig(levels=(4, 4, 3)))
    save_tokenizer(path, build_tokenizer(config).eval(), name=path.stem)
    return str(path)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: a large clip, a small one inside a folder, and a file that is no video."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "inner").mkdir()
    write_moving_picture(folder / "a.mp4", 21, 168, 176)
    write_moving_picture(folder / "inner/b.mp4", 5, 42, 51)
    (folder / "broken.mp4").write_bytes(b"this is no video" * 100)
    return folder


def frames_of(path: Path) -> np.ndarray:
    with VideoReader(path) as video:
        return np.stack([frame.pixels for frame in video])


def test_rows_and_summary(model: str, clips: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    rows = list(
        evaluate([clips], EvalOptions(models=(model,)), progress=lambda done, total: seen.append((done, total)))
    )
    *clip_rows, summary = rows
    assert [Path(row["path"]).name for row in clip_rows] == ["a.mp4", "broken.mp4", "b.mp4"]
    a, broken, b = clip_rows
    assert (a["frames"], a["width"], a["height"]) == (21, 176, 168)
    assert "broken.mp4" in broken["error"] and "psnr" not in broken
    assert b["ms_ssim"] is None and "short side 42" in b["ms_ssim_missing"]
    assert 0 < a["psnr"] < 100 and 0 < a["ms_ssim"] < 1
    assert a["encode_fps"] > 0 and a["decode_fps"] > 0
    assert len(a["digit_entropy"]) == 3 and 0 < a["usage"] <= 1
    assert summary["summary"] is True
    assert (summary["clips"], summary["failed"], summary["frames"]) == (2, 1, 26)
    for key in ("psnr", "ssim", "bpp", "encode_fps"):
        assert summary[key] == pytest.approx((a[key] + b[key]) / 2)
    assert summary["ms_ssim"] == a["ms_ssim"]
    assert summary["ms_ssim_missing"].startswith("1 of 2 clips: short side 42")
    worst = min((a, b), key=lambda row: row["psnr"])
    assert (summary["psnr_worst"], summary["psnr_worst_path"]) == (worst["psnr"], worst["path"])
    assert (42, 42) in seen and all(done <= 42 for done, _ in seen)


def test_numbers_are_those_of_encode_and_decode(model: str, clips: Path, tmp_path: Path) -> None:
    """bpp counts the bytes of the file, metrics those of the frames that `decode` writes."""
    options = {"model": model, "resize": "96x80", "frames": 13, "start": 0.1}
    report = vidtok.encode(clips / "a.mp4", tmp_path / "a.vtok", **options)
    vidtok.decode(tmp_path / "a.vtok", tmp_path / "out.npy", model=model)
    vidtok.encode(clips / "a.mp4", tmp_path / "b.vtok", **options)
    row, _ = evaluate(
        [clips / "a.mp4"],
        EvalOptions(models=(model,), metrics=("psnr", "ssim", "flicker"), encode=EncodeOptions(**options)),
    )
    assert row["file_bytes"] == (tmp_path / "a.vtok").stat().st_size == report.file_bytes
    assert row["bpp"] == row["file_bytes"] * 8 / (13 * 96 * 80)
    assert (row["frames"], row["width"], row["height"]) == (13, 96, 80)
    from vidtok.codec import open_source

    with open_source(clips / "a.mp4", EncodeOptions(**options)) as video:
        source = np.stack([frame.pixels for frame in video])
    expected = measure(source, np.load(tmp_path / "out.npy"), "psnr,ssim,flicker")
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, abs=1e-6)


def test_several_models(model: str, clips: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other.safetensors", seed=1)
    save = tmp_path / "beside"
    options = EvalOptions(models=(model, other), metrics=("psnr",), save=save)
    rows = list(evaluate([clips / "inner/b.mp4"], options))
    assert [(row["model"], row.get("summary", False)) for row in rows] == [
        (model, False),
        (other, False),
        (model, True),
        (other, True),
    ]
    assert rows[0]["model_id"] != rows[1]["model_id"]
    assert "usage" not in rows[0] and "ssim" not in rows[0]
    assert sorted(path.name for path in save.iterdir()) == ["b.other.mp4", "b.tiny.mp4"]
    both = frames_of(save / "b.tiny.mp4")
    assert both.shape == (5, 42, 102, 3)
    assert measure(frames_of(clips / "inner/b.mp4"), both[:, :, :51], "psnr")["psnr"] > 25  # type: ignore[operator]


def test_saving_never_overwrites(model: str, clips: Path, tmp_path: Path) -> None:
    options = EvalOptions(models=(model,), metrics=("psnr",), save=tmp_path)
    for _ in range(2):
        list(evaluate([clips / "inner/b.mp4"], options))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.2.mp4", "b.mp4"]


def test_known_but_not_built(model: str, clips: Path) -> None:
    options = EvalOptions(models=(model,), metrics=("psnr", "dists"))
    row, summary = evaluate([clips / "inner/b.mp4"], options)
    assert row["dists"] is None and row["dists_missing"].startswith("not built")
    assert summary["dists"] is None and "not built" in summary["dists_missing"]


@pytest.mark.parametrize(("metrics", "words"), [(("dists",), "dists: not built"), (("ms_ssim",), "short side 42")])
def test_strict_stops_before_any_work(model: str, clips: Path, metrics: tuple[str, ...], words: str) -> None:
    options = EvalOptions(models=(model,), metrics=metrics, encode=EncodeOptions(strict=True))
    with pytest.raises(UsageError, match=words):
        next(evaluate([clips], options))


def test_wrong_names_stop_everything(model: str, clips: Path) -> None:
    with pytest.raises(UnknownNameError, match="'psn'"):
        EvalOptions(metrics=("psn",))
    with pytest.raises(UnknownNameError):
        next(evaluate([clips], EvalOptions(models=("no-such-model",))))
    with pytest.raises(UsageError, match="nothing"):
        EvalOptions(models=())


def test_input_that_is_not_there(model: str, tmp_path: Path) -> None:
    row, summary = evaluate([tmp_path / "no.mp4"], EvalOptions(models=(model,)))
    assert "no such file" in row["error"]
    assert (summary["clips"], summary["failed"], summary["psnr"]) == (0, 1, None)
    with pytest.raises(UsageError, match="no video to evaluate"):
        next(evaluate([tmp_path], EvalOptions(models=(model,))))


def test_compare(clips: Path, tmp_path: Path) -> None:
    frames = frames_of(clips / "inner/b.mp4")
    darker = (frames * 0.9).astype(np.uint8)
    path = tmp_path / "darker.mkv"
    with VideoWriter(path, width=51, height=42, time_base=Fraction(1, 25), chroma444=True, crf=1) as writer:
        writer.write(darker[:4], range(4))
    warnings: list[str] = []
    row = compare(clips / "inner/b.mp4", path, "psnr,flicker", warn=warnings.append, save=tmp_path / "both.mp4")
    expected = measure(frames[:4], frames_of(path), "psnr,flicker")
    assert (row["frames"], row["frames_left_out"]) == (4, 1)
    assert any("differ in length" in text for text in warnings)
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert frames_of(tmp_path / "both.mp4").shape == (4, 42, 102, 3)
    assert compare(path, path)["psnr"] == 100
    with pytest.raises(UsageError, match=r"176x168 .* 51x42"):
        compare(clips / "a.mp4", path)
    reading = EncodeOptions(resize="40x32", frames=2)
    assert compare(clips / "a.mp4", path, "psnr", reading=reading)["frames"] == 2


def test_bench(model: str) -> None:
    options = BenchOptions(frames=5, width=40, height=32, runs=2, file_frames=6)
    seen: list[tuple[int, int | None]] = []
    (row,) = bench([model], options, progress=lambda done, total: seen.append((done, total)))
    for key in ("encode_fps", "decode_fps", "encode_file_fps", "decode_file_fps", "conv_flops"):
        assert row[key] > 0
    assert 0 < row["encode_share"] < 2 and 0 < row["decode_share"] < 2
    assert 50e6 < row["peak_memory_bytes"] < 4e9
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_bench_flops_are_those_of_the_layers(model: str) -> None:
    """Padding in time and space counted: 5 frames of 40x32 are 2 latent frames of 5x4 cells."""
    options = BenchOptions(frames=5, width=40, height=32, runs=1, files=False, memory=False)
    (row,) = bench([model], options)
    assert row["peak_memory_bytes"] is None and "encode_file_fps" not in row
    cells, width, patch = 2 * 5 * 4, 16, 4 * 8 * 8 * 3
    least = 2 * cells * patch * width / 5  # the inlet alone
    assert least < row["encode_flops"] < 4 * least
    with pytest.raises(UsageError, match="at least 1"):
        BenchOptions(runs=0)
    with pytest.raises(UsageError, match="nothing to time"):
        bench([], options)


def test_moving_picture() -> None:
    clip = moving_picture(3, 20, 30)
    assert clip.shape == (3, 20, 30, 3) and clip.dtype == np.uint8
    assert clip.std() > 20 and (clip[0] != clip[1]).any()
