"""Distortion losses: reconstruction and target (B, T, H, W, 3) in [-1, 1] -> one number. A table by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def l1(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).abs().mean()


def l2(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).square().mean()


def log_l2(x: Tensor, y: Tensor) -> Tensor:
    """Mean over clips of log(MSE): minus the mean PSNR up to a factor, flattened beyond 43 dB.

    A mean of squared errors is ruled by the hardest clips of a batch; mean PSNR, which is what is reported,
    weighs each clip by the inverse of its error.
    """
    return ((x - y).square().mean((1, 2, 3, 4)) + 2e-4).log().mean()


def rmse(x: Tensor, y: Tensor) -> Tensor:
    """Mean over clips of the root of the MSE: halfway between `l2` and `log_l2`.

    `log_l2` alone lets the easiest clip of a small batch rule the direction of the step.
    """
    return ((x - y).square().mean((1, 2, 3, 4)) + 1e-5).sqrt().mean()


def root4(x: Tensor, y: Tensor) -> Tensor:
    """Mean over clips of the fourth root of the MSE: a step from `rmse` towards mean PSNR, for the end of a run."""
    return ((x - y).square().mean((1, 2, 3, 4)) + 1e-5).pow(0.25).mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": l1,
    "l2": l2,
    "log_l2": log_l2,
    "rmse": rmse,
    "root4": root4,
}
