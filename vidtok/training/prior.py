"""Training a prior on token files: one visible loop, as in `tokenizer`, and as exactly resumed.

The network is the integer one (`quantized`), so the bits per id of the log are those that files will have, up to the
limits of frequencies and coder; validation takes them from the shares that files are coded with.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vidtok.bitstream import priors
from vidtok.bitstream.network import Network, Numbers, PriorConfig
from vidtok.bitstream.prior import Course
from vidtok.checkpoint import write_atomically
from vidtok.config import apply_overrides, from_dict, load_toml, to_dict
from vidtok.errors import ConfigError, ModelError
from vidtok.training.distributed import World, joined
from vidtok.training.ids import TokenData, find_files
from vidtok.training.inherit import inherit
from vidtok.training.monitor import find_bad
from vidtok.training.optimizer import Optimizer, OptimizerConfig, schedule
from vidtok.training.quantized import QuantizedNetwork
from vidtok.training.state import Log, Run, load_run, save_best, save_model, save_run
from vidtok.training.stop import StopSignal

Warn = Callable[[str], object]
Progress = Callable[[dict[str, Any], int], None]


@dataclass(frozen=True, kw_only=True)
class PriorSizes:
    """Sizes of the network; digits and stages are those of the token files. See `PriorConfig`."""

    free: int = 0
    block: int = 1
    joint: int = 32
    period: int = 32
    embedding: int = 48
    state: int = 64
    features: int = 128
    hidden: int = 48


@dataclass(frozen=True, kw_only=True)
class PriorData:
    folders: tuple[str, ...]  # token files, or folders of them
    validation: tuple[str, ...] = ()  # of others, to measure; empty: none is measured


@dataclass(frozen=True, kw_only=True)
class PriorTrainConfig:
    """A complete run. ConfigError where it makes no sense."""

    kind: str = "prior"
    name: str  # of the model that it is for, which names the file
    description: str = ""
    seed: int = 0
    init: str = ""  # what to start from: another prior, or the last.safetensors of a run; empty: nothing
    steps: int
    batch: int = 8  # stretches a step
    latents: int = 16  # of a stretch, at most: those that a chunk of a file has
    size: int = 32  # cells a side
    ema: float = 0.99  # decay of the averaged weights, which are what is saved
    clip_gradient: float = 1.0  # global norm; 0: off
    save_every: int = 250  # steps
    log_every: int = 20
    validate_every: int = 500
    max_bad_steps: int = 20  # non-finite losses or gradients in a row before the run stops
    data: PriorData
    model: PriorSizes = field(default_factory=PriorSizes)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        if self.kind != "prior":
            raise ConfigError(f"kind is 'prior', got {self.kind!r}")
        names = ("steps", "batch", "latents", "save_every", "log_every", "validate_every", "max_bad_steps")
        for name in names:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is at least 1, got {getattr(self, name)}")
        if self.size < 2 or self.size % 2:
            raise ConfigError(f"size is an even number of cells, got {self.size}")


INNER = ("remember", "known", "below", "near", "mix", "first", "common.others", "free")  # matrices for Muon

PriorRun = Run[PriorTrainConfig, QuantizedNetwork]


def run(
    config_path: str | Path,
    overrides: Sequence[str] = (),
    *,
    device: str = "auto",
    output: str | Path | None = None,
    resume: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
    warn: Warn = print,
) -> Path:
    """Train until the config's last step or SIGTERM/SIGINT; returns the prior's file."""
    config = from_dict(PriorTrainConfig, apply_overrides(load_toml(Path(config_path)), overrides))
    if threads:
        torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = Path(output or Path("runs") / f"{config.name}-prior")
    with joined(torch.device(device)) as world, StopSignal() as stop:
        if (folder / "last.json").exists() and not resume:
            raise ConfigError(f"{folder} holds a run; --resume continues it, another --output starts anew")
        if config.batch % world.size:
            raise ConfigError(f"batch {config.batch} cannot be shared equally by {world.size} processes")
        world.wait()  # until all have looked: the first will write soon
        train(config, folder, world, stop, progress or _silent, warn if world.first else _silent)
    return folder / f"model{priors.SUFFIX}"


def train(
    config: PriorTrainConfig, folder: Path, world: World, stop: StopSignal, progress: Progress, warn: Warn
) -> None:
    """The loop. ModelError when numbers are not finite `max_bad_steps` times in a row; the last checkpoint stays."""
    data = TokenData(find_files(config.data.folders), config.latents, **_symbols(config.model))
    run = _set_up(config, folder, data, world, warn)
    report, clock = _Report(run, folder, world, progress), _Clock(run.step)
    saved, bad = run.step, 0
    own = slice(world.rank, None, world.size)
    while True:
        if run.step % config.validate_every == 0 or run.step == config.steps:
            report.validate()
        stopping = world.any(stop.asked) or run.step >= config.steps
        if run.step != saved and (stopping or run.step % config.save_every == 0):
            saved = run.step
            save_run(folder, run, world)
        if stopping:
            return

        symbols, place = data.batch(config.seed, run.step, config.batch, config.size)
        done = take_step(run, torch.from_numpy(symbols[own]).to(world.device), place, world)
        run.step += 1

        if done.bad:
            bad += 1
            report.tell("skipped", {"reason": done.bad})
            warn(f"step {run.step} skipped: {done.bad}")
            if bad >= config.max_bad_steps:
                raise ModelError(f"step {run.step}: {bad} steps in a row with non-finite numbers: {done.bad}")
            continue
        bad = 0
        if run.step % config.log_every == 0 or run.step == config.steps:
            report.tell("train", done.numbers | clock.read(config, run.step))


class Step(NamedTuple):
    """What came of a step."""

    numbers: dict[str, Any]
    bad: str | None  # why the step was not taken


def take_step(run: PriorRun, symbols: Tensor, place: int, world: World) -> Step:
    """One update from symbols (B, T, h, w, K, n), this process's part of the batch; none if a number is not finite."""
    config, network = run.config, run.network
    nats = network(symbols, place).sum(-1).mean((0, 1, 2, 3))  # of each stage
    network.zero_grad(set_to_none=True)
    torch.autograd.backward(nats.mean())
    world.average_gradients(network)
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    norm = float(torch.stack([gradient.norm() for gradient in gradients]).norm())
    bits = world.mean(nats.detach() / math.log(2))
    bad = find_bad({"loss": float(bits.mean())}, network, norm)
    if not bad:
        if config.clip_gradient and norm > config.clip_gradient:
            for gradient in gradients:
                gradient.mul_(config.clip_gradient / norm)
        rate = schedule(run.step, config.steps, config.optimizer)
        run.optimizer.step(rate)
        decay = min(config.ema, (1 + run.step) / (10 + run.step))
        with torch.no_grad():
            for mean, p in zip(run.averaged.parameters(), network.parameters(), strict=True):
                mean.lerp_(p, 1 - decay)
    return Step({**_bits(bits.tolist()), "gradient_norm": norm}, bad)


def _bits(stages: Sequence[float]) -> dict[str, Any]:
    """Bits of an id, in the mean and by stage."""
    return {"bits_per_id": sum(stages) / len(stages), "stage_bits": [round(float(x), 3) for x in stages]}


class _Report:
    """Writes the log, calls `progress`, validates and keeps the best; only the first process does."""

    def __init__(self, run: PriorRun, folder: Path, world: World, progress: Progress) -> None:
        self._run, self._folder, self._first, self._progress = run, folder, world.first, progress
        self._log = Log(folder / "log.jsonl", run) if world.first else None

    def tell(self, kind: str, values: Mapping[str, Any]) -> None:
        if self._log:
            record = {"kind": kind, "step": self._run.step, **values}
            self._log.write(record)
            self._progress(record, self._run.config.steps)

    def validate(self) -> None:
        """Measure the averaged weights, unless that was done at this step, and keep them if they are the best."""
        run = self._run
        if not self._first or run.validated == run.step or not run.config.data.validation:
            return
        found = validate(priors.read(save_model(self._folder, run)), run.config)
        if run.best is None or found["bits_per_id"] < run.best:
            run.best = found["bits_per_id"]
            save_best(self._folder, run, {"step": run.step} | found)
        run.validated = run.step
        self.tell("validation", found)


class _Clock:
    """Speed, and the time that is left."""

    def __init__(self, step: int) -> None:
        self._step, self._began = step, time.perf_counter()

    def read(self, config: PriorTrainConfig, step: int) -> dict[str, float]:
        each = (time.perf_counter() - self._began) / (step - self._step)
        return {"clips_per_second": config.batch / each, "seconds_left": each * (config.steps - step)}


def _symbols(sizes: PriorSizes) -> dict[str, int]:
    """How ids become symbols."""
    return {"joint": sizes.joint, "free": sizes.free, "block": sizes.block}


def _silent(*_: object) -> None:
    """Nobody is told."""


def validate(network: Network, config: PriorTrainConfig) -> dict[str, Any]:
    """Bits per id of the validation files, and of each stage: means over files."""
    rows = []
    for file in find_files(config.data.validation):
        data = TokenData([file], config.latents, **_symbols(config.model))
        stages = np.zeros(data.stages)
        for stretch in data.stretches:
            symbols = data.symbols[0][stretch.start : stretch.start + stretch.latents]
            course = Course(network, stretch.place)
            for k in range(data.stages):
                counter = _Counter()
                course.run(symbols[..., k, :], counter.code)
                stages[k] += counter.bits
        rows.append(stages / data.symbols[0][..., 0, 0].size)
    return _bits(np.mean(rows, 0).tolist()) | {"files": len(rows)}


class _Counter:
    """Adds up the bits of symbols."""

    def __init__(self) -> None:
        self.bits = 0.0

    def code(self, ends: Numbers, symbols: Numbers) -> Numbers:
        places = np.arange(len(symbols))
        self.bits += float((16 - np.log2(ends[symbols + 1, places] - ends[symbols, places])).sum())
        return symbols


def _set_up(config: PriorTrainConfig, folder: Path, data: TokenData, world: World, warn: Warn) -> PriorRun:
    """A new run, or the one in the folder where it was left."""
    torch.manual_seed(config.seed)
    what = PriorConfig(digits=data.digits, stages=data.stages, **to_dict(config.model))
    network, averaged = QuantizedNetwork(what), QuantizedNetwork(what)
    network.start_from([torch.from_numpy(symbols) for symbols in data.symbols])
    last = folder / "last.safetensors"
    if config.init and not last.exists():
        warn(f"started from {config.init}; {inherit(network, Path(config.init))}")
    averaged.load_state_dict(network.state_dict())
    network.to(world.device)
    averaged.to(world.device).requires_grad_(False)

    def write(path: Path) -> None:
        about = {"model_id": data.model_id or "", "description": config.description}
        write_atomically(path, priors.to_bytes(what, averaged.tensors(), **about))

    optimizer = Optimizer(network.named_parameters(), config.optimizer, lambda name, _: name in INNER)
    run = Run(config, network, averaged, optimizer, write, priors.SUFFIX)
    if last.exists() and (changed := load_run(folder, run, world)):
        warn(f"resumed with other settings than before ({', '.join(changed)}): losses will not be as without a stop")
    world.share([t for module in (network, averaged) for t in module.state_dict().values()])
    return run
