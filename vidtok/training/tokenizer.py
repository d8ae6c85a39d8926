"""Training a tokenizer: one visible loop. Set up, then validate, save, step, log.

Batches, schedules and whatever is drawn are functions of (seed, step), and the rest is in the checkpoint; so a run that
was stopped or killed and resumed gives the same losses, bit for bit on a CPU. `state` says what a run leaves on disk,
`distributed` how several processes train together, `monitor` when a run is given up.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vidtok.checkpoint import save_tokenizer
from vidtok.errors import ConfigError
from vidtok.model.tokenizer import Tokenizer, build_tokenizer
from vidtok.training.data import Loader
from vidtok.training.distributed import World, joined
from vidtok.training.initial import start_from_components
from vidtok.training.losses import Term, build, total
from vidtok.training.monitor import Monitor, Usage, find_bad, refuse_collapse
from vidtok.training.optimizer import Optimizer, schedule
from vidtok.training.plan import TrainConfig, load_config
from vidtok.training.report import Reporter
from vidtok.training.state import Run, load_run, save_run
from vidtok.training.stop import StopSignal
from vidtok.training.validate import find_videos

TokenizerRun = Run[TrainConfig, Tokenizer]
Warn = Callable[[str], None]
Progress = Callable[[dict[str, Any], int], None]


def run(
    config_path: str | Path,
    overrides: Sequence[str] = (),
    *,
    device: str = "auto",
    output: str | Path | None = None,
    resume: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
    warn: Warn | None = None,
) -> Path:
    """Train until the config's last step or SIGTERM/SIGINT; returns the model file. `progress(record, total)` is called
    with each line of the log. Under torchrun all processes call it, and only the first writes, warns and reports."""
    config = load_config(Path(config_path), overrides)
    if threads:
        torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return train(
        config,
        Path(output or Path("runs") / config.name),
        device=torch.device(device),
        resume=resume,
        progress=progress or (lambda record, total: None),
        warn=warn or (lambda text: print(text, file=sys.stderr)),
    )


def train(
    config: TrainConfig, folder: Path, *, device: torch.device, resume: bool, progress: Progress, warn: Warn
) -> Path:
    """The loop. ModelError when numbers are not finite `max_bad_steps` times in a row, when the loss diverges and when
    the ids collapse; the last checkpoint stays."""
    with joined(device) as world, StopSignal() as stop:
        warn = warn if world.first else _silent
        check_start(config, folder, world, resume)
        videos = find_videos(config.validation)
        losses = [build(stage.losses or config.run_losses, world.device) for stage in config.stages]
        largest = max(stage.size for stage in config.stages)
        loader = Loader(config.data, config.stage_at, config.seed, smallest=largest, warn=warn)
        run = _set_up(config, folder, world, loader, warn)
        monitor, usage = Monitor(config, run.monitor), Usage(run.network.quantizer.digits, world.device)
        clock, saved = _Clock(config), run.step
        batches = loader.batches(run.step, config.steps, rank=world.rank, world=world.size)
        sample = partial(_sample, config, loader)
        with closing(batches), Reporter(run, folder, world, videos, sample, progress, warn) as report:
            while True:
                if run.step % config.validate_every == 0 or run.step == config.steps:
                    report.validate(stop.check)
                stopping = world.any(stop.asked) or run.step >= config.steps
                if run.step != saved and (stopping or run.step % config.save_every == 0):
                    run.monitor, saved = monitor.state, run.step
                    save_run(folder, run, world)
                if stopping:
                    break

                _freeze(run)
                with clock.waiting():
                    frames = next(batches).to(world.device)
                quality, inside = config.draw(run.step)
                with clock.working(run.step):
                    done = take_step(run, frames[:, int(inside) :], quality, losses[config.place(run.step)[0]], world)
                run.step += 1

                if done.bad:
                    report.skipped(done.bad)
                    monitor.skip(run.step, done.bad)
                else:
                    usage.count(done.ids)
                    monitor.follow(run.step, quality, done.terms)
                if run.step % config.log_every == 0 or run.step == config.steps:
                    record: dict[str, Any] = {
                        **done.terms,
                        "psnr": done.psnr(world),
                        "quality": quality,
                        "gradient_norm": done.norm,
                    }
                    record |= usage.result(world) | clock.read(run.step)
                    report.trained(record | {"skipped_steps": monitor.skipped, "skipped_files": loader.skipped})
                    if not done.bad:
                        refuse_collapse(config, run.step, record["evenness"])
    return folder / "model.safetensors"


class Step(NamedTuple):
    """What came of a step."""

    terms: dict[str, float]  # "loss", then what adds up to it; means over processes
    norm: float  # of the gradient, before clipping
    bad: str | None  # why the step was not taken
    ids: Tensor
    output: Tensor  # (B, T, H, W, 3) about [-1, 1], like
    frames: Tensor

    def psnr(self, world: World) -> float:
        """In dB, mean over clips and frames."""
        mse = (self.output - self.frames).square().mean((2, 3, 4)).clamp(min=4e-10) / 4
        return float(world.mean(-10 * mse.log10().mean()))


def take_step(run: TokenizerRun, pixels: Tensor, quality: int | None, losses: Sequence[Term], world: World) -> Step:
    """One update from uint8 clips (B, T, H, W, 3), this process's part of the batch; none if a number is not finite."""
    config, tokenizer = run.config, run.network
    frames = pixels.float() / 127.5 - 1
    with torch.autocast(world.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        output = tokenizer(frames, quality)
    loss, terms = total(losses, output.frames, frames, run.step, output.quantized)
    for name, other in output.extra.items() if config.auxiliary else ():
        value, _ = total(losses, other, frames, run.step)
        loss = loss + config.auxiliary * value
        terms[f"auxiliary_{name}"] = config.auxiliary * value.item()
    terms = world.mean_of({"loss": loss.item(), **terms})
    tokenizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    world.average_gradients(tokenizer)
    norm = _gradient_norm(tokenizer)
    bad = find_bad(terms, tokenizer, norm)
    if not bad:
        if config.clip_gradient and norm > config.clip_gradient:
            _scale_gradients(tokenizer, config.clip_gradient / norm)
        run.optimizer.step(schedule(run.step, config.steps, config.optimizer))
        _average(run.averaged, tokenizer, min(config.ema, (1 + run.step) / (10 + run.step)))
    return Step(terms, norm, bad, output.quantized.ids, output.frames.detach().float(), frames)


def check_start(config: TrainConfig, folder: Path, world: World, resume: bool) -> None:
    """ConfigError for what stands against a start, before any work."""
    if (folder / "last.json").exists() and not resume:
        raise ConfigError(f"{folder} holds a run; --resume continues it, another --output starts anew")
    for stage in config.stages:
        if stage.batch % world.size:
            raise ConfigError(f"batch {stage.batch} cannot be shared equally by {world.size} processes")
    world.wait()  # until all have looked: the first will write soon


def _sample(config: TrainConfig, loader: Loader) -> list[np.ndarray]:
    """A few clips that are the same in every run of the config."""
    stage = config.stages[-1]
    return list(loader.clips.batch(config.seed, 2**31 - 1, 4, stage.frames, stage.size).numpy())


def _set_up(config: TrainConfig, folder: Path, world: World, loader: Loader, warn: Warn) -> TokenizerRun:
    """A new run, or the one in the folder where it was left."""
    torch.manual_seed(config.seed)
    tokenizer, averaged = build_tokenizer(config.model), build_tokenizer(config.model)
    resumed = (folder / "last.safetensors").exists()
    if world.first and not resumed:
        start_from_components(tokenizer, loader.clips, config.seed)
    averaged.load_state_dict(tokenizer.state_dict())
    tokenizer.to(world.device)
    averaged.to(world.device).requires_grad_(False)
    write = partial(save_tokenizer, tokenizer=averaged, name=config.name, description=config.description)
    run = Run(config, tokenizer, averaged, Optimizer(tokenizer.named_parameters(), config.optimizer), write)
    if resumed:
        if changed := load_run(folder, run, world):
            warn(
                f"resumed with other settings than before ({', '.join(changed)}): losses will not be as without a stop"
            )
    else:
        world.share([t for module in (tokenizer, averaged) for t in module.state_dict().values()])
    return run


def _freeze(run: TokenizerRun) -> None:
    """In a stage that freezes the encoder only the decoder learns, from where the averaged weights are.

    What makes the ids starts the stage as the averaged model has it, so that the saved model's ids stay as they were.
    """
    stage, first = run.config.place(run.step)
    frozen = run.config.stages[stage].freeze_encoder
    begins = frozen and run.step == first and not (stage and run.config.stages[stage - 1].freeze_encoder)
    averages = dict(run.averaged.named_parameters())
    for name, p in run.network.named_parameters():
        p.requires_grad_(not frozen or name.startswith("decoder."))
        if begins and not p.requires_grad:
            p.data.copy_(averages[name])


def _gradient_norm(module: nn.Module) -> float:
    return float(torch.stack([p.grad.norm() for p in module.parameters() if p.grad is not None]).norm())


def _scale_gradients(module: nn.Module, factor: float) -> None:
    for p in module.parameters():
        if p.grad is not None:
            p.grad.mul_(factor)


@torch.no_grad()
def _average(averaged: nn.Module, current: nn.Module, decay: float) -> None:
    for mean, p in zip(averaged.parameters(), current.parameters(), strict=True):
        mean.lerp_(p, 1 - decay)


def _silent(_: str) -> None:
    """Nobody is told."""


class _Clock:
    """Where the seconds of this process went: in steps, and in waiting for data."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self._worked = self._waited = 0.0  # since the last reading
        self._clips = 0
        self._seconds, self._pixels = 0.0, 0  # since the start

    @contextmanager
    def waiting(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextmanager
    def working(self, step: int) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._worked += time.perf_counter() - start
        self._clips += self.config.stage_at(step).batch
        self._pixels += self.config.pixels(step, step + 1)

    def read(self, step: int) -> dict[str, float]:
        """Clips of all processes a second, share of time that data was waited for, seconds that are left."""
        seconds = max(self._worked + self._waited, 1e-9)
        self._seconds += seconds
        found = {
            "clips_per_second": self._clips / seconds,
            "waiting": self._waited / seconds,
            "seconds_left": self.config.pixels(step, self.config.steps) * self._seconds / max(self._pixels, 1),
        }
        self._worked = self._waited = 0.0
        self._clips = 0
        return found
