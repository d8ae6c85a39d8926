"""The trainer: learns, resumes exactly, refuses what is wrong; every quantizer through train, encode and decode."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from vidtok.checkpoint import describe
from vidtok.codec import DecodeOptions, EncodeOptions, decode_file, encode_file
from vidtok.errors import ConfigError, ModelError, UnknownNameError
from vidtok.training import run
from vidtok.training.data import Clips, DataConfig
from vidtok.training.losses import LOSSES
from vidtok.training.optimizer import OptimizerConfig, orthogonalize, schedule

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "configs" / "tiny.toml"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(make_clip: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips, a picture and a file that is broken."""
    import av

    path = tmp_path_factory.mktemp("clips")
    make_clip(path / "a.mp4", frames=20, width=64, height=48)
    (path / "deeper").mkdir()
    make_clip(path / "deeper" / "b.mp4", frames=12, width=48, height=80)
    (path / "broken.mp4").write_bytes(b"this is no video")
    y, x = np.mgrid[0:64, 0:72]
    picture = np.stack([x * 3, y * 4, (x * y) % 256], -1).astype(np.uint8)
    with av.open(str(path / "still.png"), "w", format="image2") as container:
        stream = container.add_stream("png", width=72, height=64, pix_fmt="rgb24")
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def train(folder: Path, output: Path, *overrides: str, resume: bool = False) -> list[dict[str, float]]:
    warnings: list[str] = []
    items = [f"data.folders=['{folder}']", "log_every=1", *overrides]
    run(TINY, items, output=output, resume=resume, warn=warnings.append)
    assert [w for w in warnings if "broken.mp4" in w], warnings
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


FEW = ("stages=[{steps=3, batch=2, frames=5, size=32}, {steps=3, batch=1, frames=9, size=32}]",)


@pytest.mark.parametrize("quantizer", ["", '{kind="lfq", bits=9}', '{kind="bsq", bits=9}'], ids=["fsq", "lfq", "bsq"])
def test_every_quantizer_trains_encodes_and_decodes(quantizer: str, folder: Path, tmp_path: Path, clip: Path) -> None:
    log = train(folder, tmp_path / "run", *FEW, *([f"model.quantizer={quantizer}"] if quantizer else []))
    assert [record["step"] for record in log] == [1, 2, 3, 4, 5, 6]
    assert all(np.isfinite(record["loss"]) and record["skipped_files"] == 1 for record in log)
    model, tokens = tmp_path / "run" / "model.safetensors", tmp_path / "t.vtok"
    encode_file(clip, tokens, EncodeOptions(model=model))
    report = decode_file(tokens, tmp_path / "out.npy", DecodeOptions(model=model))
    assert report.frames == 10 and np.load(tmp_path / "out.npy").shape == (10, 48, 64, 3)


def test_a_resumed_run_gives_the_same_losses(folder: Path, tmp_path: Path) -> None:
    whole = train(folder, tmp_path / "whole", *FEW)
    # stopped after step 4, inside the second stage, as SIGTERM would; the plan stays the same
    import vidtok.training.tokenizer as trainer

    class StopAfter(trainer._StopSignal):
        checks = 0

        @property
        def asked(self) -> bool:
            self.checks += 1
            return self.checks > 4

        @asked.setter
        def asked(self, value: bool) -> None: ...

    original = trainer._StopSignal
    trainer._StopSignal = StopAfter  # type: ignore[misc]
    try:
        first = train(folder, tmp_path / "parts", *FEW)
    finally:
        trainer._StopSignal = original  # type: ignore[misc]
    assert [record["step"] for record in first] == [1, 2, 3, 4]
    with pytest.raises(ConfigError, match="--resume"):
        train(folder, tmp_path / "parts", *FEW)
    parts = train(folder, tmp_path / "parts", *FEW, resume=True)
    assert [record["loss"] for record in parts] == [record["loss"] for record in whole]
    a, b = (describe(tmp_path / name / "model.safetensors").model_id for name in ("whole", "parts"))
    assert a == b


def test_it_learns(folder: Path, tmp_path: Path) -> None:
    log = train(folder, tmp_path / "run", "stages=[{steps=60, batch=2, frames=5, size=32}]")
    start, end = (np.mean([record["psnr"] for record in part]) for part in (log[:10], log[-10:]))
    assert end > start + 1.5, (start, end)


def test_divergence_stops_the_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES, "l2", lambda x, y: (x - y).sum() * float("nan"))
    with pytest.raises(ModelError, match="diverged"):
        train(folder, tmp_path / "run", "loss=l2", "max_bad_steps=3", *FEW)


def test_bad_configs_are_refused(folder: Path, tmp_path: Path) -> None:
    for override, words in (
        ("stages=[{steps=1, batch=1, frames=6, size=32}]", "1 \\+ k \\* 4"),
        ("stages=[]", "at least one"),
        ("model.backbone.widht=3", "did you mean 'width'"),
        ("loss=l3", "did you mean"),
    ):
        with pytest.raises(ConfigError if "loss" not in override else (ConfigError, UnknownNameError), match=words):
            run(TINY, [override], output=tmp_path / "run")
    with pytest.raises(ConfigError, match="no usable video"):
        run(TINY, [f"data.folders=['{tmp_path}']"], output=tmp_path / "run")
    assert not (tmp_path / "run" / "state.json").exists()


def test_batches_depend_on_seed_and_step_alone(folder: Path, tmp_path: Path) -> None:
    config = DataConfig(folders=(str(folder),), cache=str(tmp_path / "cache"), short_side=64)
    warnings: list[str] = []
    first, second = Clips(config, 32, warnings.append), Clips(config, 32, warnings.append)  # the second from the cache
    assert len(first.videos) == 2 and len(first.images) == 1 and first.skipped == 1
    for step in range(6):
        batch = first.batch(3, step, 2, 9, 32)
        assert batch.shape == (2, 9, 32, 32, 3) and batch.dtype == torch.uint8
        assert torch.equal(batch, second.batch(3, step, 2, 9, 32))
    assert not torch.equal(first.batch(3, 0, 2, 9, 32), first.batch(4, 0, 2, 9, 32))


def test_orthogonalize() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((24, 216), (24, 24), (216, 24)):
        update = orthogonalize(torch.randn(*shape, generator=generator))
        values = torch.linalg.svdvals(update)
        assert update.shape == shape and float(values.min()) > 0.05 and float(values.max()) < 1.25
    matrix = torch.randn(8, 30, generator=generator)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.nn.functional.cosine_similarity((u @ v).flatten(), orthogonalize(matrix).flatten(), dim=0) > 0.97


def test_schedule() -> None:
    config = OptimizerConfig(warmup_steps=10, cooldown=0.5)
    rates = [schedule(step, 100, config) for step in range(101)]
    assert rates[0] == 0.1 and rates[9] == rates[49] == 1 and rates[75] == 0.5 and rates[100] == 0
    assert all(a >= b for a, b in itertools.pairwise(rates[9:]))
