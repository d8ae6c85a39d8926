"""The recurrent backbone: ids say how the picture differs from what encoder and decoder already know.

For each latent frame t, and for stage 1, then 2, ... up to the quality wanted:

    memory of t-1 --> predict --> base, scale, features ----------------------+
                                    |                                         v
    patches of t --> coefficients - base, / scale --> encoder --> codes --> update --> memory of t
                                                                                          |
                                                 patches of t <-- decoder <-- estimate ---+

The *estimate* is a vector of coefficients of the patch, such as its principal components. Still content is refined with
every latent frame, since each one adds what the ones before left out; a second stage does the same within a latent
frame, with its own memory, so that the ids of lower qualities do not depend on it. Encoder and decoder run the same
recurrence on the same ids. It starts anew every `period` latent frames, which bounds how far back a decoder has to go.

The digits of an id mean different things in different places: of `transforms` linear maps between coefficients and
codes, each cell mixes those whose coefficients it knows least, by its scales and features, beside what the small
networks around it say. Scales are fitted to what is off by their Laplacian likelihood. The transform itself and the
prediction of stillness are fixed when a model starts, so that estimates stay faithful.

Closed-loop prediction is how every ordinary video codec works; with learned transforms see DVC (Lu et al. 2019), and
for residual stages with dropout SoundStream (Zeghidour et al. 2021). Memories stay in fp32 whatever the precision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vidtok.errors import ConfigError
from vidtok.model.layers import Block, ChannelNorm, Conv, FixedConv, Residual

SMALLEST, LARGEST = -6.0, 2.0  # natural logarithm of the scale of a coefficient's update


@dataclass(frozen=True, kw_only=True)
class RecurrentConfig:
    coefficients: int = 320  # of a patch, that are estimated
    notes: int = 64  # channels that the recurrence keeps for itself
    width: int = 192  # channels of the residual streams
    hidden: int = 128  # channels inside a block
    transforms: int = 16  # linear maps between coefficients and codes
    context_blocks: int = 1  # before the codes are known
    encoder_blocks: int = 2
    update_blocks: int = 2  # after
    decoder_blocks: int = 3
    delayed: int = 64  # channels of the decoder that come from the latent frame before
    phases: int = 8  # latent frames after a start that are told apart
    period: int = 32  # latent frames between starts
    uncertainty: float = 0.02  # weight in training of how well scales fit

    def __post_init__(self) -> None:
        limits = {"coefficients": 8192, "notes": 8192, "width": 8192, "hidden": 8192}
        limits |= {"transforms": 256, "phases": 256, "period": 4096}
        blocks = ("context_blocks", "encoder_blocks", "update_blocks", "decoder_blocks")
        for name, limit in limits.items() | {(name, 256) for name in blocks}:
            if not 1 <= getattr(self, name) <= limit:
                raise ConfigError(f"{name} is 1 to {limit}, got {getattr(self, name)}")
        if not 0 < self.delayed <= self.width:
            raise ConfigError(f"delayed is 1 to width ({self.width}), got {self.delayed}")


class Memory(NamedTuple):
    """What one stage knows after a latent frame."""

    estimate: Tensor  # (B, 1, h, w, coefficients) fp32
    notes: Tensor  # (B, 1, h, w, notes) fp32 in [-1, 1]
    codes: Tensor  # (B, 1, h, w, D) fp32 in [-1, 1], the last ones


class Expectation(NamedTuple):
    """What is known of a latent frame before its ids."""

    base: Tensor  # (B, 1, h, w, coefficients) fp32
    scale: Tensor  # (B, 1, h, w, coefficients) fp32, how far off each coefficient may be
    logarithm: Tensor  # of scale
    features: Tensor  # (B, 1, h, w, width)
    choice: Tensor  # (B, 1, h, w, transforms, 1), positive, sum 1


class Recurrence(nn.Module):
    """What encoder and decoder share: expect, then update."""

    def __init__(self, config: RecurrentConfig, patch: int, digits: int, qualities: int) -> None:
        super().__init__()
        self.config, self.digits = config, digits
        self.limit = math.ceil(patch**0.5)  # no coefficient of an orthonormal transform is larger
        width, size = config.width, config.coefficients
        self.predict = FixedConv(size, size, 1)
        self.inlet = Conv(size + config.notes + 2 * digits, width, 1)
        self.phase = nn.Parameter(torch.zeros(config.phases + 2, width))  # first of a segment, ..., first of a period
        self.stage = nn.Parameter(torch.zeros(qualities, width))
        if qualities > 1:
            self.lower = Conv(size, width, 1)
            self.gate = Conv(width, size, 1)
        self.context_body = _blocks(config.context_blocks, config)
        self.scale = Conv(width, size, 1)
        self.choice = Conv(width, config.transforms, 1)
        self.urgency = Conv(size, config.transforms, 1)
        self.codes = Conv(digits, width, 1)
        self.inverse = Conv(config.transforms * digits, size, 1)
        self.update_body = _blocks(config.update_blocks, config)
        self.outlet = Conv(width, size + config.notes, 1)

    def start(self, batch: int, height: int, width: int, like: Tensor) -> Memory:
        """Knowing nothing."""
        shape, config = (batch, 1, height, width), self.config
        return Memory(
            *(like.new_zeros(*shape, n, dtype=torch.float32) for n in (config.coefficients, config.notes, self.digits))
        )

    def phase_of(self, latent: int) -> int:
        """Row of the phase bias for latent frame `latent` of its segment."""
        since = latent % self.config.period
        return min(since, self.config.phases) if since or not latent else self.config.phases + 1

    def expect(self, memory: Memory, lower: Tensor | None, stage: int, phase: int, dtype: torch.dtype) -> Expectation:
        """`lower` is the estimate of the stage before for this latent frame, None in stage 0."""
        prediction = self.predict(memory.estimate)
        known = torch.cat([prediction, memory.notes, memory.codes, memory.codes.abs()], dim=-1)
        x = self.inlet(known.to(dtype)) + (self.phase[phase] + self.stage[stage]).to(dtype)
        if lower is not None:
            x = x + self.lower(lower.to(dtype))
        for block in self.context_body:
            x = block(x)
        if lower is None:
            base = prediction
        else:
            base = prediction + torch.sigmoid(self.gate(x).float()) * (lower - prediction)
        logarithm = self.scale(x).float().clamp(SMALLEST, LARGEST)
        choice = torch.softmax(self.choice(x) + self.urgency(logarithm.to(dtype)), dim=-1)
        return Expectation(base, logarithm.exp(), logarithm, x, choice[..., None])

    def update(self, expected: Expectation, codes: Tensor) -> Memory:
        """Codes (B, 1, h, w, D) fp32 -> what is known with them."""
        x = expected.features
        x = x + self.codes(codes.to(x.dtype))
        for block in self.update_body:
            x = block(x)
        y = self.outlet(x).float()
        step, notes = y.split([self.config.coefficients, self.config.notes], dim=-1)
        step = step + self.inverse((expected.choice * codes.to(x.dtype)[..., None, :]).flatten(-2)).float()
        estimate = (expected.base + expected.scale * step).clamp(-self.limit, self.limit)
        return Memory(estimate, torch.tanh(notes.contiguous()), codes)


class RecurrentEncoder(nn.Module):
    """Coefficients and what was expected of them -> latent."""

    def __init__(self, config: RecurrentConfig, patch: int, digits: int) -> None:
        super().__init__()
        self.analysis = FixedConv(patch, config.coefficients, 1)
        self.forwards = Conv(config.coefficients, config.transforms * digits, 1)
        self.inlet = Conv(config.coefficients, config.width, 1)
        self.body = _blocks(config.encoder_blocks, config)
        self.norm = ChannelNorm(config.width)
        self.outlet = Conv(config.width, digits, 1)

    def forward(self, coefficients: Tensor, expected: Expectation) -> Tensor:
        """(B, 1, h, w, coefficients) fp32 -> latent (B, 1, h, w, D)."""
        off = (coefficients - expected.base) / expected.scale
        off = off.to(expected.features.dtype)
        x = self.inlet(off) + expected.features
        for block in self.body:
            x = block(x)
        candidates = self.forwards(off).unflatten(-1, (expected.choice.shape[-2], -1))
        latent: Tensor = self.outlet(self.norm(x)) + (candidates * expected.choice).sum(-2)
        return latent


class RecurrentDecoder(nn.Module):
    """Memories of one stage -> patches: those of the estimate, and what a small network adds from its surroundings."""

    def __init__(self, config: RecurrentConfig, patch: int) -> None:
        super().__init__()
        self.synthesis = FixedConv(config.coefficients, patch, 1)
        self.inlet = Conv(config.coefficients + config.notes, config.width, 1)
        self.body = nn.ModuleList(
            Block(config.width, config.hidden, config.delayed) for _ in range(config.decoder_blocks)
        )
        self.outlet = Conv(config.width, patch, 1)
        nn.init.zeros_(self.outlet.weight)

    def initial_taps(self, batch: int, height: int, width: int, like: Tensor) -> tuple[Tensor, ...]:
        return tuple(block.shift.initial_state(batch, height, width, like) for block in self.body)  # type: ignore[operator,union-attr]

    def forward(
        self, estimates: Tensor, notes: Tensor, taps: tuple[Tensor, ...], dtype: torch.dtype
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, t, h, w, coefficients), (B, t, h, w, notes), all of one period -> patches (B, t, h, w, P), and taps."""
        x = self.inlet(torch.cat([estimates, notes], dim=-1).to(dtype))
        after = []
        for block, tap in zip(self.body, taps, strict=True):
            x, tap = block(x, tap)
            after.append(tap)
        return self.synthesis(estimates) + self.outlet(x).float(), tuple(after)


def misfit(coefficients: Tensor, expected: Expectation) -> Tensor:
    """Mean negative log likelihood, in nats less a constant, of what is off under Laplacians of the scales expected."""
    off = (coefficients - expected.base).detach().abs()
    return (off / expected.scale + expected.logarithm).mean()


def _blocks(count: int, config: RecurrentConfig) -> nn.ModuleList:
    return nn.ModuleList(Residual(config.width, config.hidden) for _ in range(count))
