"""Muon for the inner convolutions, Adam for everything else, in one object whose state is a dict of tensors.

Muon (Jordan et al. 2024): momentum, then the update matrix is replaced by the nearest orthogonal one, found by
five Newton-Schulz steps of a quintic polynomial. A convolution counts as the matrix (out, in * k * k).
Adam is Kingma and Ba 2014 with bias correction; neither decays biases and norms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    muon_rate: float = 0.02  # learning rate of orthogonalised updates
    adam_rate: float = 0.001
    momentum: float = 0.95  # of Muon
    betas: tuple[float, ...] = (0.9, 0.98)  # of Adam
    weight_decay: float = 0.05  # of Muon's matrices, times their learning rate
    warmup_steps: int = 50
    cooldown: float = 0.5  # the last share of all steps, over which rates fall linearly to zero


@torch.no_grad()
def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """The orthogonal factor of an (m, n) matrix, approximately: singular values end between 0.7 and 1.2.

    Each step multiplies by q(G) = a + b G + c G^2, where G is the Gram matrix of the result so far. All these
    commute, so the product is gathered on the small side and applied once, at a third of the arithmetic.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = x / (x.norm() + 1e-7)
    gram = x @ x.T
    product = torch.eye(len(gram), dtype=x.dtype, device=x.device)
    for _ in range(steps):
        q = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        q.diagonal().add_(a)
        product = q @ product
        gram = q @ gram @ q
    x = torch.mm(product, x)
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


def _inner(name: str, parameter: nn.Parameter) -> bool:
    """Convolutions inside the bodies of a tokenizer."""
    return parameter.ndim == 4 and "body." in name


class Optimizer:
    """`step(rate)` applies the gradients at `rate` times the configured learning rates; without one nothing moves."""

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        config: OptimizerConfig,
        inner: Callable[[str, nn.Parameter], bool] = _inner,
    ) -> None:
        """`inner` says of a parameter whether it is for Muon; its first axis counts as rows."""
        self.config = config
        self.matrices: dict[str, nn.Parameter] = {}
        self.others: dict[str, nn.Parameter] = {}
        for name, parameter in parameters:
            (self.matrices if inner(name, parameter) else self.others)[name] = parameter
        self.momentum = {name: torch.zeros_like(p) for name, p in self.matrices.items()}
        self.mean = {name: torch.zeros_like(p) for name, p in self.others.items()}
        self.square = {name: torch.zeros_like(p) for name, p in self.others.items()}
        self.steps = 0

    @torch.no_grad()
    def step(self, rate: float) -> None:
        config = self.config
        self.steps += 1
        for name, p in self.matrices.items():
            if p.grad is None:
                continue
            velocity = self.momentum[name].lerp_(p.grad, 1 - config.momentum)
            update = orthogonalize(p.grad.lerp(velocity, config.momentum).flatten(1)).view_as(p)
            tall = max(1.0, p.shape[0] / update[0].numel()) ** 0.5
            p.mul_(1 - config.muon_rate * rate * config.weight_decay).add_(
                update, alpha=-config.muon_rate * rate * tall
            )
        beta1, beta2 = config.betas
        for name, p in self.others.items():
            if p.grad is None:
                continue
            mean = self.mean[name].lerp_(p.grad, 1 - beta1) / (1 - beta1**self.steps)
            square = self.square[name].lerp_(p.grad.square(), 1 - beta2) / (1 - beta2**self.steps)
            p.addcdiv_(mean, square.sqrt().add_(1e-8), value=-config.adam_rate * rate)

    def state_dict(self) -> dict[str, Tensor]:
        groups = {"momentum": self.momentum, "mean": self.mean, "square": self.square}
        return {f"{group}.{name}": t for group, tensors in groups.items() for name, t in tensors.items()}

    def load_state_dict(self, state: dict[str, Tensor], steps: int) -> None:
        for key, tensor in self.state_dict().items():
            tensor.copy_(state[key])
        self.steps = steps


def schedule(step: int, total: int, config: OptimizerConfig) -> float:
    """Rate at `step` of `total`: linear warm-up, constant, linear cool-down to zero."""
    up = (step + 1) / max(1, config.warmup_steps)
    down = (total - step) / max(1.0, config.cooldown * total)
    return max(0.0, min(1.0, up, down))
