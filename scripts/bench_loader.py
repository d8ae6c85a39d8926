"""Is the loader faster than the model? Clips a second of both, alone and together, for the first stage of a config.

    python scripts/bench_loader.py CONFIG [KEY=VALUE ...] [--seconds 20] [--threads N] [--device cpu]

One JSON line each of

    on the fly   the loader alone, every clip decoded from its file
    cached       the loader alone, from decoded clips
    model        forward, backward and update on one batch over and over, no loader
    together     the same with the loader beside it, from decoded clips

with clips a second, milliseconds of one core per clip (which other work on the machine hardly changes), and the
share of the time spent waiting for a batch. The model is the bottleneck where `cached` is well above `model`, and
`together` hardly waits. The config needs a cache (`data.cache`) or memory (`data.memory_mb`) that holds its files.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from vidtok.config import apply_overrides, from_dict, load_toml
from vidtok.model.tokenizer import ModelConfig, build_tokenizer
from vidtok.training.data import DataConfig, Loader
from vidtok.training.optimizer import Optimizer, OptimizerConfig


@dataclasses.dataclass(frozen=True)
class Shape:
    """Clips a step, frames, pixels a side."""

    batch: int
    frames: int
    size: int


def warn(words: str) -> None:
    print(words, file=sys.stderr)


def rate(batches: Iterator[torch.Tensor], use: Callable[[torch.Tensor], object], seconds: float) -> dict[str, float]:
    """What is printed, of the batches that could be drawn and used in the time given; the first is not timed."""
    use(next(batches))
    began, cpu, waited, clips = time.monotonic(), time.process_time(), 0.0, 0
    while (now := time.monotonic()) < began + seconds:
        batch = next(batches)
        waited += time.monotonic() - now
        use(batch)
        clips += len(batch)
    spent = time.monotonic() - began
    busy = (time.process_time() - cpu) * 1000
    return {"clips_per_second": clips / spent, "cpu_ms_per_clip": busy / clips, "waiting": waited / spent}


def loader_of(config: DataConfig, shape: Shape) -> Loader:
    return Loader(config, lambda step: shape, 0, smallest=shape.size, warn=warn)


def trainer(model: ModelConfig, optimizer: OptimizerConfig, device: str) -> Callable[[torch.Tensor], object]:
    """A training step on a uint8 batch; waits until the device has done it."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(model).to(device)
    updates = Optimizer(tokenizer.named_parameters(), optimizer)

    def step(batch: torch.Tensor) -> object:
        frames = batch.to(device).float() / 127.5 - 1
        output = tokenizer(frames)
        loss = (output.frames - frames).square().mean() + output.quantized.loss
        tokenizer.zero_grad(set_to_none=True)
        loss.backward()
        updates.step(1e-3)
        return loss.item()

    return step


def measure(values: dict[str, Any], seconds: float, device: str) -> Iterator[tuple[str, dict[str, float]]]:
    """Name and numbers of each measurement, one after the other."""
    data = from_dict(DataConfig, values["data"], "data")
    shape = Shape(*(values["stages"][0][field.name] for field in dataclasses.fields(Shape)))
    with contextlib.closing(loader_of(dataclasses.replace(data, cache="", memory_mb=0), shape).batches()) as batches:
        yield "on the fly", rate(batches, lambda batch: None, seconds)
    loader = loader_of(data, shape)
    loader.clips.fill()
    places = [loader.clips.store.place(media) for media in (*loader.clips.videos, *loader.clips.images)]
    if left := places.count("file"):
        warn(f"{left} of {len(places)} files fit neither in the cache nor in memory: they are decoded when drawn")
    with contextlib.closing(loader.batches()) as batches:
        yield "cached", rate(batches, lambda batch: None, seconds)
    optimizer = from_dict(OptimizerConfig, values.get("optimizer", {}), "optimizer")
    step = trainer(from_dict(ModelConfig, values["model"], "model"), optimizer, device)
    yield "model", rate(itertools.repeat(loader.batch(0)), step, seconds)
    with contextlib.closing(loader.batches()) as batches:
        yield "together", rate(batches, step, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--seconds", type=float, default=20, help="of each measurement")
    parser.add_argument("--threads", type=int, help="of the model")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    values = apply_overrides(load_toml(options.config), options.overrides)
    facts = {"cores": os.cpu_count(), "model_threads": torch.get_num_threads(), "device": options.device}
    for name, found in measure(values, options.seconds, options.device):
        numbers = {key: round(value, 4) for key, value in found.items()}
        print(json.dumps({"what": name, **numbers, **facts, "load": round(os.getloadavg()[0], 1)}), flush=True)


if __name__ == "__main__":
    main()
