"""Instance refinement: digits of a latent frame that serve this video better than what the encoder says at once.

    digits --> update --> decoder --> error of the pixels, and bits          cost: kept if it is the least so far
       ^                                   |
       |    rounded                        v
    places <-- a step down <-- slope of both by each digit                   again, as many times as asked for

The encoder's networks guess, in one pass, which digits will do; here they are tried out. Digits have places on a
continuous line, from which they are rounded (straight through: Bengio et al. 2013), and the slope at the rounded digits
moves the places. How far is known: the transform is orthonormal and a digit stands for so many units of a coefficient,
so the squared error grows by about unit^2 per squared step. Modes and motion stay as they were chosen. Others who
refine what one picture is coded as, and not the model: Campos et al. 2019, Yang, Bamler and Mandt 2020; there with
latents whose bits depend on floats, here with ids that any decoder reads.

Exact on the CPU like everything else (`layers`): slopes go through the same kernels, and costs are sums of integers.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vidtok.model.quantizer import FSQ
from vidtok.model.recurrent import Expectation, Recurrence, RecurrentDecoder

BIT_PRICE = 20.0  # a bit may cost so many times the mean squared error of a value; found by measurement
FIRST_STEP = 0.35  # of the distance to where the slope says the least error is, over the square root of how many steps
LONGEST = 2.0  # digits that a step may go at most
BIT = 256  # bits are counted in parts of so many


def refine(
    recurrence: Recurrence,
    decoder: RecurrentDecoder,
    fsq: FSQ,
    latent: Tensor,
    expected: Expectation,
    patches: Tensor,
    taps: tuple[Tensor, ...],
    steps: int,
) -> Tensor:
    """Ids (B, 1, h, w) for `patches` (B, 1, h, w, P), from the `latent` that the encoder gave; no worse than at once.

    `expected` and `taps` are what is known before the ids. Worse or better is: squared error of uint8 pixels, and
    the bits that digits off the middle take, at `BIT_PRICE` times the mean error at the start.
    """
    top = (fsq.levels - 1).float()
    exact = (torch.tanh(latent.float()) + 1) / 2 * top  # as the quantizer has it
    coded = 1 + recurrence.modes.n  # digits; what follows them is kept like the mode
    mode, places, rest = exact[..., :1].round(), exact[..., 1:coded], exact[..., coded:].round()
    top = top[:coded]
    hot = F.one_hot(mode[..., 0].long(), recurrence.modes.count).float()
    curve = 2 * (expected.units.flatten(-3, -2) * hot[..., None]).sum(-2).square()  # of the error, by each digit
    bits = _bit_table(int(top.max())).to(latent.device)
    pixels = _pixels(patches)
    best, least = exact, torch.full((len(patches),), math.inf, dtype=torch.float64, device=patches.device)
    price = torch.zeros_like(least)
    for step in range(steps + 1):
        digits = torch.cat([mode, places.round()], dim=-1)
        off = digits[..., 1:] - top[1:] / 2
        with torch.enable_grad():
            values = digits[..., 1:].clone().requires_grad_(True)
            memory = recurrence.update(expected, torch.cat([mode, values], dim=-1) / top * 2 - 1)
            decoded, _ = decoder(memory.estimate, memory.notes, taps, expected.features.dtype)
        wrong = (_pixels(decoded.detach()) - pixels).square().flatten(1).sum(1)
        spent = bits[off.abs().long()].flatten(1).sum(1)
        if not step:
            price = wrong.double() * (BIT_PRICE / pixels[0].numel())  # squared error that a bit is worth
        cost = wrong.double() + price * spent / BIT
        better = cost < least
        best = torch.where(better[:, None, None, None, None], torch.cat([digits, rest], dim=-1), best)
        least = torch.minimum(cost, least)
        if step == steps:
            break
        (slope,) = torch.autograd.grad(decoded, values, 2 * (decoded.detach() - patches))
        nearer = bits[off.abs().long()] - bits[(off.abs() - 1).clamp(min=0).long()]
        slope = slope + off.sign() * nearer * (price / BIT / 127.5**2).float()[:, None, None, None, None]
        share = FIRST_STEP / math.sqrt(steps) * math.sqrt(1 - step / steps)
        places = places - share * (slope / curve).clamp(-LONGEST, LONGEST)
        places = torch.minimum(places.clamp(min=-0.49), top[1:] + 0.49)
    return (best.long() * fsq.basis).sum(-1)


def _bit_table(largest: int) -> Tensor:
    """Bits, in parts of `BIT`, that a digit costs so many steps off the middle: log2(1 + steps)."""
    return torch.tensor([round(BIT * math.log2(1 + steps)) for steps in range(largest + 1)])


def _pixels(patches: Tensor) -> Tensor:
    """Patches in about [-1, 1] -> values 0 to 255 as decoders round them, int64."""
    return patches.float().mul(127.5).add(127.5).round().clamp(0, 255).long()
