"""LPIPS (Zhang et al. 2018), version 0.1, with the numbers of the lpips 0.1.4 wheel; distances are differentiable.

    pictures (N, 3, H, W) in [-1, 1] -> (x - shift) / scale -> five feature maps of VGG-16 or AlexNet, after ReLU
    -> each scaled to unit length over channels (1e-10 is added to the length, outside the root)
    -> squared difference -> non-negative weight per channel (the heads) -> mean over H, W -> sum over the maps

The heads are in the package (10 kB, BSD-2-Clause, see lpips_heads.LICENSE.txt). The backbones are not: `find_weights`
says where they are looked for. Nothing is fetched from the network unless `download` asks for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from vidtok.errors import ModelError, UnknownNameError, UsageError
from vidtok.metrics.weights import Progress, WeightsFile, find, read_tensors

VARIABLE = "VIDTOK_LPIPS_WEIGHTS"
HEADS = Path(__file__).parent / "lpips_heads.safetensors"
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class Conv(NamedTuple):
    number: int  # in torchvision's `features`
    channels: tuple[int, int]
    kernel: int = 3
    stride: int = 1
    padding: int = 1


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """Convolutions with ReLU in five slices, a max pool in front of those in `pools`; each slice ends in a map."""

    slices: tuple[tuple[Conv, ...], ...]
    pools: tuple[int, ...]
    pool: int  # size of the pools; their stride is 2
    smallest: int  # side of a picture, pixels
    file: str  # as torchvision publishes it
    megabytes: int
    sha256: str

    @property
    def url(self) -> str:
        return f"https://download.pytorch.org/models/{self.file}"


BACKBONES = {
    "vgg": Backbone(
        slices=(
            (Conv(0, (3, 64)), Conv(2, (64, 64))),
            (Conv(5, (64, 128)), Conv(7, (128, 128))),
            (Conv(10, (128, 256)), Conv(12, (256, 256)), Conv(14, (256, 256))),
            (Conv(17, (256, 512)), Conv(19, (512, 512)), Conv(21, (512, 512))),
            (Conv(24, (512, 512)), Conv(26, (512, 512)), Conv(28, (512, 512))),
        ),
        pools=(1, 2, 3, 4),
        pool=2,
        smallest=16,
        file="vgg16-397923af.pth",
        megabytes=553,
        sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    ),
    "alex": Backbone(
        slices=(
            (Conv(0, (3, 64), 11, 4, 2),),
            (Conv(3, (64, 192), 5, 1, 2),),
            (Conv(6, (192, 384)),),
            (Conv(8, (384, 256)),),
            (Conv(10, (256, 256)),),
        ),
        pools=(1, 2),
        pool=3,
        smallest=31,
        file="alexnet-owt-7be5be79.pth",
        megabytes=244,
        sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    ),
}


class Lpips(nn.Module):
    """Backbone and heads. Without weights of its own: `load_lpips` fills it."""

    def __init__(self, net: str) -> None:
        super().__init__()
        self.backbone = BACKBONES[net]
        convs = [conv for convs in self.backbone.slices for conv in convs]
        self.features = nn.ModuleDict({str(c.number): nn.Conv2d(*c.channels, *c[2:]) for c in convs})
        widths = [convs[-1].channels[1] for convs in self.backbone.slices]
        self.heads = nn.ParameterList([nn.Parameter(torch.empty(1, width, 1, 1)) for width in widths])

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances (N,) of pictures (N, 3, H, W) in [-1, 1], zero where they are equal. UsageError: too small."""
        if min(x.shape[-2:]) < self.backbone.smallest:
            size, least = tuple(x.shape[-2:]), self.backbone.smallest
            raise UsageError(f"lpips: pictures of {size[0]}x{size[1]} are too small, sides of {least} are the least")
        pairs = zip(self.maps(x), self.maps(y), self.heads, strict=True)
        layers = [F.conv2d((a - b).square(), head).mean((1, 2, 3)) for a, b, head in pairs]
        return torch.stack(layers).sum(0)

    def maps(self, x: Tensor) -> list[Tensor]:
        """The five maps of pictures (N, 3, H, W), each of unit length over channels."""
        x = (x - x.new_tensor(SHIFT).view(3, 1, 1)) / x.new_tensor(SCALE).view(3, 1, 1)
        found = []
        for place, convs in enumerate(self.backbone.slices):
            if place in self.backbone.pools:
                x = F.max_pool2d(x, self.backbone.pool, 2)
            for conv in convs:
                x = F.relu(self.features[str(conv.number)](x))
            # vector_norm has gradient zero where all channels are zero; a root of a sum has none
            found.append(x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10))
        return found


def load_lpips(
    net: str = "vgg",
    path: str | Path = "",
    *,
    download: bool = False,
    ask: str = "",
    progress: Progress | None = None,
) -> Lpips:
    """LPIPS on the CPU in fp32, frozen. ModelError where the weights are missing or not those of `net`."""
    if net not in BACKBONES:
        raise UnknownNameError("lpips network", net, BACKBONES)
    file = find_weights(net, path, download=download, ask=ask, progress=progress)
    heads = {key.removeprefix(f"{net}."): t for key, t in load_file(HEADS).items() if key.startswith(f"{net}.")}
    tensors = _named_alike({**heads, **read_tensors(file, "LPIPS")})
    with torch.device("meta"):  # no random numbers are drawn
        network = Lpips(net)
    wanted = network.state_dict()
    for key, tensor in wanted.items():
        if key not in tensors or tensors[key].shape != tensor.shape:
            raise ModelError(f"{file} does not hold the {net} backbone of LPIPS ({BACKBONES[net].file}): {key} differs")
    network.load_state_dict({key: tensors[key].float().contiguous() for key in wanted}, assign=True)
    return network.eval().requires_grad_(False)


def find_weights(
    net: str, path: str | Path = "", *, download: bool = False, ask: str = "", progress: Progress | None = None
) -> Path:
    """The file of a backbone: `path`, else $VIDTOK_LPIPS_WEIGHTS, else where torch.hub keeps files, else the network.

    Path and variable are a file or a folder with files of the published names (.pth, or .safetensors). Only with
    `download` is the published file fetched, into torch.hub's folder, and kept if its SHA-256 is right. ModelError
    where there is none, with what to do.
    """
    backbone = BACKBONES[net]
    published = WeightsFile(
        title=f"lpips {net}",
        file=backbone.file,
        variable=VARIABLE,
        urls=(backbone.url,),
        megabytes=backbone.megabytes,
        sha256=backbone.sha256,
        names=(Path(backbone.file).with_suffix(".safetensors").name,),
    )
    return find(published, path, download=download, ask=ask or "allow download = true", progress=progress)


def _named_alike(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Torchvision's keys, and those of a whole state of the lpips package (net.slice1.0.weight) -> ours."""
    rules = ((r"net\.slice\d\.(\d+\.)", r"features.\1"), (r"lin(\d)\.model\.1\.weight", r"heads.\1"))
    named = {}
    for key, tensor in tensors.items():
        for pattern, replacement in rules:
            key = re.sub(f"^{pattern}", replacement, key)
        named[key] = tensor
    return named
