"""FVD (Unterthiner et al. 2018) in the dialects that are published, which cannot be compared with each other.

    frames -> samples of some frames each -> the dialect's resize and range -> I3D -> 400 logits a sample
    samples of all clips -> two Gaussians -> Frechet distance

A clip gives features, about 3 kB a sample; the distance is one of sets of clips.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vidtok.errors import UnknownNameError, UsageError
from vidtok.metrics.i3d import CLASSES, MIN_FRAMES
from vidtok.metrics.weights import WeightsFile

SIDE = 224
LARP_SIDE = 128

STYLEGANV = WeightsFile(
    title="fvd styleganv",
    file="i3d_torchscript.pt",
    variable="VIDTOK_FVD_WEIGHTS",
    urls=(
        "https://huggingface.co/flateon/FVD-I3D-torchscript/resolve/1c2d61711c52571ad617a1063e6fa691b212e184/"
        "i3d_torchscript.pt",
        "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1",
    ),
    megabytes=51,
    sha256="bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
)

Prepare = Callable[[Tensor], Tensor]
"""uint8 frames (T, H, W, 3) -> float32 (3, T, h, w) for the network"""


def stretch(frames: Tensor) -> Tensor:
    """Each frame to 224x224 whatever its aspect, bilinear on 0..255, then to [-1, 1] (OmniTokenizer, SEED-Voken)."""
    x = F.interpolate(_channels_first(frames), (SIDE, SIDE), mode="bilinear", align_corners=False)
    return (2 * x / 255 - 1).transpose(0, 1)


def crop(frames: Tensor) -> Tensor:
    """Short side to 224 (the other rounded up), bilinear, the centre 224x224, to [-1, 1] (VideoGPT, StyleGAN-V)."""
    x = _channels_first(frames) / 255
    height, width = x.shape[-2:]
    scale = SIDE / min(height, width)
    size = (SIDE, math.ceil(width * scale)) if height < width else (math.ceil(height * scale), SIDE)
    x = F.interpolate(x, size, mode="bilinear", align_corners=False)
    return ((_centre(x, SIDE) - 0.5) * 2).transpose(0, 1)


def crop_128(frames: Tensor) -> Tensor:
    """Short side to 128, bilinear with antialiasing, the centre 128x128, to [-1, 1]; the network enlarges (LARP)."""
    x = _channels_first(frames) / 255
    height, width = x.shape[-2:]
    if min(height, width) != LARP_SIDE:
        long = math.ceil(LARP_SIDE * max(height, width) / min(height, width))
        size = (LARP_SIDE, long) if height <= width else (long, LARP_SIDE)
        x = F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)
    return ((_centre(x, LARP_SIDE) - 0.5) * 2).transpose(0, 1)


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How features are made and compared."""

    prepare: Prepare
    script: bool = True  # the TorchScript file of StyleGAN-V; else i3d_pretrained_400
    resize: bool = False  # the script resizes itself
    population: bool = False  # covariance with divisor N
    least: int = 10  # frames of a sample


DIALECTS = {
    "fvd": Dialect(prepare=crop),
    "fvd:styleganv": Dialect(prepare=crop),
    "fvd:larp": Dialect(prepare=crop_128, resize=True, population=True),
    "fvd:i3d400-stretch": Dialect(prepare=stretch, script=False, least=MIN_FRAMES),
    "fvd:i3d400-crop": Dialect(prepare=crop, script=False, least=MIN_FRAMES),
}

SAMPLES = ("all", "first", "whole")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which frames of a clip are a sample: `all` consecutive pieces of `frames`, only the `first` of them, or the
    `whole` clip, its first `frames` at most. What is left over at the end is not used."""

    frames: int = 16
    take: str = "all"

    def __post_init__(self) -> None:
        if self.take not in SAMPLES:
            raise UnknownNameError("choice of fvd samples", self.take, SAMPLES)
        if self.frames < MIN_FRAMES:
            raise UsageError(f"fvd samples of {self.frames} frames: the network needs at least {MIN_FRAMES}")

    @property
    def words(self) -> str:
        piece = f"{self.frames} frames"
        return {
            "all": f"every consecutive piece of {piece} is a sample",
            "first": f"the first {piece} of a clip are a sample",
            "whole": f"a whole clip, at most its first {piece}, is a sample",
        }[self.take]


class Features:
    """Features of the samples of one clip, pushed a batch at a time; holds at most one sample of prepared frames."""

    def __init__(self, network: torch.nn.Module, dialect: Dialect, sampling: Sampling, device: str = "cpu") -> None:
        self._network, self._dialect, self._sampling, self._device = network, dialect, sampling, device
        self._held: list[Tensor] = []  # (2, 3, t, h, w) each
        self._frames = 0
        self._done = False
        self.rows: list[Tensor] = []  # (2, 400) each: reference and other

    def update(self, reference: Tensor, other: Tensor) -> None:
        """uint8 (T, H, W, 3) each."""
        while len(reference) and not self._done:
            count = min(len(reference), self._sampling.frames - self._frames)
            pair = [self._dialect.prepare(x[:count].to(self._device)) for x in (reference, other)]
            self._held.append(torch.stack(pair))
            self._frames += count
            reference, other = reference[count:], other[count:]
            if self._frames == self._sampling.frames:
                self._close()
                self._done = self._sampling.take != "all"

    def result(self) -> Tensor:
        """(samples, 2, 400) float32."""
        if self._sampling.take == "whole" and self._frames >= self._dialect.least:
            self._close()
            self._done = True
        return torch.stack(self.rows) if self.rows else torch.zeros(0, 2, CLASSES)

    @torch.inference_mode()
    def _close(self) -> None:
        clips = torch.cat(self._held, 2)
        self._held, self._frames = [], 0
        self.rows.append(logits(self._network, self._dialect, clips).cpu())


def logits(network: torch.nn.Module, dialect: Dialect, clips: Tensor) -> Tensor:
    """Features (B, 400) of prepared clips (B, 3, T, h, w)."""
    if not dialect.script:
        found: Tensor = network(clips)
        return found
    found = network(clips, rescale=False, resize=dialect.resize, return_features=True)
    return found.float()


def _channels_first(frames: Tensor) -> Tensor:
    """uint8 (T, H, W, 3) -> float32 (T, 3, H, W)."""
    return frames.permute(0, 3, 1, 2).float()


def _centre(x: Tensor, side: int) -> Tensor:
    top, left = ((size - side) // 2 for size in x.shape[-2:])
    return x[..., top : top + side, left : left + side]
