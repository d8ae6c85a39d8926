"""Metrics between frames: what one batch of frames offers, and the metrics that collect from it.

Frames are uint8 RGB (T, H, W, 3). A metric sees a batch at a time and keeps a sum, never frames.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import torch

from vidtok.metrics.structure import MIN_SIDE, Pyramid, Strip

BEST_PSNR = 100.0
EXACT = 2**24 // 255**2
MANY = 12  # frames
PIECE = 2**10 * EXACT  # values at a time, few enough for the cache
LUMA = (0.2126, 0.7152, 0.0722)


class FramePair:
    """A batch of reference and other frames, uint8 (T, H, W, 3) tensors, and what metrics share of it.

    `names`: the metrics that it is for.
    """

    def __init__(self, reference: torch.Tensor, other: torch.Tensor, names: Collection[str]) -> None:
        self.frames, self.height, self.width = reference.shape[:3]
        self.reference = reference
        self.other = other
        self._names = names

    @cached_property
    def difference(self) -> torch.Tensor:
        """reference - other: int16 (T, H, W, 3)."""
        return self.reference.to(torch.int16) - self.other.to(torch.int16)

    @cached_property
    def mse(self) -> torch.Tensor:
        """Mean squared error over RGB of each frame, exact sums: (T,) float64."""
        pairs = zip(self.reference.reshape(self.frames, -1), self.other.reshape(self.frames, -1), strict=True)
        return torch.tensor([_squares(x, y) for x, y in pairs], dtype=torch.float64) / (3 * self.height * self.width)

    @cached_property
    def mse_luma(self) -> torch.Tensor:
        """Mean squared error of the luma of each frame: (T,) float64."""
        x, y = self._luma
        return (x - y).square_().sum((0, 1), dtype=torch.float64) / (self.height * self.width)

    @cached_property
    def rgb(self) -> Pyramid:
        """SSIM terms of 3 x T planes: all red ones first."""
        strip = _rgb_strips(self.reference, self.other)
        return self._pyramid(strip, 3 * self.frames, "")

    @cached_property
    def luma(self) -> Pyramid:
        """SSIM terms of T planes of luma."""
        return self._pyramid(_strips(*self._luma), self.frames, ":y")

    def _pyramid(self, strip: Strip, planes: int, suffix: str) -> Pyramid:
        ssim, ms_ssim = (name + suffix in self._names for name in ("ssim", "ms_ssim"))
        return Pyramid(strip, self.height, self.width, planes, ssim=ssim, ms_ssim=ms_ssim)

    @cached_property
    def _luma(self) -> tuple[torch.Tensor, torch.Tensor]:
        return _luma(self.reference), _luma(self.other)


class Metric(Protocol):
    """Collects over the batches of a clip. Where `result` is None, `missing` says why.

    `kept`: None, or a list that gets the value of every frame (None where a frame has none).
    """

    missing: str | None
    kept: list[float | None] | None

    def update(self, pair: FramePair) -> None: ...

    def result(self) -> float | None: ...


class Mean:
    """Mean over frames of values (T,)."""

    def __init__(self) -> None:
        self.missing: str | None = "no frames"
        self.kept: list[float | None] | None = None
        self._sum = 0.0
        self._frames = 0

    def add(self, values: torch.Tensor) -> None:
        """Values of frames (T,), in order."""
        self.missing = None
        self._sum += float(values.double().sum())
        self._frames += values.numel()
        if self.kept is not None:
            self.kept += values.tolist()

    def result(self) -> float | None:
        return self._sum / self._frames if self._frames and self.missing is None else None


class Psnr(Mean):
    """Per frame from its MSE, mean over frames. `luma`: of BT.709 luma instead of RGB."""

    def __init__(self, *, luma: bool = False) -> None:
        super().__init__()
        self._luma = luma

    def update(self, pair: FramePair) -> None:
        mse = pair.mse_luma if self._luma else pair.mse
        self.add(torch.tensor([psnr_of(float(x)) for x in mse], dtype=torch.float64))


class VideoPsnr(Mean):
    """From the MSE over all frames of the clip."""

    def update(self, pair: FramePair) -> None:
        self.add(pair.mse)

    def result(self) -> float | None:
        mse = super().result()
        return None if mse is None else psnr_of(mse)


class WorstPsnr:
    """The worst frame of the clip."""

    def __init__(self) -> None:
        self.missing: str | None = "no frames"
        self.kept: list[float | None] | None = None
        self._worst = -1.0

    def update(self, pair: FramePair) -> None:
        self.missing = None
        self._worst = max(self._worst, float(pair.mse.max()))

    def result(self) -> float | None:
        return None if self.missing else psnr_of(self._worst)


class Ssim(Mean):
    """SSIM on RGB or luma, mean over planes and frames."""

    def __init__(self, *, luma: bool = False) -> None:
        super().__init__()
        self._luma = luma

    def update(self, pair: FramePair) -> None:
        self.add(_by_frame((pair.luma if self._luma else pair.rgb).ssim(), pair.frames))


class MsSsim(Mean):
    """MS-SSIM on RGB or luma; cannot be had where the short side is <= 160."""

    def __init__(self, *, luma: bool = False) -> None:
        super().__init__()
        self._luma = luma

    def update(self, pair: FramePair) -> None:
        side = min(pair.height, pair.width)
        if side <= MIN_SIDE:
            self.missing = f"short side {side}; MS-SSIM needs more than {MIN_SIDE} pixels"
            return
        self.add(_by_frame((pair.luma if self._luma else pair.rgb).ms_ssim(), pair.frames))


class Flicker(Mean):
    """Mean |change of the error from one frame to the next|, levels of 255: seams in time show here first."""

    def __init__(self) -> None:
        super().__init__()
        self.missing = "one frame; flicker needs two"
        self._last: torch.Tensor | None = None

    def update(self, pair: FramePair) -> None:
        errors = pair.difference
        if self._last is not None:
            errors = torch.cat([self._last, errors])
        elif self.kept is not None:
            self.kept.append(None)  # the first frame follows none
        values = 3.0 * pair.height * pair.width
        for before, after in pairwise(errors):
            self.add((after - before).abs_().sum(dtype=torch.int64).view(1) / values)
        self._last = errors[-1:].clone()


def psnr_of(mse: float) -> float:
    """dB of a mean squared error of 8-bit values, at most BEST_PSNR (equal pictures)."""
    return min(BEST_PSNR, 10 * math.log10(255**2 / mse)) if mse > 0 else BEST_PSNR


def _by_frame(planes: torch.Tensor, frames: int) -> torch.Tensor:
    """Values of channels x T planes -> their mean for each frame (T,)."""
    return planes.view(-1, frames).mean(0)


def _squares(x: torch.Tensor, y: torch.Tensor) -> int:
    """Sum of squared differences of uint8 values (N,), exact: float32 holds a sum of EXACT squares as an integer."""
    total = 0
    for first in range(0, len(x), PIECE):
        piece = slice(first, first + PIECE)
        difference = x[piece].float().sub_(y[piece])
        difference.mul_(difference)
        whole = len(difference) // EXACT * EXACT
        sums = difference[:whole].view(-1, EXACT).sum(1).sum(dtype=torch.float64)
        total += int(sums + difference[whole:].sum(dtype=torch.float64))
    return total


def _luma(frames: torch.Tensor) -> torch.Tensor:
    """BT.709 luma, full range, not rounded: uint8 (T, H, W, 3) -> float32 (H, W, T)."""
    red, green, blue = frames.permute(1, 2, 0, 3).float().unbind(-1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def _rgb_strips(x: torch.Tensor, y: torch.Tensor) -> Strip:
    """Of uint8 frames (T, H, W, 3). Rows become s and d as they lie and are turned round after that: turning bytes
    takes several times as long."""
    frames, _, width, _ = x.shape
    held = torch.empty(0)

    def strip(first: int, end: int, scratch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal held
        values = frames * (end - first) * width * 3
        if len(held) < 2 * values:
            held = torch.empty(2 * values)
        s, d = held[: 2 * values].view(2, frames, -1)
        _sum_and_difference(x[:, first:end].reshape(frames, -1), y[:, first:end].reshape(frames, -1), s, d)
        for turned, lying in zip(scratch, (s, d), strict=True):
            _turn(lying, turned.view(-1, frames))
        return scratch[0], scratch[1]

    return strip


def _turn(lying: torch.Tensor, turned: torch.Tensor) -> None:
    """(T, P) float32 into (P, T); values are integers below 2^10. A product with the identity is the quickest way for
    many frames, and exact unless products are allowed to round their factors."""
    frames = len(lying)
    if frames >= MANY and torch.get_float32_matmul_precision() == "highest":
        torch.mm(lying.t(), torch.eye(frames), out=turned)
    else:
        turned.copy_(lying.t())


def _strips(x: torch.Tensor, y: torch.Tensor) -> Strip:
    """Of two stacks of planes (H, W, N) float32."""

    def strip(first: int, end: int, scratch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        s, d = scratch
        _sum_and_difference(x[first:end], y[first:end], s, d)
        return s, d

    return strip


def _sum_and_difference(x: torch.Tensor, y: torch.Tensor, s: torch.Tensor, d: torch.Tensor) -> None:
    """x + y into s and x - y into d; in place, since fresh memory costs more than arithmetic."""
    s.copy_(x)
    d.copy_(y)
    torch.sub(s, d, out=d)
    s.mul_(2).sub_(d)
