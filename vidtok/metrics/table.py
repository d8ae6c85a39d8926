"""Names of metrics -> the objects that measure them, fed together so that they share their work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch

from vidtok.errors import UsageError, VidtokError
from vidtok.metrics import NOT_BUILT, SET_METRICS, parse_metrics
from vidtok.metrics.fid import FrameFeatures
from vidtok.metrics.fidelity import Flicker, FramePair, Metric, MsSsim, Psnr, Ssim, VideoPsnr, WorstPsnr
from vidtok.metrics.fvd import DIALECTS, Features, Sampling
from vidtok.metrics.networks import Networks
from vidtok.metrics.perceptual import FilterMetric, LpipsMetric, Vmaf, Xpsnr
from vidtok.metrics.vmaf import find_vmaf

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
    "xpsnr": Xpsnr,
    "vif": FilterMetric,
}
"""Metrics of a clip that need nothing from outside."""

OUTSIDE: dict[str, Callable[[Networks], Metric]] = {
    "lpips": lambda networks: LpipsMetric(networks.lpips("vgg"), networks.device),
    "lpips:vgg": lambda networks: LpipsMetric(networks.lpips("vgg"), networks.device),
    "lpips:alex": lambda networks: LpipsMetric(networks.lpips("alex"), networks.device),
    "vmaf": lambda networks: Vmaf(find_vmaf()),
}
"""Metrics of a clip that need weights or a program."""

WHOLE_CLIP = ("psnr:video", "psnr:worst")
"""Metrics without a value for each frame."""

BATCH_FRAMES = 16
BATCH_VALUES = 2**25

Frames = np.ndarray[Any, Any] | torch.Tensor


class MetricSet:
    """Several metrics over one clip, in one pass and constant memory.

    `update` any number of frames at a time; `result()` has a key per metric, and `NAME_missing` with the
    reason beside every None. "tokens" is not a metric of frames and is left out here; fvd and fid are about sets of
    clips: `features` holds what this clip adds to them. `networks`: where weights come from (None: only those at
    hand). `per_frame`: `result` has the values of all frames too, lists under the key `per_frame`. `watched`: somebody
    asks for `fresh_values` on the way.
    """

    def __init__(
        self,
        names: str | Iterable[str],
        networks: Networks | None = None,
        *,
        sampling: Sampling | None = None,
        per_frame: bool = False,
        watched: bool = False,
    ) -> None:
        wanted = tuple(name for name in parse_metrics(names) if name != "tokens")
        self.names = tuple(name for name in wanted if name not in SET_METRICS)
        self.frames = 0
        self.features: dict[str, Features | FrameFeatures] = {}
        self._metrics: dict[str, Metric] = {}
        self._reasons: dict[str, str] = {}
        networks = networks or Networks()
        for name in wanted:
            try:
                if name in SET_METRICS:
                    self.features[name] = features_of(name, networks, sampling or Sampling())
                else:
                    self._metrics[name] = metric_of(name, networks)
            except VidtokError as exc:
                self._reasons[name] = str(exc)
        self._per_frame, self._handed = per_frame, dict.fromkeys(self._metrics, 0)
        if per_frame or watched:
            for name, metric in self._metrics.items():
                metric.kept = None if name in WHOLE_CLIP else []

    def update(self, reference: Frames, other: Frames) -> None:
        """Frames (T, H, W, 3) uint8, arrays or tensors; both of the same shape."""
        if tuple(reference.shape) != tuple(other.shape):
            shapes = f"{tuple(reference.shape)} and {tuple(other.shape)}"
            raise UsageError(f"frames {shapes} differ in shape; compare equal sizes")
        self.frames += reference.shape[0]
        for first, end in _batches(*reference.shape[:3]):
            pair = FramePair(_tensor(reference[first:end]), _tensor(other[first:end]), self.names)
            for metric in self._metrics.values():
                metric.update(pair)
            for features in self.features.values():
                features.update(pair.reference, pair.other)

    def result(self) -> dict[str, Any]:
        """Metric -> value or None, `METRIC_missing` -> reason, in the order asked for. Metrics of sets of clips are
        here only if they cannot be had."""
        row: dict[str, Any] = {}
        for name in (*self.names, *(name for name in self._reasons if name in SET_METRICS)):
            metric = self._metrics.get(name)
            row[name] = metric.result() if metric else None
            if row[name] is None:
                row[f"{name}_missing"] = metric.missing if metric else self._reasons[name]
        kept = {name: metric.kept for name, metric in self._metrics.items() if metric.kept is not None}
        return row | ({"per_frame": kept} if kept and self._per_frame else {})

    def fresh_values(self) -> dict[str, list[float | None]]:
        """Metric -> values of frames, in order, that are known since the last call; None where a frame has none.

        Those of filters and programs come late, the last ones after `result`. Without `per_frame` they are not held.
        """
        found = {}
        for name, metric in self._metrics.items():
            if metric.kept is not None:
                found[name] = metric.kept[self._handed[name] :]
                self._handed[name] = len(metric.kept) if self._per_frame else 0
                if not self._per_frame:
                    metric.kept.clear()
        return found


def metric_of(name: str, networks: Networks) -> Metric:
    """A fresh metric of a clip; VidtokError if it cannot be had."""
    if name in NOT_BUILT:
        raise UsageError(NOT_BUILT[name])
    return FRAME_METRICS[name]() if name in FRAME_METRICS else OUTSIDE[name](networks)


def features_of(name: str, networks: Networks, sampling: Sampling) -> Features | FrameFeatures:
    """What collects a clip's part of fvd or fid; VidtokError if it cannot be had."""
    if name == "fid":
        return FrameFeatures(networks.inception(), networks.device)
    dialect = DIALECTS[name]
    network = networks.styleganv() if dialect.script else networks.i3d()
    return Features(network, dialect, sampling, networks.device)


def missing_metrics(names: Iterable[str], networks: Networks, sampling: Sampling | None = None) -> dict[str, str]:
    """Those of the metrics that cannot be had here, each with the reason; loads what they need."""
    reasons = {}
    for name in names:
        try:
            if name in SET_METRICS:
                features_of(name, networks, sampling or Sampling())
            elif name != "tokens":
                metric_of(name, networks)
        except VidtokError as exc:
            reasons[name] = str(exc)
    return reasons


def measure(reference: Frames, other: Frames, names: str | Iterable[str]) -> dict[str, Any]:
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
