"""TensorBoard: scalars of the log, and fixed clips above what the model makes of them. An extra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidtok import checkpoint
from vidtok.codec import EncodeOptions, open_source
from vidtok.errors import MissingDependencyError
from vidtok.training.plan import ValidationConfig

CLIPS, FRAMES = 4, 9  # fixed clips that are shown, and of how many frames


class Board:
    """Event files in `folder`; a resumed run hides what was written beyond `step`."""

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as exc:
            raise MissingDependencyError(
                "tensorboard = true needs a package that is not installed: pip install 'vidtok-cli[tensorboard]'"
            ) from exc
        self._writer: Any = SummaryWriter(str(folder), purge_step=step + 1)

    def scalars(self, record: Mapping[str, Any]) -> None:
        """Every number of a log line, under the line's kind."""
        for name, value in _numbers(record):
            if name != "step":
                self._writer.add_scalar(f"{record['kind']}/{name}", value, record["step"])

    def pictures(self, model_file: Path, clips: Sequence[np.ndarray], step: int, device: torch.device) -> None:
        """For each clip, uint8 (T, H, W, 3): first and last frame (left, right), above their reconstructions."""
        with torch.random.fork_rng(devices=[]):
            model = checkpoint.load(model_file, device=str(device))
        for i, clip in enumerate(clips):
            result = model.decode(model.encode(clip))
            sheet = np.concatenate([np.concatenate([side[0], side[-1]], axis=1) for side in (clip, result)])
            self._writer.add_image(f"clip {i + 1}", sheet, step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def fixed_clips(videos: Sequence[Path], config: ValidationConfig) -> list[np.ndarray]:
    """The first frames of the first videos of validation, uint8 (T, H, W, 3)."""
    reading = EncodeOptions(resize=str(config.short_side), frames=min(FRAMES, config.frames))
    clips = []
    for path in videos[:CLIPS]:
        with open_source(path, reading) as source:
            clips.append(np.stack([frame.pixels for frame in source]))
    return clips


def _numbers(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """Numbers of a log line with names, also of the tables and lists in it."""
    found: list[tuple[str, float]] = []
    for name, value in record.items():
        if isinstance(value, list):
            value = {str(i + 1): item for i, item in enumerate(value)}
        if isinstance(value, Mapping):
            found += _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            found.append((prefix + name, float(value)))
    return found
