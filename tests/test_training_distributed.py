"""Two processes train as one does: the same clips, the same losses, one of them writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vidtok.errors import ConfigError
from vidtok.training import run
from vidtok.training.distributed import World
from vidtok.training.plan import load_config
from vidtok.training.tokenizer import check_start

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "configs" / "tiny.toml"
STAGES = "stages=[{steps=%d, batch=4, frames=5, size=32}]"
SMALL = ("model.time_stride=2", "model.space_stride=4", "log_every=1")  # patches of few values: quick to begin with


@pytest.fixture(scope="module")
def folder(make_clip: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips")
    make_clip(path / "a.mp4", frames=20, width=64, height=48)
    make_clip(path / "b.mp4", frames=12, width=48, height=80)
    (path / "broken.mp4").write_bytes(b"this is no video")
    return path


def torchrun(folder: Path, output: Path, *overrides: str) -> subprocess.Popen[str]:
    """`torchrun --nproc-per-node 2 -m vidtok train ...`, started."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "vidtok", "train", str(TINY), f"data.folders=['{folder}']", *SMALL, *overrides]
    command += ["--output", str(output), "--device", "cpu", "--threads", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def read_log(output: Path) -> list[dict[str, Any]]:
    lines = (output / "log.jsonl").read_text().splitlines() if (output / "log.jsonl").exists() else []
    return [record for record in map(json.loads, lines) if record["kind"] == "train"]


def alone(folder: Path, output: Path, *overrides: str, resume: bool = False) -> list[dict[str, Any]]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        items = [f"data.folders=['{folder}']", *SMALL, *overrides]
        run(TINY, items, output=output, device="cpu", resume=resume, warn=lambda _: None)
    finally:
        torch.set_num_threads(before)
    return read_log(output)


def test_two_processes_have_the_losses_of_one(folder: Path, tmp_path: Path) -> None:
    videos = f"validation={{folders=['{folder / 'a.mp4'}'], frames=5, short_side=48}}"
    items = (STAGES % 4, "optimizer.warmup_steps=2", "clip_gradient=0.5", videos, "validate_every=2")
    process = torchrun(folder, tmp_path / "two", *items)
    one = alone(folder, tmp_path / "one", *items)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    two = read_log(tmp_path / "two")
    assert [record["step"] for record in two] == [1, 2, 3, 4]  # one process writes, not both
    assert two[0]["loss"] == pytest.approx(one[0]["loss"], rel=1e-5)
    assert two[0]["psnr"] == pytest.approx(one[0]["psnr"], rel=1e-5)
    assert two[0]["gradient_norm"] == pytest.approx(one[0]["gradient_norm"], rel=1e-3)
    assert two[0]["digit_usage"] == one[0]["digit_usage"]
    assert [r["loss"] for r in two] == pytest.approx([r["loss"] for r in one], rel=1e-2)
    assert out.splitlines() == [str(tmp_path / "two" / "model.safetensors")]
    assert err.count("broken.mp4") == 2, err  # the name of the file and its path, in one warning
    state = json.loads((tmp_path / "two" / "last.json").read_text())
    assert state["processes"] == 2 and state["step"] == 4


def test_sigterm_stops_both_and_one_can_go_on(folder: Path, tmp_path: Path) -> None:
    items = (STAGES % 100_000, "optimizer.warmup_steps=2", "save_every=100000")
    process = torchrun(folder, tmp_path, *items)
    try:
        deadline = time.monotonic() + 200
        while not read_log(tmp_path) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (tmp_path / "last.json").exists(), err
    step = json.loads((tmp_path / "last.json").read_text())["step"]
    assert step == len(read_log(tmp_path)) > 0

    steps = []

    def progress(record: dict[str, Any], total: int) -> None:
        steps.append(record["step"])
        os.kill(os.getpid(), signal.SIGTERM)

    warnings: list[str] = []
    overrides = [f"data.folders=['{folder}']", *SMALL, *items]
    run(TINY, overrides, output=tmp_path, device="cpu", resume=True, warn=warnings.append, progress=progress)
    assert steps == [step + 1] and [w for w in warnings if "processes" in w]


def test_batches_must_divide(folder: Path, tmp_path: Path) -> None:
    config = load_config(TINY, ["stages=[{steps=2, batch=3, frames=5, size=32}]"])
    with pytest.raises(ConfigError, match="batch 3 cannot be shared equally by 2 processes"):
        check_start(config, tmp_path, World(torch.device("cpu"), rank=1, size=2), resume=False)
