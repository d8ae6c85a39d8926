"""InceptionI3d (Carreira and Zisserman 2017), Kinetics-400 logits, with the key names of i3d_pretrained_400.pt.

    clips (B, 3, T, 224, 224) in [-1, 1], T >= 9 -> logits (B, 400), mean over time

Every convolution and pool pads with zeros to the size that TensorFlow's "same" gives: an odd element goes to the
end. BatchNorm has eps 1e-5, as the PyTorch code of this lineage says (the TensorFlow original has 1e-3).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidtok.errors import ModelError
from vidtok.metrics.weights import WeightsFile, read_tensors

VARIABLE = "VIDTOK_I3D_WEIGHTS"
CLASSES = 400
MIN_FRAMES = 9
"""The last average pool takes two time steps of eight frames each."""

PUBLISHED = WeightsFile(
    title="fvd i3d400",
    file="i3d_pretrained_400.pt",
    variable=VARIABLE,
    urls=(
        "https://github.com/npurson/fid-metrics/releases/download/v1.0/i3d_pretrained_400.pt",
        "https://huggingface.co/wangfuyun/Be-Your-Outpainter/resolve/main/models/i3d/i3d_pretrained_400.pt",
    ),
    megabytes=51,
    sha256="55095f049e706479d48e221adcdb145b2b9dc930ba28b081ed72367ffaa32343",
    names=("i3d_pretrained_400.safetensors",),
)

Size = tuple[int, int, int]


class Branches(NamedTuple):
    """Channels of a Mixed block: 1x1x1; reduced and 3x3x3, twice; 1x1x1 after a pool."""

    alone: int
    first: tuple[int, int]
    second: tuple[int, int]
    pooled: int

    @property
    def total(self) -> int:
        return self.alone + self.first[1] + self.second[1] + self.pooled


class Pool(NamedTuple):
    kernel: Size
    stride: Size


MIXED_3 = {"Mixed_3b": Branches(64, (96, 128), (16, 32), 32), "Mixed_3c": Branches(128, (128, 192), (32, 96), 64)}
MIXED_4 = {
    "Mixed_4b": Branches(192, (96, 208), (16, 48), 64),
    "Mixed_4c": Branches(160, (112, 224), (24, 64), 64),
    "Mixed_4d": Branches(128, (128, 256), (24, 64), 64),
    "Mixed_4e": Branches(112, (144, 288), (32, 64), 64),
    "Mixed_4f": Branches(256, (160, 320), (32, 128), 128),
}
MIXED_5 = {"Mixed_5b": Branches(256, (160, 320), (32, 128), 128), "Mixed_5c": Branches(384, (192, 384), (48, 128), 128)}


class Unit(nn.Module):
    """Convolution without bias, BatchNorm, ReLU; or a bare convolution with bias."""

    def __init__(self, inputs: int, outputs: int, kernel: Size = (1, 1, 1), stride: Size = (1, 1, 1), *,
                 bare: bool = False) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=bare)
        self.bn = None if bare else nn.BatchNorm3d(outputs, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3d(_pad(x, self.kernel, self.stride))
        return x if self.bn is None else F.relu_(self.bn(x))


class Mixed(nn.Module):
    """Four branches side by side on channels."""

    def __init__(self, inputs: int, branches: Branches) -> None:
        super().__init__()
        cube = (3, 3, 3)
        self.b0 = Unit(inputs, branches.alone)
        self.b1a, self.b1b = Unit(inputs, branches.first[0]), Unit(*branches.first, cube)
        self.b2a, self.b2b = Unit(inputs, branches.second[0]), Unit(*branches.second, cube)
        self.b3b = Unit(inputs, branches.pooled)

    def forward(self, x: Tensor) -> Tensor:
        pooled = _pool(x, Pool((3, 3, 3), (1, 1, 1)))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], 1)


class I3d(nn.Module):
    """The network up to its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, (7, 7, 7), (2, 2, 2))
        self.Conv3d_2b_1x1 = Unit(64, 64)
        self.Conv3d_2c_3x3 = Unit(64, 192, (3, 3, 3))
        width = 192
        for name, branches in (MIXED_3 | MIXED_4 | MIXED_5).items():
            self.add_module(name, Mixed(width, branches))
            width = branches.total
        self.logits = Unit(width, CLASSES, bare=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, T, 224, 224) in [-1, 1] -> (B, 400)."""
        x = _pool(self.Conv3d_1a_7x7(x), Pool((1, 3, 3), (1, 2, 2)))
        x = _pool(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)), Pool((1, 3, 3), (1, 2, 2)))
        x = _pool(self._run(MIXED_3, x), Pool((3, 3, 3), (2, 2, 2)))
        x = _pool(self._run(MIXED_4, x), Pool((2, 2, 2), (2, 2, 2)))
        x = F.avg_pool3d(self._run(MIXED_5, x), (2, 7, 7), 1)
        logits: Tensor = self.logits(x)
        return logits.mean((2, 3, 4))

    def _run(self, names: dict[str, Branches], x: Tensor) -> Tensor:
        for name in names:
            x = self.get_submodule(name)(x)
        return x


def load_i3d(file: Path) -> I3d:
    """The network on the CPU in fp32, frozen. ModelError where the file holds something else."""
    tensors = read_tensors(file, "FVD")
    with torch.device("meta"):  # no random numbers are drawn
        network = I3d()
    wanted = {key: t for key, t in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    for key, tensor in wanted.items():
        if key not in tensors or tensors[key].shape != tensor.shape:
            raise ModelError(f"{file} does not hold the I3D network ({PUBLISHED.file}): {key} differs")
    for unit in network.modules():
        if isinstance(unit, nn.BatchNorm3d):
            unit.num_batches_tracked = torch.zeros((), dtype=torch.int64)
    network.load_state_dict({key: tensors[key].float().contiguous() for key in wanted}, assign=True, strict=False)
    return network.eval().requires_grad_(False)


def _pad(x: Tensor, kernel: Size, stride: Size) -> Tensor:
    sides: list[int] = []
    for size, k, d in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        total = max(k - (size % d or d), 0)
        sides += [total // 2, total - total // 2]
    return F.pad(x, sides) if any(sides) else x


def _pool(x: Tensor, pool: Pool) -> Tensor:
    return F.max_pool3d(_pad(x, *pool), *pool)
