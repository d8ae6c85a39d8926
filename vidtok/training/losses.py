"""Losses: distortions by name, the terms of a config with weights and schedules, and their sum.

A distortion is a plain function of reconstruction and target (B, T, H, W, 3) in [-1, 1] -> one number, the mean over
clips, so that the mean over equal parts of a batch is that of the batch. `build` makes terms of a config, `total` adds
them up; the terms that come from the quantizer are weighted by the same entries:

    losses = [{kind = "root4"}, {kind = "temporal", weight = 0.1, schedule = [[0, 0.0], [1000, 1.0]]}]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vidtok.errors import ConfigError, UnknownNameError, UsageError
from vidtok.metrics.lpips import BACKBONES, Lpips, find_weights, load_lpips
from vidtok.metrics.structure import SCALES, TAPS, WEIGHTS
from vidtok.model.quantizer import Quantized

Distortion = Callable[[Tensor, Tensor], Tensor]


def l1(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).abs().mean()


def l2(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).square().mean()


def charbonnier(x: Tensor, y: Tensor) -> Tensor:
    """Mean of sqrt(e^2 + 0.001^2): `l1` with a gradient that is smooth at zero (Charbonnier et al. 1994)."""
    return ((x - y).square() + 1e-6).sqrt().mean()


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


def temporal(x: Tensor, y: Tensor) -> Tensor:
    """Flicker: mean absolute change of the error from one frame to the next; zero for single pictures."""
    change = (x - y).diff(dim=1)
    return change.abs().sum() / max(1, change.numel())


def ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """1 - MS-SSIM (Wang et al. 2003) of RGB frames, as pytorch-msssim has it; the formulas are in metrics.structure.

    Frames whose short side is 160 or less have fewer scales, as many as leave a whole window (n scales want more than
    10 * 2^(n-1) pixels), with the first n weights made to add up to one. A plane's factor is held at 0.0001 at least:
    the original lets one scale below zero take the value and the gradient of the plane with it.
    UsageError below 11 pixels.
    """
    side = min(x.shape[2:4])
    if side < TAPS:
        raise UsageError(f"ms_ssim: frames of {x.shape[2]}x{x.shape[3]} are too small, sides of {TAPS} are the least")
    weights = WEIGHTS[: sum(side > (TAPS - 1) * 2**scale for scale in range(SCALES))]
    s, d = _planes(x + y + 2), _planes(x - y)
    product = s.new_ones(s.shape[1])
    for scale, weight in enumerate(weights):
        if scale:
            s, d = _halve(s), _halve(d)
        luminance, contrast = _similarity(s, d)
        last = scale == len(weights) - 1
        factor = (luminance * contrast if last else contrast).mean((0, 2, 3))
        product = product * factor.clamp(min=1e-4) ** (weight / sum(weights) if len(weights) < SCALES else weight)
    return 1 - product.mean()


def _planes(x: Tensor) -> Tensor:
    """(B, T, H, W, 3) -> (1, B * T * 3, H, W), planes innermost in memory: there depthwise convolutions are fast."""
    return x.movedim(-1, 2).flatten(0, 2).unsqueeze(0).contiguous(memory_format=torch.channels_last)


def _halve(x: Tensor) -> Tensor:
    """2x2 means; an odd side has a zero in front, as in the original."""
    return F.avg_pool2d(x, 2, padding=(x.shape[2] % 2, x.shape[3] % 2))


def _similarity(s: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance and contrast maps from sum and difference of planes in [0, 2]."""
    mean_s, mean_d = _blur(s).square(), _blur(d).square()
    var_s, var_d = _blur(s.square()) - mean_s, _blur(d.square()) - mean_d
    c1, c2 = 2 * 0.02**2, 2 * 0.06**2  # twice (0.01 * range)^2 and (0.03 * range)^2
    return 1 - 2 * mean_d / (mean_s + mean_d + c1), 1 - 2 * var_d / (var_s + var_d + c2)


def _blur(x: Tensor) -> Tensor:
    """Gaussian of 11 taps, sigma 1.5, over the valid area of (1, N, H, W)."""
    planes = x.shape[1]
    window = torch.tensor(_window(), dtype=x.dtype, device=x.device).expand(planes, 1, 1, TAPS)
    x = F.conv2d(x, window.transpose(2, 3), groups=planes)
    return F.conv2d(x, window, groups=planes)


@cache
def _window() -> tuple[float, ...]:
    values = [math.exp(-((i - TAPS // 2) ** 2) / (2 * 1.5**2)) for i in range(TAPS)]
    return tuple(value / sum(values) for value in values)


LOSSES: dict[str, Distortion] = {
    "l1": l1,
    "l2": l2,
    "charbonnier": charbonnier,
    "log_l2": log_l2,
    "rmse": rmse,
    "root4": root4,
    "temporal": temporal,
    "ms_ssim": ms_ssim,
}
"""Distortions that need nothing but the frames. `lpips` needs weights and is built by `build`."""

QUANTIZER_TERMS = ("commitment", "sample_entropy", "batch_entropy")
"""Terms of lfq and bsq, which have their weights in `model.quantizer`; an entry in `losses` multiplies them."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    kind: str  # a name of LOSSES or QUANTIZER_TERMS, or lpips
    weight: float = 1.0
    schedule: tuple[tuple[float, ...], ...] = ()  # (step, factor of the weight), linear between, constant outside
    net: str = "vgg"  # lpips: vgg or alex
    path: str = ""  # lpips: file or folder with the weights of `net`; empty: see metrics.lpips.find_weights
    download: bool = False  # lpips: may the published weights be fetched if they are nowhere on this machine

    def __post_init__(self) -> None:
        known = [*LOSSES, *QUANTIZER_TERMS, "lpips"]
        if self.kind not in known:
            raise UnknownNameError("loss", self.kind, known)
        if self.net not in BACKBONES:
            raise UnknownNameError("lpips network", self.net, BACKBONES)
        if self.kind != "lpips" and (self.net, self.path, self.download) != ("vgg", "", False):
            raise ConfigError(f"loss {self.kind!r}: net, path and download are for lpips")
        factors = [self.weight, *(point[-1] for point in self.schedule if point)]
        if not all(math.isfinite(factor) and factor >= 0 for factor in factors):
            raise ConfigError(f"loss {self.kind!r}: weights and factors are finite and not negative, got {factors}")
        if any(len(point) != 2 for point in self.schedule) or any(a[0] >= b[0] for a, b in pairwise(self.schedule)):
            raise ConfigError(f"loss {self.kind!r}: a schedule is [step, factor] pairs, steps rising: {self.schedule}")

    def weight_at(self, step: int) -> float:
        """Weight times the factor that the schedule has at `step`."""
        points = self.schedule or ((0.0, 1.0),)
        if step <= points[0][0]:
            return self.weight * points[0][1]
        for (start, before), (end, after) in pairwise(points):
            if step <= end:
                return self.weight * (before + (after - before) * (step - start) / (end - start))
        return self.weight * points[-1][1]


@dataclass(frozen=True)
class Term:
    config: LossConfig
    distortion: Distortion | None  # None: the value comes with the quantized latent


def build(losses: Sequence[LossConfig], device: torch.device | str = "cpu") -> tuple[Term, ...]:
    """Terms of a config, the weights of networks loaded. ConfigError: a kind given twice, or no distortion."""
    kinds = [config.kind for config in losses]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise ConfigError(f"loss {kind!r} is given twice")
    if all(kind in QUANTIZER_TERMS for kind in kinds):
        raise ConfigError(f"losses want at least one distortion: {', '.join([*LOSSES, 'lpips'])}")
    return tuple(Term(config, _distortion(config, device)) for config in losses)


def _distortion(config: LossConfig, device: torch.device | str) -> Distortion | None:
    if config.kind != "lpips":
        return LOSSES.get(config.kind)
    file = find_weights(config.net, config.path, download=config.download)
    network = _network(config.net, file, torch.device(device))

    def lpips(x: Tensor, y: Tensor) -> Tensor:
        """Mean over frames of LPIPS."""
        return network(*(frames.flatten(0, 1).movedim(-1, 1) for frames in (x, y))).mean()  # type: ignore[no-any-return]

    return lpips


@cache
def _network(net: str, file: Path, device: torch.device) -> Lpips:
    """One network for all stages of a run."""
    return load_lpips(net, file).to(device)


def total(
    terms: Sequence[Term], x: Tensor, y: Tensor, step: int, quantized: Quantized | None = None
) -> tuple[Tensor, dict[str, float]]:
    """Sum of all terms at `step`, and what each adds to it (weight included), so that a bad value has a name.

    x and y (B, T, H, W, 3) in [-1, 1], any float dtype: distortions are measured in fp32, also under autocast. A
    term of weight zero is not computed and adds 0.0. With `quantized` its terms are added, multiplied by the entries
    of their kind; a part of its loss that has no name is called "quantizer". ConfigError: an entry for a term
    that the quantizer does not have.
    """
    weights = {term.config.kind: term.config.weight_at(step) for term in terms}
    shares: dict[str, Tensor] = {}
    with torch.autocast(x.device.type, enabled=False):
        x, y = x.float(), y.float()
        for term in terms:
            if term.distortion is not None:
                weight = weights[term.config.kind]
                shares[term.config.kind] = weight * term.distortion(x, y) if weight else x.new_zeros(())
    if quantized is not None:
        shares |= _quantizer_shares(terms, weights, quantized)
    values = torch.stack(list(shares.values()))
    return values.sum(), dict(zip(shares, values.detach().tolist(), strict=True))


def _quantizer_shares(terms: Sequence[Term], weights: dict[str, float], quantized: Quantized) -> dict[str, Tensor]:
    named = dict(quantized.terms)
    if not named and quantized.loss.requires_grad:
        named["quantizer"] = quantized.loss
    for term in terms:
        if term.distortion is None and term.config.kind not in named:
            raise ConfigError(f"loss {term.config.kind!r}: the quantizer gives no such term; lfq and bsq do")
    return {name: weights.get(name, 1.0) * value.float() for name, value in named.items()}
