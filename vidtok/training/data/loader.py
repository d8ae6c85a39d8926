"""Batches in order, drawn ahead by threads.

Threads and not processes: decoding (FFmpeg), copying (numpy) and scaling (torch) let go of Python's lock, and so
one cache in memory serves them all, on every system, and nothing has to be sent.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from vidtok.errors import ConfigError
from vidtok.training.data.config import DataConfig
from vidtok.training.data.sampling import Clips


class Shape(Protocol):
    """What a step wants: clips of all processes together, frames, and pixels a side."""

    @property
    def batch(self) -> int: ...
    @property
    def frames(self) -> int: ...
    @property
    def size(self) -> int: ...


class Loader:
    """Batches of a training run; `plan(step)` says the shape of each.

    `workers`: threads (None: as the config says; 0: none); `ahead`: batches that may wait; `smallest`: pixels a
    side below which a file is of no use, the largest size in the plan. Errors as of Clips.
    """

    def __init__(
        self,
        config: DataConfig,
        plan: Callable[[int], Shape],
        seed: int,
        *,
        workers: int | None = None,
        ahead: int = 3,
        smallest: int = 1,
        warn: Callable[[str], None] = print,
    ) -> None:
        self.clips = Clips(config, smallest, warn)
        self._plan, self._seed, self._ahead = plan, seed, ahead
        self._workers = config.workers if workers is None else workers

    @property
    def skipped(self) -> int:
        """Files that could not be opened, or broke when they were drawn, as far as is known by now."""
        return self.clips.skipped

    @property
    def damaged(self) -> int:
        """Files of which only a part could be used."""
        return self.clips.damaged

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        """uint8 (B / world, T, S, S, 3): part number `rank` of the batch of `step`.

        The parts of all ranks, one after the other, are the batch of one process. ConfigError if it cannot be
        cut into `world` equal parts.
        """
        target, places = self._target(step, rank, world)
        for row, place in enumerate(places):
            self._fill(target[row], step, place)
        return target

    def batches(
        self, start: int = 0, stop: int | None = None, *, rank: int = 0, world: int = 1
    ) -> Generator[Tensor, None, None]:
        """`batch` of steps start, start + 1, ... (before `stop`), prepared ahead. Close it to stop the threads."""
        steps = itertools.count(start) if stop is None else range(start, stop)
        if self._workers == 0:
            for step in steps:
                yield self.batch(step, rank, world)
            return
        waiting: deque[tuple[Tensor, list[Future[None]]]] = deque()
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="vidtok-data")
        try:
            for step in steps:
                waiting.append(self._submit(pool, step, rank, world))
                if len(waiting) > self._ahead:
                    yield _finished(*waiting.popleft())
            while waiting:
                yield _finished(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _submit(self, pool: ThreadPoolExecutor, step: int, rank: int, world: int) -> tuple[Tensor, list[Future[None]]]:
        target, places = self._target(step, rank, world)
        return target, [pool.submit(self._fill, target[row], step, place) for row, place in enumerate(places)]

    def _target(self, step: int, rank: int, world: int) -> tuple[Tensor, range]:
        """Room for a part of a batch, and the places in the batch that belong to it."""
        shape = self._plan(step)
        if shape.batch % world:
            raise ConfigError(f"a batch of {shape.batch} clips cannot be cut into {world} equal parts")
        each = shape.batch // world
        target = torch.empty(each, shape.frames, shape.size, shape.size, 3, dtype=torch.uint8)
        return target, range(rank * each, (rank + 1) * each)

    def _fill(self, target: Tensor, step: int, place: int) -> None:
        shape = self._plan(step)
        target.numpy()[:] = self.clips.sample(self._seed, step, place, shape.frames, shape.size)


def _finished(target: Tensor, parts: list[Future[None]]) -> Tensor:
    for part in parts:
        part.result()
    return target
