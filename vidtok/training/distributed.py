"""One process or several that train together, each on its part of every batch (torchrun starts them).

All hold the same weights and the same optimizer state, and take the same steps: gradients are averaged over processes
before each, so the result is that of one process with the whole batch, up to the order of sums. Only the batch entropy
of LFQ and BSQ differs: each process takes it over its own part.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

PATIENCE = datetime.timedelta(hours=4)  # others wait while the first process validates, or decodes all clips


@dataclass(frozen=True)
class World:
    """The processes that train together; everything in here is called by all of them at the same point."""

    device: torch.device
    rank: int = 0  # number of this process
    size: int = 1  # how many there are

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in one of the processes."""
        if self.size == 1:
            return flag
        found = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return bool(found)

    def mean(self, tensor: Tensor) -> Tensor:
        """Mean over processes."""
        if self.size > 1:
            dist.all_reduce(tensor)
            tensor /= self.size
        return tensor

    def mean_of(self, values: Mapping[str, float]) -> dict[str, float]:
        """Mean of each value over processes; all have the same names in the same order."""
        means = self.mean(torch.tensor(list(values.values()), dtype=torch.float64, device=self.device))
        return dict(zip(values, means.tolist(), strict=True))

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over processes."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def average_gradients(self, module: nn.Module) -> None:
        """Mean gradients over processes, all at once. Which parameters have one must not depend on the process."""
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        if self.size == 1 or not gradients:
            return
        flat = self.mean(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the values of the first."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all processes, of equal shape, on the CPU."""
        if self.size == 1:
            return [tensor.cpu()]
        found = [torch.empty_like(tensor, device=self.device) for _ in range(self.size)]
        dist.all_gather(found, tensor.to(self.device))
        return [part.cpu() for part in found]

    def wait(self) -> None:
        """Until all are here."""
        self.any(False)


def is_first() -> bool:
    """Whether this process may speak: the only one, or torchrun's first."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """The processes that torchrun started, by its environment variables; this one alone without them.

    With CUDA each process of a machine takes a GPU of its own.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield World(device, dist.get_rank(), size)
    finally:
        dist.destroy_process_group()
