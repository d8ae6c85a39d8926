"""What a run tells: log lines, validation, pictures. Only the first process of several says anything."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from vidtok.model.tokenizer import Tokenizer
from vidtok.training.board import Board, fixed_clips
from vidtok.training.distributed import World
from vidtok.training.optimizer import schedule
from vidtok.training.plan import TrainConfig
from vidtok.training.state import Log, Run, save_best, save_model
from vidtok.training.validate import validate


class Reporter:
    """Writes to log and TensorBoard and calls `progress(record, steps)`; validates and keeps the best model.

    `videos` are for validation; without any, TensorBoard shows the clips that `sample()` gives, uint8 (T, H, W, 3).
    """

    def __init__(
        self,
        run: Run[TrainConfig, Tokenizer],
        folder: Path,
        world: World,
        videos: Sequence[Path],
        sample: Callable[[], Sequence[np.ndarray]],
        progress: Callable[[dict[str, Any], int], None],
        warn: Callable[[str], None],
    ) -> None:
        self.run, self.folder, self.world = run, folder, world
        self._progress, self._warn = progress, warn
        self._videos = videos if world.first else []
        self._log = Log(folder / "log.jsonl", run) if world.first else None
        self._board = Board(folder / "tensorboard", run.step) if run.config.tensorboard and world.first else None
        self._shown: Sequence[np.ndarray] = []
        if self._board:
            self._shown = fixed_clips(self._videos, run.config.validation) if self._videos else sample()

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._board:
            self._board.close()

    def trained(self, record: Mapping[str, Any]) -> None:
        """A step that is logged."""
        step, config = self.run.step, self.run.config
        self._tell("train", {**record, "rate": schedule(step - 1, config.steps, config.optimizer)})

    def skipped(self, reason: str) -> None:
        """A step that was not taken."""
        self._tell("skipped", {"reason": reason})
        self._warn(f"step {self.run.step} skipped: {reason}")

    def validate(self, stopped: Callable[[], bool]) -> None:
        """Measure the averaged weights, unless that was done at this step, and keep them if they are the best so far.

        Given up as soon as `stopped` says so; a resumed run does it first.
        """
        run, device = self.run, self.world.device
        if run.validated == run.step or not (self._videos or self._board):
            return
        model_file = save_model(self.folder, run)
        if self._videos:
            videos, how = self._videos, run.config.validation
            found = validate(model_file, videos, how, device=device, warn=self._warn, stopped=stopped)
            if found is None:
                return
            if run.best is None or found["psnr"] > run.best:
                run.best = found["psnr"]
                save_best(self.folder, run, {"step": run.step} | found)
            self._tell("validation", found)
        if self._board:
            self._board.pictures(model_file, self._shown, run.step, device)
        run.validated = run.step

    def _tell(self, kind: str, values: Mapping[str, Any]) -> None:
        if not self._log:
            return
        record = {"kind": kind, "step": self.run.step} | {name: _finite(value) for name, value in values.items()}
        self._log.write(record)
        if self._board:
            self._board.scalars(record)
        self._progress(record, self.run.config.steps)


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
