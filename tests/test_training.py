"""The trainer: learns, resumes exactly, validates as eval does, and stops loudly when a run is lost."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from vidtok.checkpoint import describe
from vidtok.codec import DecodeOptions, EncodeOptions, decode_file, encode_file
from vidtok.errors import ConfigError, MissingDependencyError, ModelError, UnknownNameError
from vidtok.evaluate import EvalOptions, evaluate
from vidtok.training import run
from vidtok.training.distributed import World
from vidtok.training.losses import LOSSES, QUANTIZER_TERMS
from vidtok.training.monitor import Monitor, Usage
from vidtok.training.optimizer import Optimizer, OptimizerConfig, orthogonalize, schedule
from vidtok.training.plan import TrainConfig, load_config

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


Record = dict[str, Any]
SMALL = ("model.time_stride=2", "model.space_stride=4", "log_every=1")  # patches of few values: quick to begin with


def train(
    folder: Path, output: Path, *overrides: str, resume: bool = False, at_step: dict[int, int] | None = None
) -> list[Record]:
    """The log of a run; `at_step`: signals that the process gets at steps."""

    def progress(record: Record, total: int) -> None:
        if record["kind"] == "train" and record["step"] in (at_step or {}):
            os.kill(os.getpid(), (at_step or {})[record["step"]])

    warnings: list[str] = []
    items = [f"data.folders=['{folder}']", *SMALL, *overrides]
    run(TINY, items, output=output, resume=resume, warn=warnings.append, progress=progress, device="cpu")
    assert [w for w in warnings if "broken.mp4" in w], warnings
    return read_log(output)


def read_log(output: Path, kind: str = "train") -> list[Record]:
    records = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [record for record in records if record["kind"] == kind]


def losses(records: list[Record]) -> list[float]:
    return [record["loss"] for record in records]


def terms(record: Record) -> dict[str, float]:
    """What adds up to the loss: it stands between loss and psnr."""
    names = list(record)
    return {name: record[name] for name in names[names.index("loss") + 1 : names.index("psnr")]}


FEW = ("stages=[{steps=3, batch=2, frames=5, size=32}, {steps=3, batch=1, frames=9, size=32}]",)
SHORT = "stages=[{steps=2, batch=1, frames=5, size=32}]"


@pytest.mark.parametrize("quantizer", ["", '{kind="lfq", bits=9}', '{kind="bsq", bits=9}'], ids=["fsq", "lfq", "bsq"])
def test_every_quantizer_trains_encodes_and_decodes(quantizer: str, folder: Path, tmp_path: Path, clip: Path) -> None:
    log = train(folder, tmp_path / "run", *FEW, *([f"model.quantizer={quantizer}"] if quantizer else []))
    assert [record["step"] for record in log] == [1, 2, 3, 4, 5, 6]
    assert all(np.isfinite(record["loss"]) and record["skipped_files"] == 1 for record in log)
    digits = 9 if quantizer else 3
    assert all(len(record["digit_usage"]) == len(record["digit_perplexity"]) == digits for record in log)
    assert all(record["loss"] == pytest.approx(sum(terms(record).values()), rel=1e-5) for record in log)
    assert set(terms(log[0])) == {"log_l2", *(QUANTIZER_TERMS if quantizer else ())}
    model, tokens = tmp_path / "run" / "model.safetensors", tmp_path / "t.vtok"
    encode_file(clip, tokens, EncodeOptions(model=model))
    report = decode_file(tokens, tmp_path / "out.npy", DecodeOptions(model=model))
    assert report.frames == 10 and np.load(tmp_path / "out.npy").shape == (10, 48, 64, 3)


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("whole")
    train(folder, output, *FEW)
    return output


def test_a_run_stopped_by_sigterm_goes_on_bit_for_bit(folder: Path, whole: Path, tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    first = train(folder, tmp_path, *FEW, at_step={4: signal.SIGTERM})  # inside the second stage
    assert [record["step"] for record in first] == [1, 2, 3, 4] and signal.getsignal(signal.SIGTERM) == handler
    with pytest.raises(ConfigError, match="--resume"):
        train(folder, tmp_path, *FEW)
    assert losses(train(folder, tmp_path, *FEW, resume=True)) == losses(read_log(whole))
    assert describe(tmp_path / "model.safetensors").model_id == describe(whole / "model.safetensors").model_id


KILLED = """
import os, sys, torch
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
from test_training import FEW, train
torch.set_num_threads(1)
train(Path(sys.argv[2]), Path(sys.argv[3]), *FEW, "save_every=2", at_step={5: 9})
"""


def test_a_run_killed_between_checkpoints_goes_on_bit_for_bit(folder: Path, whole: Path, tmp_path: Path) -> None:
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", KILLED, here, str(folder), str(tmp_path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert json.loads((tmp_path / "last.json").read_text())["step"] == 4
    assert [record["step"] for record in read_log(tmp_path)] == [1, 2, 3, 4, 5]
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"kind": "train", "st')  # killed while writing
    (tmp_path / ".last.safetensors.tmp-1").write_bytes(b"half")
    assert losses(train(folder, tmp_path, *FEW, "save_every=2", resume=True)) == losses(read_log(whole))
    a, b = (load_file(output / "last.safetensors") for output in (whole, tmp_path))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert not [path for path in tmp_path.iterdir() if "tmp" in path.name]


def test_resuming_says_what_changed_and_refuses_what_cannot_be(folder: Path, whole: Path, tmp_path: Path) -> None:
    for name in ("last.safetensors", "last.json"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    items = [f"data.folders=['{folder}']", *SMALL, *FEW]
    with pytest.raises(ConfigError, match=r"another model .*width"):
        run(TINY, [*items, "model.backbone.width=32"], output=tmp_path, resume=True, device="cpu")
    warnings: list[str] = []
    run(TINY, [*items, "log_every=2", "ema=0.5"], output=tmp_path, resume=True, device="cpu", warn=warnings.append)
    assert [w for w in warnings if "ema" in w and "log_every" not in w]
    data = (tmp_path / "last.safetensors").read_bytes()
    (tmp_path / "last.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match="cannot be resumed"):
        run(TINY, items, output=tmp_path, resume=True, device="cpu", warn=warnings.append)


def test_it_learns(folder: Path, tmp_path: Path) -> None:
    log = train(folder, tmp_path / "run", "stages=[{steps=60, batch=2, frames=5, size=32}]")
    start, end = (np.mean([record["psnr"] for record in part]) for part in (log[:10], log[-10:]))
    assert end > start + 1.5, (start, end)


def test_half_precision_keeps_full_weights(folder: Path, whole: Path, tmp_path: Path) -> None:
    log = train(folder, tmp_path, "precision=bf16", SHORT.replace("batch=1", "batch=2"))
    full = losses(read_log(whole))[0]
    assert log[0]["loss"] == pytest.approx(full, rel=0.05) and log[0]["loss"] != full
    floats = {name: t.dtype for name, t in load_file(tmp_path / "last.safetensors").items() if "random" not in name}
    assert set(floats.values()) == {torch.float32}


def nan_at(calls: set[int]) -> Callable[[Tensor, Tensor], Tensor]:
    """L2, but not a number in those calls (from 0)."""
    counter = itertools.count()

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return (x - y).square().mean() * (float("nan") if next(counter) in calls else 1.0)

    return loss


def test_a_bad_step_is_told_skipped_and_counted(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES, "l2", nan_at({1, 2, 4}))
    log = train(folder, tmp_path, "loss=l2", "max_bad_steps=3", *FEW)
    assert [record["skipped_steps"] for record in log] == [0, 1, 2, 2, 3, 3]
    assert [record["loss"] is None for record in log] == [False, True, True, False, True, False]
    skipped = read_log(tmp_path, "skipped")
    assert [record["step"] for record in skipped] == [2, 3, 5] and all("'l2' is nan" in r["reason"] for r in skipped)
    assert json.loads((tmp_path / "last.json").read_text())["updates"] == 3
    assert all(t.isfinite().all() for t in load_file(tmp_path / "model.safetensors").values())


def test_bad_steps_in_a_row_stop_the_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES, "l2", nan_at({2, 3, 4, 5}))
    with pytest.raises(ModelError, match=r"3 steps in a row.*step 5: the loss term 'l2' is nan"):
        train(folder, tmp_path / "a", "loss=l2", "max_bad_steps=3", *FEW)
    monkeypatch.setitem(LOSSES, "l2", lambda x, y: ((x - y) * 0).abs().sum().sqrt())  # finite, but has no gradient
    with pytest.raises(ModelError, match=r"step 2: the gradient of .* is not finite"):
        train(folder, tmp_path / "b", "loss=l2", "max_bad_steps=2", *FEW)


def config_of(**changes: object) -> TrainConfig:
    return load_config(TINY, [f"{name}={value}" for name, value in changes.items()])


@pytest.mark.parametrize("usual", [0.4, -3.0])
def test_divergence_names_step_and_term(usual: float) -> None:
    config = config_of(divergence=2.0, divergence_steps=5)
    monitor = Monitor(config)
    rng = np.random.default_rng(0)

    def losses_of(distortion: float) -> dict[str, float]:
        return {"loss": distortion + 0.1, "root4": distortion, "entropy": 0.1 + 0.01 * rng.random()}

    for step in range(1, 20):  # single high losses are usual
        monitor.follow(step, None, losses_of(usual + (9 if step % 3 == 0 else 0.01 * rng.random())))
    for step in range(20, 24):
        monitor.follow(step, None, losses_of(usual + 9))
    monitor = Monitor(config, json.loads(json.dumps(monitor.state)))  # as after a resume
    with pytest.raises(ModelError, match=r"step 24: .*'root4' grew most"):
        monitor.follow(24, None, losses_of(usual + 9))


def test_stages_and_qualities_have_their_own_usual_loss() -> None:
    config = config_of(divergence=2.0, divergence_steps=3)
    monitor = Monitor(config)
    for step in range(1, 61):
        scale = 100 if step > 40 else 1  # the second stage begins after 40 steps
        monitor.follow(step, step % 2, {"loss": scale * (1.0 if step % 2 else 10.0)})


def test_usage_counts_digits() -> None:
    usage, world = Usage((2, 4), torch.device("cpu")), World(torch.device("cpu"))
    usage.count(torch.tensor([0, 1, 0, 1]))  # the second digit is always 0
    found = usage.result(world)
    assert found["digit_usage"] == [1.0, 0.25] and found["digit_perplexity"] == [2.0, 1.0]
    assert found["usage"] == 0.625 and found["perplexity"] == 1.5 and found["evenness"] == 0.5
    usage.count(torch.arange(8).reshape(2, 2, 2))
    assert usage.result(world)["evenness"] == 1.0


def test_collapse_fails_loudly(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"step 3: the ids have collapsed.*min_usage 1.0"):
        train(folder, tmp_path, "min_usage=1.0", "collapse_after=2", *FEW)


def test_validation_is_what_eval_says_of_the_file(folder: Path, tmp_path: Path) -> None:
    videos = f"validation={{folders=['{folder}'], frames=9, short_side=40}}"
    log = train(folder, tmp_path, videos, "validate_every=2", "save_every=3", *FEW)
    assert len(log) == 6
    found = read_log(tmp_path, "validation")
    assert [record["step"] for record in found] == [0, 2, 4, 6] and found[0]["failed"] == 1
    *rows, summary = evaluate(
        [str(folder)],
        EvalOptions(
            metrics=("psnr", "ms_ssim"),
            models=(str(tmp_path / "model.safetensors"),),
            encode=EncodeOptions(resize="40", frames=9),
        ),
    )
    good = [row for row in rows if "error" not in row]
    assert found[-1]["psnr"] == summary["psnr"] and found[-1]["psnr_worst"] == summary["psnr_worst"]
    assert found[-1]["raw_bpp"] == pytest.approx(sum(row["raw_bpp"] for row in good) / len(good))
    best = max(found, key=lambda record: record["psnr"])
    assert json.loads((tmp_path / "best.json").read_text())["step"] == best["step"]
    kept, last = (describe(tmp_path / f"{name}.safetensors").model_id for name in ("best", "model"))
    assert (kept == last) == (best["step"] == 6)


def test_a_frozen_encoder_leaves_ids_as_they_were(folder: Path, tmp_path: Path) -> None:
    def weights(*stages: str) -> dict[str, Tensor]:
        output = tmp_path / str(len(stages))
        train(folder, output, f"stages=[{', '.join(stages)}]", "optimizer.cooldown=0.0")
        return load_file(output / "model.safetensors")

    stage = "{steps=3, batch=1, frames=5, size=32%s}"
    before = weights(stage % "")
    after = weights(stage % "", stage % ", freeze_encoder=true, losses=[{kind='l1'}]")
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder"} and any(name.startswith("encoder") for name in before)
    assert ["l1" in record for record in read_log(tmp_path / "2")] == [False] * 3 + [True] * 3


def test_what_is_drawn_depends_on_seed_and_step_alone() -> None:
    stage = "{steps=600, batch=1, frames=9, size=32, qualities=[3.0, 0.0, 1.0], inside=0.25}"
    model = "{kind='recurrent', qualities=3, quantizer={kind='fsq', levels=[3]}}"
    config, other = (config_of(stages=f"[{stage}]", model=model, seed=seed) for seed in (0, 1))
    draws = [config.draw(step) for step in range(600)]
    assert draws == [config.draw(step) for step in range(600)] != [other.draw(step) for step in range(600)]
    qualities, insides = zip(*draws, strict=True)
    assert set(qualities) == {1, 3} and 0.65 < qualities.count(1) / 600 < 0.85 and 0.15 < np.mean(insides) < 0.35
    assert config_of().draw(7) == (None, False)


RECURRENT = (
    "{kind='recurrent', time_stride=2, space_stride=4, qualities=2, quantizer={kind='fsq', levels=[6, 5, 5]}, "
    "backbone={coefficients=24, notes=4, width=16, hidden=16, groups=3, delayed=4, period=3}}"
)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_of_several_qualities(precision: str, folder: Path, tmp_path: Path) -> None:
    stage = "{steps=4, batch=2, frames=5, size=32, qualities=[1.0, 1.0], inside=0.5}"
    frozen = "{steps=1, batch=2, frames=5, size=32, freeze_encoder=true}"
    videos = f"validation={{folders=['{folder / 'a.mp4'}'], frames=9, short_side=48}}"
    log = train(
        folder, tmp_path, f"model={RECURRENT}", f"stages=[{stage}, {frozen}]", videos, f"precision={precision}",
        "auxiliary=0.5", "validate_every=100",
    )  # fmt: skip
    assert {record["quality"] for record in log[:4]} == {1, 2} and log[4]["quality"] is None
    for record in log:
        assert record["loss"] == pytest.approx(sum(terms(record).values()), rel=1e-5)
        assert {"log_l2", "auxiliary_estimate"} <= set(terms(record))
    found = read_log(tmp_path, "validation")[-1]
    rows = [evaluate_one(folder / "a.mp4", tmp_path / "model.safetensors", quality) for quality in (1, 2)]
    assert [rate["psnr"] for rate in found["qualities"]] == [row["psnr"] for row in rows]
    assert [rate["raw_bpp"] for rate in found["qualities"]] == pytest.approx([row["raw_bpp"] for row in rows])
    assert found["psnr"] == pytest.approx(np.mean([row["psnr"] for row in rows]))


def evaluate_one(video: Path, model: Path, quality: int) -> Record:
    options = EvalOptions(
        metrics=("psnr",), models=(str(model),), qualities=(quality,), encode=EncodeOptions(resize="48", frames=9)
    )
    return next(iter(evaluate([video], options)))


def test_tensorboard_is_wanted_only_when_asked_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        train(folder, tmp_path / "a", "tensorboard=true", SHORT)
    assert len(train(folder, tmp_path / "b", SHORT)) == 2


def test_tensorboard_shows_scalars_and_pictures(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is an extra")
    train(folder, tmp_path, "tensorboard=true", SHORT)
    (events,) = (tmp_path / "tensorboard").iterdir()
    data = events.read_bytes()
    assert b"train/psnr" in data and b"train/digit_usage/3" in data and b"clip 4" in data and b"PNG" in data


def test_bad_configs_are_refused(tmp_path: Path) -> None:
    for override, words in (
        ("stages=[{steps=1, batch=1, frames=6, size=32}]", "1 \\+ k \\* 4"),
        ("stages=[]", "at least one"),
        ("stages=[{steps=1, batch=1, frames=5, size=32, qualities=[0.5, 0.5]}]", "up to 1 rates"),
        ("stages=[{steps=1, batch=1, frames=1, size=32, inside=0.5}]", "more than one latent frame"),
        ("model.backbone.widht=3", "did you mean 'width'"),
        ("loss=l3", "did you mean"),
        ("precision=fp8", "did you mean|known"),
        ("log_every=0", "at least 1"),
        ("validation.folders=['nowhere']", "nowhere"),
    ):
        with pytest.raises((ConfigError, UnknownNameError), match=words):
            run(TINY, [f"data.folders=['{Path(__file__).parent}']", override], output=tmp_path / "run", device="cpu")
    with pytest.raises(ConfigError, match="no usable video"):
        run(TINY, [f"data.folders=['{tmp_path}']"], output=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_the_optimizer_leaves_alone_what_has_no_gradient() -> None:
    torch.manual_seed(0)
    parameters = {name: torch.nn.Parameter(torch.randn(4, 4, 1, 1)) for name in ("body.a", "body.b", "c", "d")}
    before = {name: p.detach().clone() for name, p in parameters.items()}
    for name in ("body.a", "c"):
        parameters[name].grad = torch.randn(4, 4, 1, 1)
    Optimizer(parameters.items(), OptimizerConfig()).step(1.0)
    assert {name for name, p in parameters.items() if not torch.equal(p, before[name])} == {"body.a", "c"}


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
