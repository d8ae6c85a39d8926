"""Patch transforms that start from the principal components of the training clips, not from noise.

The first layer maps a patch to its components, the last one back; what lies between starts near zero, so the
untrained network is a truncated PCA with coarse quantization, of the patch or of what is new in it, and learns from
there.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vidtok.geometry import Geometry
from vidtok.model.layers import Conv
from vidtok.model.patches import patch_values
from vidtok.model.tokenizer import ConvTokenizer, RecurrentTokenizer, Tokenizer
from vidtok.training.data import Clips


def patch_components(clips: Clips, geometry: Geometry, seed: int, samples: int = 800) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (P,), variances (P,) falling, and components (P, P) in columns, of patches in [-1, 1]."""
    rows = _cells(clips, geometry, seed, samples)
    variances, components = torch.linalg.eigh(torch.cov(rows.T))
    return (
        rows.mean(0).float(),
        variances.flip(0).clamp(min=1e-6).float(),
        components.flip(1).float().contiguous(),
    )


def _cells(clips: Clips, geometry: Geometry, seed: int, samples: int) -> Tensor:
    """Patches (n, P) in [-1, 1], float64, 36 of each of `samples` clips."""
    batch = clips.batch(seed, 2**31, samples, geometry.time, geometry.space * 6)
    cells = batch.reshape(samples, geometry.time, 6, geometry.space, 6, geometry.space, 3)
    return cells.permute(0, 2, 4, 1, 3, 5, 6).reshape(-1, patch_values(geometry)).double() / 127.5 - 1


@torch.no_grad()
def start_from_components(tokenizer: Tokenizer, clips: Clips, seed: int) -> None:
    """Set the outer layers of encoder and decoder, in place, whichever kind the tokenizer is."""
    if isinstance(tokenizer, RecurrentTokenizer):
        _start_recurrent(tokenizer, clips, seed)
    elif isinstance(tokenizer, ConvTokenizer):
        _start_conv(tokenizer, *patch_components(clips, tokenizer.geometry, seed))


def _start_conv(tokenizer: ConvTokenizer, mean: Tensor, variances: Tensor, components: Tensor) -> None:
    """Components are scaled by the square root of their deviation."""
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


def _start_recurrent(tokenizer: RecurrentTokenizer, clips: Clips, seed: int) -> None:
    """Coefficients are components of 8 x 8 pixels times cosines in time; the prediction is the last frame standing
    still."""
    recurrence, encoder, decoder = tokenizer.recurrence, tokenizer.encoder, tokenizer.decoder
    mean, variances, basis, still = separable_components(
        clips, tokenizer.geometry, seed, recurrence.config.coefficients
    )
    order = _grouped(still, recurrence.config.groups, recurrence.modes.n)
    variances, basis = variances[order], basis[:, order]
    size, geometry = len(variances), tokenizer.geometry
    _fill(encoder.analysis, basis.T, -basis.T @ mean)
    _fill(decoder.synthesis, basis, mean)
    last_frame = basis[-(len(mean) // geometry.time) :]
    _fill(recurrence.predict, basis.T @ last_frame.repeat(geometry.time, 1))
    factors = (
        (recurrence.inlet, 0.3),
        (recurrence.outlet, 0.05),
        (recurrence.codes, 0.2),
        (encoder.inlet, 0.1),
        (encoder.outlet, 0.05),
        (encoder.mode, 0.2),
        (decoder.inlet, 0.3),
    )
    for layer, factor in factors:
        layer.weight.mul_(factor)
    for layer in (recurrence.scale, recurrence.guess):
        layer.weight.zero_()
    recurrence.guess.bias[:size] = 4.0  # believe it
    recurrence.scale.bias[:size] = variances.log() / 2
    diagonal = torch.arange(min(size, recurrence.config.width))
    encoder.inlet.weight[diagonal, diagonal] += 0.5
    if tokenizer.qualities > 1:
        recurrence.gate.weight.zero_()


def separable_components(
    clips: Clips, geometry: Geometry, seed: int, count: int, samples: int = 800
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean (P,), variances (count,) falling, basis (P, count) orthonormal, still (count,) bool: constant in time.

    Components in space times a cosine transform in time; still ones are kept down to an eighth of the variance of
    others, since they add up over a video.
    """
    cells = _cells(clips, geometry, seed, samples)
    frames = cells.reshape(len(cells), geometry.time, -1)  # (n, time, values of a frame)
    mean = frames.mean((0, 1))
    frames = frames - mean
    flat = frames.flatten(0, 1)
    space = torch.linalg.eigh(flat.T @ flat / len(flat)).eigenvectors.flip(1)
    n = torch.arange(geometry.time, dtype=torch.float64)
    cosines = torch.cos(math.pi * (n + 0.5) * n[:, None] / geometry.time) * (2 / geometry.time) ** 0.5
    cosines[0] /= 2**0.5
    variances = torch.einsum("at,nti,ij->naj", cosines, frames, space).square().mean(0)
    worth = variances.clone()
    worth[0] *= 8
    kept = worth.flatten().argsort(descending=True)[:count]
    kept = kept[variances.flatten()[kept].argsort(descending=True)]
    a, j = kept // len(mean), kept % len(mean)
    basis = (cosines[a][:, :, None] * space.T[j][:, None, :]).flatten(1).T
    return (
        mean.repeat(geometry.time).float(),
        variances[a, j].clamp(min=1e-6).float(),
        basis.float().contiguous(),
        a == 0,
    )


def _grouped(still: Tensor, groups: int, n: int) -> Tensor:
    """An order of the coefficients, so that groups of n in this order are what an id may be about: those of largest
    variance, then groups of still ones and one of moving ones, up to half of all; then the rest, by variance."""
    rest = range(n, len(still))
    calm, moving = ([k for k in rest if bool(still[k]) == wanted] for wanted in (True, False))
    chosen = [*range(min(n, len(still))), *calm[: n * max(0, groups // 2 - 2)], *moving[:n]]
    return torch.tensor(chosen + sorted(set(range(len(still))) - set(chosen)))


def _fill(layer: Conv, weight: Tensor, bias: Tensor | None = None) -> None:
    """The top left corner of a 1x1 convolution; zero elsewhere."""
    rows, columns = weight.shape
    layer.weight.zero_()
    layer.weight[:rows, :columns, 0, 0] = weight
    layer.bias.zero_()
    if bias is not None:
        layer.bias[:rows] = bias
