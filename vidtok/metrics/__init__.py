"""How good and how dense: names of metrics, and statistics of tokens. This file imports no torch.

table.py       `MetricSet`: names -> metrics, fed with clips, one pass, constant memory
fidelity.py    `FramePair` and PSNR
structure.py   SSIM and MS-SSIM
perceptual.py  LPIPS, XPSNR, VIF and VMAF as metrics of clips
lpips.py       LPIPS, VGG-16 and AlexNet
i3d.py         the I3D network of two of the FVD dialects
fvd.py         FVD: dialects, samples, features
fid.py         FID over frames: features
sets.py        FVD and FID of sets of clips
frechet.py     Frechet distance, streaming and exact (numpy)
vmaf.py        VMAF by an external ffmpeg
weights.py     published files of weights: found, fetched, checked
networks.py    `Networks`: what metrics need, loaded once
bd.py          Bjontegaard deltas of rate-distortion curves (numpy)
statistics.py  `TokenStatistics`: usage, perplexity, entropy, repeats (numpy)
"""

from __future__ import annotations

from collections.abc import Iterable

from vidtok.errors import UnknownNameError
from vidtok.metrics.statistics import TokenStatistics

__all__ = ["DEFAULT_METRICS", "DIALECTS", "LOWER_IS_BETTER", "NOT_BUILT", "SET_METRICS", "TokenStatistics",
           "parse_metrics"]

DEFAULT_METRICS = ("psnr", "ssim", "ms_ssim")

_LPIPS = "per frame, mean over frames; lpips 0.1.4 with its own heads, RGB in [-1, 1]; 0 is best"
_FVD = "400 Kinetics logits, covariances in float64; 0 is best"
DIALECTS = {
    "psnr": "dB, per frame from the MSE over RGB uint8, mean over frames; equal frames are 100, the most",
    "psnr:video": "dB, one MSE over all frames of a clip, RGB uint8; at most 100",
    "psnr:worst": "dB, the worst frame of the clip, RGB uint8; at most 100",
    "psnr:y": "dB, as psnr on BT.709 full-range luma, not rounded",
    "ssim": "RGB, 11-tap Gaussian sigma 1.5, valid area, mean over channels and frames (= pytorch-msssim)",
    "ssim:y": "as ssim on BT.709 full-range luma, not rounded",
    "ms_ssim": "RGB, 5 scales of ssim, product per channel, mean over channels and frames (= pytorch-msssim)",
    "ms_ssim:y": "as ms_ssim on BT.709 full-range luma, not rounded",
    "lpips": f"lpips:vgg, {_LPIPS}",
    "lpips:vgg": f"VGG-16, {_LPIPS}",
    "lpips:alex": f"AlexNet, {_LPIPS}",
    "fvd": f"fvd:styleganv, that is StyleGAN-V's i3d_torchscript, short side to 224 and centre crop, {_FVD}",
    "fvd:styleganv": f"StyleGAN-V's i3d_torchscript, short side to 224 and centre crop, {_FVD}",
    "fvd:larp": "StyleGAN-V's i3d_torchscript on 128x128, resized inside, population covariance (LARP); 0 is best",
    "fvd:i3d400-stretch": f"i3d_pretrained_400, frames stretched to 224x224, {_FVD}",
    "fvd:i3d400-crop": f"i3d_pretrained_400, short side to 224 and centre crop, {_FVD}",
    "fid": "over frames, StyleGAN2-ADA's Inception file, 2048 features, float64; 0 is best",
    "flicker": "0..255, mean |change of the error from one frame to the next|, RGB uint8; 0 is best",
    "xpsnr": "dB, FFmpeg's xpsnr on 4:2:0 BT.709 luma at 25 frames/s, its own mean over frames; at most 100",
    "vif": "FFmpeg's vif, scale 0, on 4:2:0 BT.709 luma, mean over frames; 1 is equal",
    "vmaf": "0..100, external ffmpeg's libvmaf, model vmaf_v0.6.1, BT.709 luma, mean over frames",
    "tokens": "usage, perplexity, entropy, digit_entropy (bits) and repeats of the ids, exact",
}
"""Metrics that can be measured, each with the dialect it speaks (reports print it)."""

SET_METRICS = ("fvd", "fvd:styleganv", "fvd:larp", "fvd:i3d400-stretch", "fvd:i3d400-crop", "fid")
"""Metrics of sets of clips: they stand in summaries only."""

LOWER_IS_BETTER = frozenset(("lpips", "lpips:vgg", "lpips:alex", "flicker", *SET_METRICS))

NOT_BUILT = {"dists": "not built yet"}
"""Metrics that are known but cannot be had, each with the reason (null in a row, beside `NAME_missing`)."""


def parse_metrics(names: str | Iterable[str]) -> tuple[str, ...]:
    """Metric names of a comma-separated list (or of several), in order, each once.

    "bpp" is accepted and left out: every row has it. Names that nobody knows raise UnknownNameError.
    """
    known = {name.replace("-", "_"): name for name in (*DIALECTS, *NOT_BUILT, "bpp")}
    parts = [names] if isinstance(names, str) else list(names)
    split = [name.strip() for part in parts for name in part.split(",")]
    wanted = [name.lower() for name in split if name]
    for name in wanted:
        if name.replace("-", "_") not in known:
            raise UnknownNameError("metric", name, known.values())
    found = (known[name.replace("-", "_")] for name in wanted)
    return tuple(dict.fromkeys(name for name in found if name != "bpp"))
