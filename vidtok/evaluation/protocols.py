"""Published ways to evaluate video tokenizers, by name: which frames, how large, in what pieces, with which metrics.

What of them cannot be had here is in `unlike`; docs/evaluation.md has the table with sources.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vidtok.codec import EncodeOptions
from vidtok.errors import UnknownNameError, UsageError
from vidtok.metrics.fvd import Sampling

FIXED = ("resize", "enlarge", "fps", "start", "frames", "segment_frames")
"""What of EncodeOptions a protocol decides, if only by its silence."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """`reading` replaces fields of EncodeOptions; `metrics` are those of the published table, nearest dialect."""

    data: str
    metrics: tuple[str, ...]
    reading: Mapping[str, Any]
    fvd: Sampling = field(default_factory=Sampling)
    unlike: str = ""


PROTOCOLS = {
    "mcl-jcv-256": Protocol(
        data="MCL-JCV, 30 clips; VidTok (arXiv 2412.13061) and its scripts/inference_evaluate.py",
        metrics=("psnr", "ssim", "lpips:vgg", "fvd:styleganv"),
        reading={"resize": "256x256:crop", "segment_frames": 17},
        unlike="there the last piece of a clip is filled up with its last frame; means are over pieces of 17 frames",
    ),
    "tokenbench": Protocol(
        data="TokenBench, 500 clips; NVIDIA Cosmos and NVlabs/TokenBench",
        metrics=("psnr:video", "ssim", "lpips:vgg", "fvd:styleganv"),
        reading={"resize": "1080", "frames": 300},
        fvd=Sampling(frames=300, take="whole"),
        unlike="its SSIM has a 7x7 box, not the Gaussian; its table of PSNR is inflated by a uint8 overflow",
    ),
    "ucf101-bsq-128": Protocol(
        data="UCF-101; BSQ-ViT (arXiv 2406.07548)",
        metrics=("psnr", "ssim", "lpips:alex", "fvd:styleganv"),
        reading={"resize": "128x128:crop", "frames": 16},
        fvd=Sampling(frames=16, take="first"),
        unlike="the paper does not say which frames of a clip it takes; these are the first",
    ),
    "mcl-jcv-bsq-360": Protocol(
        data="MCL-JCV at 640x360; BSQ-ViT (arXiv 2406.07548), video compression",
        metrics=("psnr", "ms_ssim"),
        reading={"resize": "360"},
        unlike="the paper does not say how clips are made smaller",
    ),
    "omnitokenizer-256": Protocol(
        data="UCF-101, K600 and others, 17 frames; OmniTokenizer and its evaluation/fvd_external.py",
        metrics=("fvd:i3d400-crop", "psnr", "lpips:alex"),
        reading={"resize": "256x256:crop", "frames": 17},
        fvd=Sampling(frames=17, take="first"),
        unlike="these are the first 17 frames of a clip; there a random piece, 2048 of them",
    ),
    "ucf101-larp-128": Protocol(
        data="UCF-101; LARP and its eval/rfvd_evaluator.py",
        metrics=("psnr:video", "lpips:vgg", "fvd:larp"),
        reading={"resize": "128x128:crop", "frames": 16},
        fvd=Sampling(frames=16, take="first"),
        unlike="LPIPS there is a mean over all frames of the set",
    ),
}


def find(name: str) -> Protocol:
    """UnknownNameError for a name nobody knows."""
    if name not in PROTOCOLS:
        raise UnknownNameError("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def settle(name: str, encode: EncodeOptions, fvd: Sampling) -> dict[str, Any]:
    """`encode` and `fvd` as the protocol wants them; UsageError where something else was asked for."""
    protocol, usual = find(name), EncodeOptions()
    for key, value in protocol.reading.items():
        asked = getattr(encode, key)
        if asked not in (value, getattr(usual, key)):
            raise UsageError(f"--protocol {name} has --{key.replace('_', '-')} {value}; leave out {asked}")
    for key in FIXED:
        if key not in protocol.reading and getattr(encode, key) != getattr(usual, key):
            raise UsageError(f"--protocol {name} takes frames as they come; leave out --{key.replace('_', '-')}")
    if fvd not in (protocol.fvd, Sampling()):
        raise UsageError(f"--protocol {name} says that {protocol.fvd.words}; leave out other FVD samples")
    return {"encode": dataclasses.replace(encode, **protocol.reading), "fvd": protocol.fvd}
