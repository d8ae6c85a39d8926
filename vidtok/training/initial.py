"""Patch transforms that start from the principal components of the training clips, not from noise.

The first layer maps a patch to its components, the last one back; what lies between starts near zero, so the
untrained network is a truncated PCA with coarse quantization and learns from there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidtok.geometry import Geometry
from vidtok.model.patches import patch_values
from vidtok.model.tokenizer import Tokenizer
from vidtok.training.data import Clips


def patch_components(clips: Clips, geometry: Geometry, seed: int, samples: int = 800) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (P,), variances (P,) falling, and components (P, P) in columns, of patches in [-1, 1]."""
    batch = clips.batch(seed, 2**31, samples, geometry.time, geometry.space * 6)
    cells = batch.reshape(samples, geometry.time, 6, geometry.space, 6, geometry.space, 3)
    rows = cells.permute(0, 2, 4, 1, 3, 5, 6).reshape(-1, patch_values(geometry)).double() / 127.5 - 1
    variances, components = torch.linalg.eigh(torch.cov(rows.T))
    return (
        rows.mean(0).float(),
        variances.flip(0).clamp(min=1e-6).float(),
        components.flip(1).float().contiguous(),
    )


@torch.no_grad()
def start_from_components(tokenizer: Tokenizer, clips: Clips, seed: int) -> None:
    """Set the outer layers of encoder and decoder; components are scaled by the square root of their deviation."""
    mean, variances, components = patch_components(clips, tokenizer.geometry, seed)
    inlet, outlet = tokenizer.encoder.inlet, tokenizer.decoder.outlet
    width = min(inlet.weight.shape[0], len(mean))
    scale = variances[:width] ** -0.25
    into = (components[:, :width] * scale).T
    inlet.weight[:width] = into[..., None, None]
    inlet.bias[:width] = -into @ mean
    outlet.weight[:, :width] = (components[:, :width] / scale)[..., None, None]
    outlet.bias.copy_(mean)
    head = tokenizer.encoder.outlet.weight
    torch.nn.init.normal_(head, std=0.02)
    for i in range(min(head.shape[0], width)):
        head[i, i] += 0.8 / max(1.0, float(variances[i] ** 0.25))
