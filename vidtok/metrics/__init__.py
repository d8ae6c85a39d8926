"""How good and how dense: names of metrics, and statistics of tokens. This file imports no torch.

table.py       `MetricSet`: names -> metrics, fed with clips, one pass, constant memory
fidelity.py    `FramePair` and PSNR
structure.py   SSIM and MS-SSIM
lpips.py       LPIPS, VGG-16 and AlexNet, weights found or fetched when asked
statistics.py  `TokenStatistics`: usage, perplexity, entropy, repeats (numpy)
"""

from __future__ import annotations

from collections.abc import Iterable

from vidtok.errors import UnknownNameError
from vidtok.metrics.statistics import TokenStatistics

__all__ = ["DEFAULT_METRICS", "DIALECTS", "NOT_BUILT", "TokenStatistics", "parse_metrics"]

DEFAULT_METRICS = ("psnr", "ssim", "ms_ssim")

DIALECTS = {
    "psnr": "dB, per frame from the MSE over RGB uint8, mean over frames; equal frames are 100, the most",
    "psnr:video": "dB, one MSE over all frames of a clip, RGB uint8; at most 100",
    "psnr:worst": "dB, the worst frame of the clip, RGB uint8; at most 100",
    "psnr:y": "dB, as psnr on BT.709 full-range luma, not rounded",
    "ssim": "RGB, 11-tap Gaussian sigma 1.5, valid area, mean over channels and frames (= pytorch-msssim)",
    "ssim:y": "as ssim on BT.709 full-range luma, not rounded",
    "ms_ssim": "RGB, 5 scales of ssim, product per channel, mean over channels and frames (= pytorch-msssim)",
    "ms_ssim:y": "as ms_ssim on BT.709 full-range luma, not rounded",
    "flicker": "0..255, mean |change of the error from one frame to the next|, RGB uint8; 0 is best",
    "tokens": "usage, perplexity, entropy, digit_entropy (bits) and repeats of the ids, exact",
}
"""Metrics that can be measured, each with the dialect it speaks (reports print it)."""

_WEIGHTS = "not built yet: it needs network weights that are not in the package"
NOT_BUILT = {
    "lpips": _WEIGHTS,
    "lpips:vgg": _WEIGHTS,
    "lpips:alex": _WEIGHTS,
    "dists": _WEIGHTS,
    "fvd": _WEIGHTS,
    "fvd:a": _WEIGHTS,
    "fvd:b": _WEIGHTS,
    "fvd:c": _WEIGHTS,
    "fid": _WEIGHTS,
    "vmaf": "not built yet: it needs an external ffmpeg with libvmaf",
    "xpsnr": "not built yet",
    "vif": "not built yet",
}
"""Metrics that are known but cannot be had, each with the reason (null in a row, beside `NAME_missing`)."""


def parse_metrics(names: str | Iterable[str]) -> tuple[str, ...]:
    """Metric names of a comma-separated list (or of several), in order, each once.

    "bpp" is accepted and left out: every row has it. Names that nobody knows raise UnknownNameError.
    """
    parts = [names] if isinstance(names, str) else list(names)
    split = [name.strip() for part in parts for name in part.split(",")]
    wanted = [name.lower().replace("-", "_") for name in split if name]
    for name in wanted:
        if name not in DIALECTS and name not in NOT_BUILT and name != "bpp":
            raise UnknownNameError("metric", name, [*DIALECTS, *NOT_BUILT, "bpp"])
    return tuple(dict.fromkeys(name for name in wanted if name != "bpp"))
