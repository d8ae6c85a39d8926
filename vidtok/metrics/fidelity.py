"""Metrics between frames: what one batch of frames offers, and the metrics that collect from it.

Frames are uint8 RGB (T, H, W, 3). A metric sees a batch at a time and keeps a sum, never frames.
"""

from __future__ import annotations

import math
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import torch

from vidtok.metrics.structure import MIN_SIDE, Pyramid

BEST_PSNR = 100.0
LUMA = (0.2126, 0.7152, 0.0722)


class FramePair:
    """A batch of reference and other frames, uint8 (T, H, W, 3) tensors, and what metrics share of it."""

    def __init__(self, reference: torch.Tensor, other: torch.Tensor) -> None:
        self.frames, self.height, self.width = reference.shape[:3]
        self.reference = reference
        self.other = other

    @cached_property
    def difference(self) -> torch.Tensor:
        """reference - other: int16 (T, H, W, 3)."""
        return self.reference.to(torch.int16) - self.other.to(torch.int16)

    @cached_property
    def mse(self) -> torch.Tensor:
        """Mean squared error over RGB of each frame, exact sums: (T,) float64."""
        wide = self.difference.to(torch.int32)
        return wide.mul_(wide).sum((1, 2, 3), dtype=torch.int64).double() / (3 * self.height * self.width)

    @cached_property
    def mse_luma(self) -> torch.Tensor:
        """Mean squared error of the luma of each frame: (T,) float64."""
        x, y = self._luma
        return (x - y).square_().sum((0, 1), dtype=torch.float64) / (self.height * self.width)

    @cached_property
    def rgb(self) -> Pyramid:
        """SSIM terms of T x 3 planes, frame by frame."""
        x, y = (_channels_last(frames) for frames in (self.reference, self.other))
        return _pyramid(x, y)

    @cached_property
    def luma(self) -> Pyramid:
        """SSIM terms of T planes of luma."""
        return _pyramid(*self._luma)

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
    """Values of T x channels planes -> their mean for each frame (T,)."""
    return planes.view(frames, -1).mean(1)


def _channels_last(frames: torch.Tensor) -> torch.Tensor:
    """(T, H, W, 3) -> (H, W, T * 3), still uint8."""
    count, height, width, _ = frames.shape
    return frames.permute(1, 2, 0, 3).reshape(height, width, 3 * count)


def _luma(frames: torch.Tensor) -> torch.Tensor:
    """BT.709 luma, full range, not rounded: uint8 (T, H, W, 3) -> float32 (H, W, T)."""
    red, green, blue = frames.permute(1, 2, 0, 3).float().unbind(-1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def _pyramid(x: torch.Tensor, y: torch.Tensor) -> Pyramid:
    """Of two stacks of planes (H, W, N), uint8 or float32."""

    def strip(first: int, end: int, scratch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        s, d = scratch
        s.copy_(x[first:end])
        d.copy_(y[first:end])
        torch.sub(s, d, out=d)  # x - y
        return s.mul_(2).sub_(d), d  # 2 x - (x - y); in place, since fresh memory costs more than arithmetic

    return Pyramid(strip, *x.shape)
