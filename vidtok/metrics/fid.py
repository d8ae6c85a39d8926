"""FID over frames (Heusel et al. 2017): Frechet distance of Inception features of source and result frames.

The network is StyleGAN2-ADA's TorchScript copy of the original one (inception-2015-12-05.pt): uint8 RGB in, its own
resize to 299 inside, 2048 features out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidtok.metrics.frechet import Gaussian
from vidtok.metrics.weights import WeightsFile

FEATURES = 2048

INCEPTION = WeightsFile(
    title="fid",
    file="inception-2015-12-05.pt",
    variable="VIDTOK_FID_WEIGHTS",
    urls=("https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",),
    megabytes=96,
    sha256="f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
)


class FrameFeatures:
    """Gaussians of the features of source and result frames; 67 MB, however many frames come."""

    def __init__(self, network: torch.nn.Module, device: str = "cpu") -> None:
        self._network, self._device = network, device
        self.pair = Gaussian(FEATURES), Gaussian(FEATURES)

    @torch.inference_mode()
    def update(self, reference: Tensor, other: Tensor) -> None:
        """uint8 (T, H, W, 3) each."""
        for gaussian, frames in zip(self.pair, (reference, other), strict=True):
            pictures = frames.permute(0, 3, 1, 2).contiguous().to(self._device)
            gaussian.update(self._network(pictures, return_features=True).double().cpu().numpy())
