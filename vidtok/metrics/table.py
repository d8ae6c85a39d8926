"""Names of metrics -> the objects that measure them, fed together so that they share their work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch

from vidtok.errors import UsageError
from vidtok.metrics import NOT_BUILT, parse_metrics
from vidtok.metrics.fidelity import Flicker, FramePair, Mean, Metric, MsSsim, Psnr, Ssim, VideoPsnr, WorstPsnr

FRAME_METRICS: dict[str, Callable[[], Metric]] = {
    "psnr": Psnr,
    "psnr:video": VideoPsnr,
    "psnr:worst": WorstPsnr,
    "psnr:y": lambda: Psnr(luma=True),
    "ssim": Ssim,
    "ssim:y": lambda: Ssim(luma=True),
    "ms_ssim": MsSsim,
    "ms_ssim:y": lambda: MsSsim(luma=True),
    "flicker": Flicker,
}

BATCH_FRAMES = 16
BATCH_VALUES = 2**23

Frames = np.ndarray[Any, Any] | torch.Tensor


class MetricSet:
    """Several metrics over one clip, in one pass and constant memory.

    `update` any number of frames at a time; `result()` has a key per metric, and `NAME_missing` with the
    reason beside every None. "tokens" is not a metric of frames and is left out here.
    """

    def __init__(self, names: str | Iterable[str]) -> None:
        self.names = tuple(name for name in parse_metrics(names) if name != "tokens")
        self._metrics = {name: FRAME_METRICS[name]() for name in self.names if name not in NOT_BUILT}
        self._means = {name: metric for name, metric in self._metrics.items() if isinstance(metric, Mean)}
        self.frames = 0

    @property
    def frame_values(self) -> dict[str, list[float]]:
        """Metric -> its values for the frames of the last update, where it has one per frame. A metric of changes
        between frames has none for the first frame of the clip, so one fewer in the first update."""
        # what VideoPsnr adds are errors and not dB
        return {name: list(m.recent) for name, m in self._means.items() if not isinstance(m, VideoPsnr)}

    def update(self, reference: Frames, other: Frames) -> None:
        """Frames (T, H, W, 3) uint8, arrays or tensors; both of the same shape."""
        if tuple(reference.shape) != tuple(other.shape):
            shapes = f"{tuple(reference.shape)} and {tuple(other.shape)}"
            raise UsageError(f"frames {shapes} differ in shape; compare equal sizes")
        self.frames += reference.shape[0]
        for mean in self._means.values():
            mean.recent.clear()
        for first, end in _batches(*reference.shape[:3]):
            pair = FramePair(_tensor(reference[first:end]), _tensor(other[first:end]))
            for metric in self._metrics.values():
                metric.update(pair)

    def result(self) -> dict[str, float | str | None]:
        """Metric -> value or None, `METRIC_missing` -> reason, in the order asked for."""
        row: dict[str, float | str | None] = {}
        for name in self.names:
            metric = self._metrics.get(name)
            row[name] = metric.result() if metric else None
            if row[name] is None:
                row[f"{name}_missing"] = metric.missing if metric else NOT_BUILT[name]
        return row


def measure(reference: Frames, other: Frames, names: str | Iterable[str]) -> dict[str, float | str | None]:
    """Metrics of two clips that are in memory, uint8 (T, H, W, 3)."""
    metrics = MetricSet(names)
    metrics.update(reference, other)
    return metrics.result()


def _tensor(frames: Frames) -> torch.Tensor:
    """On the CPU, where every machine counts the same."""
    if isinstance(frames, torch.Tensor):
        return frames.cpu()
    if not frames.flags.writeable:
        frames = frames.copy()
    return torch.from_numpy(frames)


def _batches(frames: int, height: int, width: int) -> Iterator[tuple[int, int]]:
    """[first, end) of equal batches: wide enough to be fast, small enough for 8K frames."""
    most = max(1, min(BATCH_FRAMES, BATCH_VALUES // (3 * height * width)))
    count = -(-frames // most)
    for i in range(count):
        yield i * frames // count, (i + 1) * frames // count
