"""Validation: videos through the model file as a user would run it, measured as `vidtok eval` measures.

The weights are those of the file (fp16, averaged), encoding and decoding are the streams of `vidtok.codec`, PSNR and
MS-SSIM those of `vidtok.metrics`. A model with several qualities encodes once, since lower qualities are a prefix.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidtok import checkpoint
from vidtok.batch import plan
from vidtok.codec import EncodeOptions, open_source
from vidtok.errors import ConfigError, VidtokError
from vidtok.metrics.table import MetricSet
from vidtok.model.model import Model
from vidtok.training.plan import ValidationConfig

METRICS = ("psnr", "ms_ssim")
CLIP_FRAMES = 16

Row = dict[str, Any]


def find_videos(config: ValidationConfig) -> list[Path]:
    """The videos of `config.folders`, in order; ConfigError where a name leads nowhere."""
    if not config.folders:
        return []
    work = plan(list(config.folders), None, suffix=".vtok")
    if work.problems:
        name, reason = work.problems[0]
        raise ConfigError(f"validation.folders: {name}: {reason}")
    if not work.jobs:
        raise ConfigError(f"validation.folders: no video in {', '.join(config.folders)}")
    return [job.source for job in work.jobs]


def validate(
    model_file: Path,
    videos: Sequence[Path],
    config: ValidationConfig,
    *,
    device: torch.device,
    warn: Callable[[str], None],
    stopped: Callable[[], bool] = lambda: False,
) -> Row | None:
    """Means over videos, and of each quality where there are several; None where `stopped` became true meanwhile.

    A video that fails is counted and left out; ConfigError where all do.
    """
    with torch.random.fork_rng(devices=[]):  # building a network draws numbers
        model = checkpoint.load(model_file, device=str(device))
    rows: list[list[Row]] = []
    for path in videos:
        if stopped():
            return None
        try:
            rows.append(measure_video(model, path, config))
        except VidtokError as exc:
            warn(f"validation skipped {path.name}: {exc}")
    if not rows:
        raise ConfigError(f"validation: none of the {len(videos)} videos can be read")
    rates = [_mean([video[i] for video in rows]) for i in range(model.qualities)]
    worst = min((video[0] for video in rows), key=lambda row: float(row["psnr"]))
    found = _mean(rates) | {"psnr_worst": worst["psnr"], "worst": worst["video"]}
    found |= {"clips": len(rows), "failed": len(videos) - len(rows)}
    return found | ({"qualities": rates} if model.qualities > 1 else {})


def measure_video(model: Model, path: Path, config: ValidationConfig) -> list[Row]:
    """A row for each quality of the model: psnr, ms_ssim (None on small videos) and raw bits per pixel."""
    reading = EncodeOptions(resize=str(config.short_side), frames=config.frames)
    with open_source(path, reading) as source:
        height, width = source.info.height, source.info.width
        encoder = model.encoder(height, width, quality=model.qualities)
        sides = [(model.decoder(height, width), MetricSet(METRICS)) for _ in range(model.qualities)]
        held: list[np.ndarray] = []
        for clip in _clips(frame.pixels for frame in source):
            held.append(clip)
            _compare(encoder.push(clip), held, sides)
        _compare(encoder.flush(), held, sides)
    bits = math.log2(model.vocabulary) / (model.geometry.time * model.geometry.space**2)
    return [{"video": path.name} | m.result() | {"raw_bpp": bits * (q + 1)} for q, (_, m) in enumerate(sides)]


def _compare(ids: np.ndarray, held: list[np.ndarray], sides: Sequence[tuple[Any, MetricSet]]) -> None:
    """Decode ids at every quality and measure against the oldest frames held, which are let go."""
    originals = np.concatenate(held)
    for i, (decoder, measured) in enumerate(sides):
        part = ids if ids.ndim == 3 else ids[..., 0] if i == 0 else ids[..., : i + 1]
        decoded = decoder.push(part)[: len(originals)]
        if len(decoded):
            measured.update(originals[: len(decoded)], decoded)
    held[:] = [originals[len(decoded) :]]


def _clips(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """A few frames at a time."""
    while clip := list(itertools.islice(frames, CLIP_FRAMES)):
        yield np.stack(clip)


def _mean(rows: Sequence[Row]) -> Row:
    """Means of numbers over the rows that have them."""
    found: Row = {}
    for name in (*METRICS, "raw_bpp"):
        values = [row[name] for row in rows if row[name] is not None]
        found[name] = sum(values) / len(values) if values else None
    return found
