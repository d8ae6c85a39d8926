"""What a run leaves on disk, each file whole or not at all, nothing pickled.

log.jsonl           a JSON line for each step that is logged, skipped or validated
last.safetensors    everything to go on with: weights, averages, optimizer, random states; the rest as JSON inside
last.json           the same JSON, to be read
model.safetensors   the averaged weights, as a model to use
best.safetensors    the model that was best in validation, by mean PSNR
best.json           its step and what validation said
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

import vidtok
from vidtok.checkpoint import write_atomically
from vidtok.config import from_dict, to_dict
from vidtok.errors import ConfigError, ModelError
from vidtok.training.distributed import World
from vidtok.training.optimizer import Optimizer

FREE = ("save_every", "log_every", "validate_every", "validation", "tensorboard", "description", "max_bad_steps")


class Plan(Protocol):
    """What a config tells here; it is a dataclass, with a `model` inside."""

    @property
    def steps(self) -> int: ...


C = TypeVar("C", bound=Plan)
N = TypeVar("N", bound=nn.Module)


@dataclass
class Run(Generic[C, N]):
    """The networks, the optimizer and the numbers that a run consists of."""

    config: C
    network: N
    averaged: N
    optimizer: Optimizer
    write: Callable[[Path], object]  # the averaged weights, as a model to use
    suffix: str = ".safetensors"  # of such files
    step: int = 0  # steps done
    validated: int = -1  # the step that was validated last
    best: float | None = None  # of validation: dB, or bits per id
    monitor: Mapping[str, Any] = field(default_factory=dict)

    def numbers(self, world: World) -> dict[str, Any]:
        """What is not a tensor, as JSON."""
        return {
            "step": self.step,
            "steps": self.config.steps,
            "updates": self.optimizer.steps,
            "validated": self.validated,
            "best": self.best,
            "monitor": self.monitor,
            "processes": world.size,
            "versions": {"vidtok": vidtok.__version__, "torch": torch.__version__},
            "config": to_dict(self.config),
        }


def save_run(folder: Path, run: Run[Any, Any], world: World) -> None:
    """Write `last` and `model`; all processes call it, the first writes."""
    random = world.gather(torch.get_rng_state())
    if world.device.type == "cuda":
        random += world.gather(torch.cuda.get_rng_state(world.device))
    if not world.first:
        return
    tensors = {f"model.{k}": v for k, v in run.network.state_dict().items()}
    tensors |= {f"averaged.{k}": v for k, v in run.averaged.state_dict().items()}
    tensors |= {f"optimizer.{k}": v for k, v in run.optimizer.state_dict().items()}
    tensors |= {f"random.{i}": state for i, state in enumerate(random)}
    numbers = run.numbers(world)
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    write_atomically(folder / "last.safetensors", save(tensors, {"run": json.dumps(numbers)}))
    write_atomically(folder / "last.json", json.dumps(numbers, indent=1).encode())
    save_model(folder, run)


def save_model(folder: Path, run: Run[Any, Any]) -> Path:
    """Write the averaged weights as a model; returns its file."""
    path = folder / f"model{run.suffix}"
    run.write(path)
    return path


def save_best(folder: Path, run: Run[Any, Any], record: Mapping[str, Any]) -> None:
    """Keep the model that `save_model` wrote as the best."""
    write_atomically(folder / f"best{run.suffix}", (folder / f"model{run.suffix}").read_bytes())
    write_atomically(folder / "best.json", json.dumps(record, indent=1).encode())


def load_run(folder: Path, run: Run[Any, Any], world: World) -> list[str]:
    """Restore what `save_run` wrote into `run` and torch's random state; returns what will not be as it was.

    ModelError where the file is damaged, ConfigError where it holds another model.
    """
    path = folder / "last.safetensors"
    for torn in folder.glob(".*.tmp-*") if world.first else ():  # left by a run that was killed while it wrote
        torn.unlink(missing_ok=True)
    try:
        with safe_open(path, framework="pt") as file:
            numbers = json.loads((file.metadata() or {})["run"])
        tensors = load_file(path)
    except (SafetensorError, OSError, KeyError, ValueError) as exc:
        raise ModelError(f"{path} cannot be resumed: {exc}") from exc
    old, new = _completed(numbers["config"], type(run.config)), to_dict(run.config)
    if old["model"] != new["model"]:
        changed = ", ".join(_differences(old["model"], new["model"], "model."))
        raise ConfigError(f"{folder} holds a run of another model ({changed} differ); give another --output")

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    try:
        run.network.load_state_dict(part("model."))
        run.averaged.load_state_dict(part("averaged."))
        run.optimizer.load_state_dict(part("optimizer."), numbers["updates"])
        _restore_random(part("random."), world, numbers["processes"])
    except (RuntimeError, KeyError) as exc:
        raise ModelError(f"{path} cannot be resumed: {exc}") from exc
    run.step, run.validated = numbers["step"], numbers["validated"]
    run.best = numbers.get("best", numbers.get("best_psnr"))  # runs of earlier versions have the second
    run.monitor = numbers["monitor"]
    names = [name for name in _differences(old, new) if name.split(".")[0] not in FREE]
    return names + (["processes"] if numbers["processes"] != world.size else [])


def _completed(config: dict[str, Any], kind: type[Any]) -> dict[str, Any]:
    """A config of an earlier version, with the defaults of keys that it did not have yet."""
    try:
        return to_dict(from_dict(kind, config))
    except ConfigError:  # it has keys that are gone
        return config


def _restore_random(states: Mapping[str, Tensor], world: World, processes: int) -> None:
    """Each process its own; one that was not there before goes on with what it has."""
    if world.rank < processes:
        torch.set_rng_state(states[str(world.rank)])
        if world.device.type == "cuda" and (key := str(processes + world.rank)) in states:
            torch.cuda.set_rng_state(states[key], world.device)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of entries that differ."""
    names: list[str] = []
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            names += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(prefix + key)
    return names


class Log:
    """JSON lines; on resuming, lines of steps that will be done again are dropped, and a torn last one."""

    def __init__(self, path: Path, run: Run[Any, Any]) -> None:
        self.path = path
        kept = [line for line in _lines(path) if self._holds(json.loads(line), run)]
        write_atomically(path, "".join(line + "\n" for line in kept).encode())

    def write(self, record: Mapping[str, Any]) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps(record) + "\n")

    @staticmethod
    def _holds(record: Mapping[str, Any], run: Run[Any, Any]) -> bool:
        done = run.validated if record.get("kind") == "validation" else run.step
        return bool(record["step"] <= done)


def _lines(path: Path) -> list[str]:
    """Whole lines of a log, none where there is no log."""
    if not path.exists():
        return []
    text = path.read_text()
    return [line for line in text[: text.rfind("\n") + 1].splitlines() if line]
