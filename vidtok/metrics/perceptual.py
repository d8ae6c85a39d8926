"""Metrics that ask a network or a program: LPIPS, XPSNR, VIF, VMAF."""

from __future__ import annotations

import math

import torch

from vidtok.errors import UsageError
from vidtok.metrics.fidelity import BEST_PSNR, FramePair, Mean
from vidtok.metrics.lpips import Lpips
from vidtok.metrics.vmaf import VmafProcess
from vidtok.video.filters import PairFilter

BATCH_VALUES = 2**21  # pixels at a time


class LpipsMetric(Mean):
    """LPIPS per frame, mean over frames."""

    def __init__(self, network: Lpips, device: str = "cpu") -> None:
        super().__init__()
        self._network, self._device = network, device

    @torch.inference_mode()
    def update(self, pair: FramePair) -> None:
        if min(pair.height, pair.width) < self._network.backbone.smallest:
            self.missing = f"frames of {pair.width}x{pair.height}; sides of {self._network.backbone.smallest} are least"
            return
        step = max(1, BATCH_VALUES // (pair.height * pair.width))
        for i in range(0, pair.frames, step):
            x, y = (
                frames[i : i + step].to(self._device).permute(0, 3, 1, 2).float() / 127.5 - 1
                for frames in (pair.reference, pair.other)
            )
            self.add(self._network(x, y).cpu())


class FilterMetric(Mean):
    """A value of one of FFmpeg's filters per frame, mean over frames."""

    name, key, smallest, pixels = "vif", "scale.0", 16, 0

    def __init__(self) -> None:
        super().__init__()
        self._filter: PairFilter | None = None
        self._finished = False

    def update(self, pair: FramePair) -> None:
        if self._filter is None and not self._open(pair):
            return
        assert self._filter is not None
        for reference, other in zip(pair.reference.numpy(), pair.other.numpy(), strict=True):
            self._take(self._filter.push(reference, other))

    def result(self) -> float | None:
        if self._filter is not None and not self._finished:
            self._finished = True
            self._take(self._filter.finish())
        return super().result()

    def _open(self, pair: FramePair) -> bool:
        width, height = pair.width, pair.height
        if min(width, height) < self.smallest or width * height < self.pixels:
            self.missing = f"frames of {width}x{height} are too small for {self.name}"
            return False
        try:
            self._filter = PairFilter(self.name, width, height)
        except UsageError as exc:
            self.missing = str(exc)
            return False
        return True

    def _take(self, found: list[dict[str, float]]) -> None:
        if found:
            self.add(torch.tensor([row[self.key] for row in found], dtype=torch.float64))


class Xpsnr(FilterMetric):
    """XPSNR of luma. The mean is the filter's own: over the roots of the weighted squared errors, then in dB."""

    # smaller frames than 2025 pixels make the filter divide by zero
    name, key, smallest, pixels = "xpsnr", "xpsnr.y", 16, 2025

    def __init__(self) -> None:
        super().__init__()
        self._roots = 0.0

    def add(self, values: torch.Tensor) -> None:
        super().add(values.clamp(max=BEST_PSNR))
        self._roots += float((10 ** (-values / 20)).sum())

    def result(self) -> float | None:
        if super().result() is None:
            return None
        mean = self._roots / self._frames
        return min(BEST_PSNR, -20 * math.log10(mean)) if mean > 0 else BEST_PSNR


class Vmaf(Mean):
    """VMAF by an external ffmpeg."""

    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program
        self._process: VmafProcess | None = None

    def update(self, pair: FramePair) -> None:
        if self._process is None:
            self._process = VmafProcess(self._program, pair.width, pair.height)
        self._process.push(pair.reference.numpy(), pair.other.numpy())

    def result(self) -> float | None:
        if self._process is not None:
            values, reason = self._process.finish()
            self._process = None
            if values:
                self.add(torch.tensor(values, dtype=torch.float64))
            else:
                self.missing = reason
        return super().result()
