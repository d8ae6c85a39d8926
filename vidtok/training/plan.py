"""What a training run is told: a TOML file as frozen dataclasses, and what follows from it at each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vidtok.config import apply_overrides, from_dict, load_toml
from vidtok.errors import ConfigError, UnknownNameError
from vidtok.model.tokenizer import ModelConfig
from vidtok.training.data import DataConfig
from vidtok.training.losses import LOSSES, LossConfig
from vidtok.training.optimizer import OptimizerConfig

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stretch of training with clips of one shape."""

    steps: int
    batch: int  # clips a step, of all processes together
    frames: int  # 1 + k * time stride
    size: int  # pixels a side, a multiple of the space stride
    qualities: tuple[float, ...] = ()  # chances of training quality 1, 2, ...; empty: always the model's default
    inside: float = 0.0  # share of steps whose clips begin inside a segment: the first frame is left out
    freeze_encoder: bool = False  # only the decoder learns; ids stay as the averaged weights had them before
    losses: tuple[LossConfig, ...] = ()  # instead of the run's


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    folders: tuple[str, ...] = ()  # folders, files or globs of videos; empty: no validation
    frames: int = 49  # at most, from the start of each
    short_side: int = 256  # pixels; larger videos are reduced to it


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A complete run. ConfigError where it makes no sense."""

    name: str  # of the model
    description: str = ""
    seed: int = 0
    loss: str = "log_l2"  # short for one loss of weight 1
    losses: tuple[LossConfig, ...] = ()  # instead of `loss`
    auxiliary: float = 0.0  # weight of the same losses on a model's other reconstructions, where it has some
    precision: str = "fp32"  # or bf16: arithmetic of the network; weights and losses stay fp32
    ema: float = 0.999  # decay of the averaged weights, which are what is saved as the model
    clip_gradient: float = 0.0  # global norm; 0: off
    save_every: int = 500  # steps
    log_every: int = 20
    validate_every: int = 500
    max_bad_steps: int = 20  # non-finite losses or gradients in a row before the run stops
    divergence: float = 2.0  # a loss above this many times its running median is high; 0: not watched
    divergence_steps: int = 50  # high losses in a row before the run stops
    min_usage: float = 0.02  # how evenly digits use their levels, at least: 0 constant, 1 evenly; 0: not watched
    collapse_after: int = 1000  # steps before that is watched
    tensorboard: bool = False  # also write scalars and pictures for TensorBoard, into the run's folder
    stages: tuple[Stage, ...]
    data: DataConfig
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise UnknownNameError("loss", self.loss, LOSSES)
        if self.precision not in PRECISIONS:
            raise UnknownNameError("precision", self.precision, PRECISIONS)
        if not self.stages:
            raise ConfigError("at least one [[stages]] is wanted")
        for name in ("save_every", "log_every", "validate_every", "max_bad_steps", "divergence_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is at least 1, got {getattr(self, name)}")
        for stage in self.stages:
            self._check(stage)

    def _check(self, stage: Stage) -> None:
        geometry = self.model.geometry
        if (stage.frames - 1) % geometry.time or stage.size % geometry.space or min(stage.steps, stage.batch) < 1:
            raise ConfigError(
                f"{stage}: frames are 1 + k * {geometry.time}, size a multiple of {geometry.space}, the rest >= 1"
            )
        if stage.inside and (geometry.time == 1 or stage.frames == 1 or not 0 < stage.inside <= 1):
            raise ConfigError(f"inside is a share, of clips with more than one latent frame; got {stage.inside}")
        chances = stage.qualities
        if len(chances) > self.model.qualities or (chances and (min(chances) < 0 or sum(chances) <= 0)):
            raise ConfigError(
                f"qualities are chances of up to {self.model.qualities} rates of the model, got {list(chances)}"
            )

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def place(self, step: int) -> tuple[int, int]:
        """(number of the stage that `step` belongs to, its first step); the last one's for steps beyond."""
        first = 0
        for number, stage in enumerate(self.stages):
            if step < first + stage.steps or number == len(self.stages) - 1:
                return number, first
            first += stage.steps
        raise AssertionError("there is a stage")

    def stage_at(self, step: int) -> Stage:
        return self.stages[self.place(step)[0]]

    @property
    def run_losses(self) -> tuple[LossConfig, ...]:
        """The terms of the loss, in stages that have none of their own."""
        return self.losses or (LossConfig(kind=self.loss),)

    def draw(self, step: int) -> tuple[int | None, bool]:
        """(quality to train, whether clips begin inside a segment): functions of (seed, step)."""
        stage = self.stage_at(step)
        rng = np.random.default_rng([self.seed, step, 1])
        chances = np.array(stage.qualities)
        quality = int(rng.choice(len(chances), p=chances / chances.sum())) + 1 if len(chances) else None
        return quality, bool(rng.random() < stage.inside)

    def pixels(self, first: int, end: int) -> int:
        """Pixels trained on from step `first` to `end`, by which the time left is estimated."""
        total, begin = 0, 0
        for stage in self.stages:
            steps = max(0, min(end, begin + stage.steps) - max(first, begin))
            total += steps * stage.batch * stage.frames * stage.size**2
            begin += stage.steps
        return total


def load_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """A TOML file and `key=value` items -> checked config."""
    return from_dict(TrainConfig, apply_overrides(load_toml(path), overrides))
