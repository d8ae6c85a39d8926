"""Training a tokenizer: one visible loop. Set up, then step, log, save.

A run lives in a folder: `log.jsonl`, `state.safetensors` + `state.json` (to resume), `model.safetensors` (to use).
Batches and schedules are functions of the step, so a run that was stopped and resumed gives the same losses.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from vidtok.checkpoint import save_tokenizer, write_atomically
from vidtok.config import apply_overrides, from_dict, load_toml, to_dict
from vidtok.errors import ConfigError, ModelError, UnknownNameError
from vidtok.model.tokenizer import ModelConfig, Tokenizer
from vidtok.training.data import Clips, DataConfig
from vidtok.training.initial import start_from_components
from vidtok.training.losses import LOSSES
from vidtok.training.optimizer import Optimizer, OptimizerConfig, schedule


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stretch of training with clips of one shape."""

    steps: int
    batch: int  # clips a step
    frames: int  # 1 + k * time stride
    size: int  # pixels a side, a multiple of the space stride


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    name: str  # of the model
    description: str = ""
    seed: int = 0
    loss: str = "log_l2"
    ema: float = 0.999  # decay of the averaged weights, which are what is saved as the model
    clip_gradient: float = 0.0  # global norm; 0: off
    save_every: int = 500  # steps
    log_every: int = 20
    max_bad_steps: int = 20  # non-finite losses or gradients in a row before the run stops
    stages: tuple[Stage, ...]
    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise UnknownNameError("loss", self.loss, LOSSES)
        if not self.stages:
            raise ConfigError("at least one [[stages]] is wanted")
        geometry = self.model.geometry
        for stage in self.stages:
            if (stage.frames - 1) % geometry.time or stage.size % geometry.space or min(stage.steps, stage.batch) < 1:
                raise ConfigError(
                    f"{stage}: frames are 1 + k * {geometry.time}, size a multiple of {geometry.space}, the rest >= 1"
                )

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> Stage:
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        return self.stages[-1]


def load_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """A TOML file and `key=value` items -> checked config."""
    return from_dict(TrainConfig, apply_overrides(load_toml(path), overrides))


def run(
    config_path: str | Path,
    overrides: Sequence[str] = (),
    *,
    device: str = "cpu",
    output: str | Path | None = None,
    resume: bool = False,
    threads: int | None = None,
    progress: Callable[[dict[str, Any], int], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> Path:
    """Train until the config's last step or SIGTERM/SIGINT; returns the model file. `progress(record, total)`
    is called with each line of the log."""
    config = load_config(Path(config_path), overrides)
    folder = Path(output or Path("runs") / config.name)
    if threads:
        torch.set_num_threads(threads)
    return train(
        config,
        folder,
        device=torch.device("cpu" if device == "auto" else device),
        resume=resume,
        progress=progress,
        warn=warn or (lambda text: print(text, file=sys.stderr)),
    )


def train(
    config: TrainConfig,
    folder: Path,
    *,
    device: torch.device,
    resume: bool = False,
    progress: Callable[[dict[str, Any], int], None] | None = None,
    warn: Callable[[str], None] = print,
) -> Path:
    """The loop. ModelError if the run diverges: `max_bad_steps` non-finite steps in a row."""
    state_file = folder / "state.json"
    if state_file.exists() and not resume:
        raise ConfigError(f"{folder} holds a run; --resume continues it, another --output starts anew")
    torch.manual_seed(config.seed)
    clips = Clips(config.data, max(stage.size for stage in config.stages), warn)
    tokenizer = Tokenizer(config.model)
    optimizer = Optimizer(tokenizer.named_parameters(), config.optimizer)
    averaged = Tokenizer(config.model)
    start, bad = 0, 0
    if state_file.exists():
        start = _load_state(folder, tokenizer, averaged, optimizer)
    else:
        start_from_components(tokenizer, clips, config.seed)
        averaged.load_state_dict(tokenizer.state_dict())
    for module in (tokenizer, averaged):
        module.to(device)
    distortion, stop = LOSSES[config.loss], _StopSignal()
    began, log = time.monotonic(), _Log(folder / "log.jsonl", start)

    step = start
    while step < config.steps and not stop.asked:
        stage = config.stage_at(step)
        frames = clips.batch(config.seed, step, stage.batch, stage.frames, stage.size).to(device).float() / 127.5 - 1
        output = tokenizer(frames)
        loss = distortion(output.frames, frames) + output.quantized.loss
        tokenizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = _gradient_norm(tokenizer)
        if math.isfinite(norm) and math.isfinite(loss.item()):
            if config.clip_gradient and norm > config.clip_gradient:
                _scale_gradients(tokenizer, config.clip_gradient / norm)
            optimizer.step(schedule(step, config.steps, config.optimizer))
            _average(averaged, tokenizer, min(config.ema, (1 + step) / (10 + step)))
            bad = 0
        else:
            bad += 1
            warn(f"step {step}: loss {loss.item()}, gradient norm {norm}; step skipped")
            if bad >= config.max_bad_steps:
                raise ModelError(f"{bad} non-finite steps in a row, the last {step}: training has diverged")
        step += 1
        if step % config.log_every == 0 or step == config.steps:
            record = _measure(output.frames.detach(), frames, output.quantized.ids, tokenizer.quantizer.vocabulary)
            record |= {
                "step": step,
                "loss": loss.item(),
                "gradient_norm": norm,
                "skipped_files": clips.skipped,
                "clips_per_second": (step - start) * stage.batch / (time.monotonic() - began),
            }
            log.write(record)
            if progress:
                progress(record, config.steps)
        if step % config.save_every == 0:
            _save_state(folder, config, step, tokenizer, averaged, optimizer)
    _save_state(folder, config, step, tokenizer, averaged, optimizer)
    return folder / "model.safetensors"


def _measure(output: Tensor, frames: Tensor, ids: Tensor, vocabulary: int) -> dict[str, float]:
    """PSNR in dB (mean over clips and frames) and how many different ids the batch used."""
    mse = (output - frames).square().mean((2, 3, 4)).clamp(min=4e-10) / 4
    used = torch.unique(ids).numel()
    return {
        "psnr": float(-10 * mse.log10().mean()),
        "ids_used": used,
        "ids_possible": min(vocabulary, ids.numel()),
    }


def _gradient_norm(module: torch.nn.Module) -> float:
    return float(torch.stack([p.grad.norm() for p in module.parameters() if p.grad is not None]).norm())


def _scale_gradients(module: torch.nn.Module, factor: float) -> None:
    for p in module.parameters():
        if p.grad is not None:
            p.grad.mul_(factor)


@torch.no_grad()
def _average(averaged: torch.nn.Module, current: torch.nn.Module, decay: float) -> None:
    for mean, p in zip(averaged.parameters(), current.parameters(), strict=True):
        mean.lerp_(p, 1 - decay)


def _save_state(
    folder: Path,
    config: TrainConfig,
    step: int,
    tokenizer: Tokenizer,
    averaged: Tokenizer,
    optimizer: Optimizer,
) -> None:
    """Everything needed to go on, then the json that says so, then the model to use."""
    tensors = {f"model.{k}": v for k, v in tokenizer.state_dict().items()}
    tensors |= {f"averaged.{k}": v for k, v in averaged.state_dict().items()}
    tensors |= {f"optimizer.{k}": v for k, v in optimizer.state_dict().items()}
    write_atomically(
        folder / "state.safetensors",
        save(
            {k: v.contiguous() for k, v in tensors.items()},
            {"step": str(step), "updates": str(optimizer.steps)},
        ),
    )
    state = {"step": step, "steps": config.steps, "config": to_dict(config)}
    write_atomically(folder / "state.json", json.dumps(state, indent=1).encode())
    save_tokenizer(folder / "model.safetensors", averaged, name=config.name, description=config.description)


def _load_state(folder: Path, tokenizer: Tokenizer, averaged: Tokenizer, optimizer: Optimizer) -> int:
    """Restore what `_save_state` wrote; returns the number of steps done."""
    from safetensors import safe_open

    path = folder / "state.safetensors"
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    tokenizer.load_state_dict(part("model."))
    averaged.load_state_dict(part("averaged."))
    optimizer.load_state_dict(part("optimizer."), int(metadata["updates"]))
    return int(metadata["step"])


class _StopSignal:
    """Notes SIGTERM and SIGINT, so that the loop ends after the step with everything saved."""

    def __init__(self) -> None:
        self.asked = False
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._note)
        except ValueError:  # not in the main thread: whoever called decides
            pass

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


class _Log:
    """JSON lines; on resuming, lines of steps that will be done again are dropped."""

    def __init__(self, path: Path, start: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = []
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if line and json.loads(line)["step"] <= start]
        self.path = path
        path.write_text("".join(line + "\n" for line in kept))

    def write(self, record: dict[str, Any]) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps(record) + "\n")
