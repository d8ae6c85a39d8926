"""The recurrent backbone: ids say how the picture differs from what encoder and decoder already know.

For each latent frame t, and for stage 1, then 2, ... up to the quality wanted:

    memory of t-1 --> expect ---> base, scale, features ----------------------+
                                    |                                         v
    patches of t --> coefficients - base, / scale --> encoder --> codes --> update --> memory of t
                                                                                          |
                                                 patches of t <-- decoder <-- estimate ---+

The *estimate* is a vector of coefficients of the patch, such as its principal components. Still content is refined with
every latent frame, since each one adds what the ones before left out; a second stage does the same within a latent
frame, with its own memory, so that the ids of lower qualities do not depend on it. Encoder and decoder run the same
recurrence on the same ids. It starts anew every `period` latent frames, which bounds how far back a decoder has to go.

The first digit of an id is a *mode*: which group of coefficients the other digits are about, and in steps of which
size. The encoder takes the mode whose plain rounding leaves least; small networks on both sides then add what the
surroundings tell. Steps are multiples of the scales, which are fitted to what is off by their Laplacian likelihood.
The transform itself and the prediction of stillness are fixed when a model starts, so that estimates stay faithful.

Closed-loop prediction is how every ordinary video codec works; with learned transforms see DVC (Lu et al. 2019), for
residual stages with dropout SoundStream (Zeghidour et al. 2021), for choosing per block what to code classified vector
quantization (Ramamurthi and Gersho 1986). Memories stay in fp32 whatever the precision.

With `motion` the last two digits of the first stage are a vector (`motion`): what is known is moved along it before
anything is expected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
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
    groups: int = 8  # of coefficients, each as many as an id has digits after the first
    steps: int = 2  # sizes of step; the first digit of an id has groups * steps levels
    context_blocks: int = 1  # before the codes are known
    encoder_blocks: int = 2
    update_blocks: int = 2  # after
    decoder_blocks: int = 3
    delayed: int = 64  # channels of the decoder that come from the latent frame before
    phases: int = 12  # latent frames after a start that are told apart, again and again
    period: int = 32  # latent frames between starts
    motion: tuple[float, ...] = ()  # displacements in pixels a frame that digits can stand for; none: nothing moves
    uncertainty: float = 0.02  # weight in training of how well scales fit
    thrift: float = 0.0  # weight in training of how large digits are, in steps: small ones cost fewer bits in a file

    def __post_init__(self) -> None:
        limits = {"coefficients": 8192, "notes": 8192, "width": 8192, "hidden": 8192}
        limits |= {"groups": 256, "steps": 16, "phases": 256, "period": 4096}
        blocks = ("context_blocks", "encoder_blocks", "update_blocks", "decoder_blocks")
        for name, limit in limits.items() | {(name, 256) for name in blocks}:
            if not 1 <= getattr(self, name) <= limit:
                raise ConfigError(f"{name} is 1 to {limit}, got {getattr(self, name)}")
        if not 0 < self.delayed <= self.width:
            raise ConfigError(f"delayed is 1 to width ({self.width}), got {self.delayed}")
        for name in ("uncertainty", "thrift"):
            if not 0 <= getattr(self, name) <= 1e6:
                raise ConfigError(f"{name} is a weight, 0 or more, got {getattr(self, name)}")


class Memory(NamedTuple):
    """What one stage knows after a latent frame."""

    estimate: Tensor  # (B, 1, h, w, coefficients) fp32
    notes: Tensor  # (B, 1, h, w, notes) fp32 in [-1, 1]
    said: Tensor  # (B, 1, h, w, groups * n + modes) fp32 in [-1, 1], the last id laid out; see `Modes`


class Expectation(NamedTuple):
    """What is known of a latent frame before its ids."""

    base: Tensor  # (B, 1, h, w, coefficients) fp32
    scale: Tensor  # (B, 1, h, w, coefficients) fp32, how far off each coefficient may be
    logarithm: Tensor  # of scale
    units: Tensor  # (B, 1, h, w, groups, steps, n) fp32, a step of each digit in each mode
    features: Tensor  # (B, 1, h, w, width)


class Modes(nn.Module):
    """Codes of a mode digit and n more <-> steps of the first groups * n coefficients, group after group."""

    def __init__(self, config: RecurrentConfig, digits: Sequence[int]) -> None:
        super().__init__()
        self.groups, self.steps, self.n = config.groups, config.steps, len(digits) - 1
        self.count = config.groups * config.steps
        if digits[0] != self.count or self.n < 1 or config.groups * self.n > config.coefficients:
            raise ConfigError(
                f"levels begin with groups * steps = {self.count}, and groups * {self.n} coefficients are at most "
                f"{config.coefficients}; got {list(digits)}"
            )
        self.log_gain = nn.Parameter(torch.linspace(-0.7, 0.7, self.steps) if self.steps > 1 else torch.zeros(1))
        self.register_buffer("reach", (torch.tensor(digits[1:]) - 1) / 2, persistent=False)
        self.reach: Tensor

    @property
    def coefficients(self) -> int:
        """How many coefficients digits can be about."""
        return self.groups * self.n

    @property
    def layout(self) -> int:
        """Channels of an id laid out."""
        return self.coefficients + self.count

    def _grouped(self, x: Tensor) -> Tensor:
        """(..., size) -> (..., groups, 1, n)."""
        return x[..., : self.coefficients].reshape(*x.shape[:-1], self.groups, 1, self.n)

    def units(self, scale: Tensor) -> Tensor:
        """(..., size) -> (..., groups, steps, n): how large a step of each digit is in each mode."""
        return self._grouped(scale) * self.log_gain.float().exp()[:, None]

    def choose(self, off: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
        """What is off (..., coefficients) -> one-hot mode (..., modes) and what its digits would be, in steps (..., n).

        The mode is the first of those that, rounded to whole steps, take away most squared error.
        """
        steps = self._grouped(off) / units
        with torch.no_grad():
            left = steps - torch.minimum(torch.maximum(steps, -self.reach), self.reach).round()
            gains = units.square() * (steps.square() - left.square())
            total = gains[..., 0]
            for i in range(1, self.n):  # in a fixed order
                total = total + gains[..., i]
            hot = F.one_hot(total.flatten(-2).argmax(-1), self.count).to(off.dtype)
        return hot, (steps.flatten(-3, -2) * hot[..., None]).sum(-2)

    def latent(self, hot: Tensor, steps: Tensor, bend: Tensor) -> Tensor:
        """Mode, digits in steps, and what is added to them -> latent (..., 1 + n) that a FSQ rounds to this mode."""
        mode = (hot * torch.arange(self.count, device=hot.device)).sum(-1, keepdim=True)
        exact = (mode / max(1, self.count - 1) * 2 - 1).clamp(-0.9999, 0.9999)
        return torch.cat([torch.atanh(exact), torch.atanh((steps / self.reach).clamp(-0.98, 0.98)) + bend], dim=-1)

    def size(self, codes: Tensor) -> Tensor:
        """Mean over cells and digits after the first of how many steps a digit is from zero; a scalar."""
        return (codes[..., 1:] * self.reach).abs().mean()

    def lay_out(self, codes: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (..., 1 + n) -> the id laid out (..., layout), and steps of the first coefficients."""
        mode = ((codes[..., 0].detach() + 1) / 2 * (self.count - 1)).round().long()
        hot = F.one_hot(mode, self.count).to(codes.dtype)
        group = hot.reshape(*hot.shape[:-1], self.groups, self.steps).sum(-1)[..., None]
        unit = (units.flatten(-3, -2) * hot[..., None]).sum(-2)
        values = codes[..., 1:]
        said = torch.cat([(group * values[..., None, :]).flatten(-2), hot], dim=-1)
        return said, (group * (unit * self.reach * values)[..., None, :]).flatten(-2)


class Recurrence(nn.Module):
    """What encoder and decoder share: expect, then update."""

    def __init__(self, config: RecurrentConfig, patch: int, digits: Sequence[int], qualities: int) -> None:
        super().__init__()
        self.config = config
        self.limit = math.ceil(patch**0.5)  # no coefficient of an orthonormal transform is larger
        width, size = config.width, config.coefficients
        self.modes = Modes(config, digits)
        self.predict = FixedConv(size, size, 1)
        self.inlet = Conv(size + config.notes + self.modes.layout + self.modes.coefficients, width, 1)
        self.phase = nn.Parameter(torch.zeros(config.phases + 2, width))  # first of a segment, ..., first of a period
        self.stage = nn.Parameter(torch.zeros(qualities, width))
        if qualities > 1:
            self.lower = Conv(size, width, 1)
            self.gate = Conv(width, size, 1)
        self.context_body = _blocks(config.context_blocks, config)
        if config.motion:
            self.move = Conv(4, width, 1)
            nn.init.zeros_(self.move.weight)
        self.guess = Conv(width, 2 * size, 1)  # how much of stillness to believe, and what to add to it
        self.scale = Conv(width, size, 1)
        self.codes = Conv(self.modes.layout, width, 1)
        self.update_body = _blocks(config.update_blocks, config)
        self.outlet = Conv(width, size + config.notes, 1)

    def start(self, batch: int, height: int, width: int, like: Tensor) -> Memory:
        """Knowing nothing."""
        channels = (self.config.coefficients, self.config.notes, self.modes.layout)
        return Memory(*(like.new_zeros(batch, 1, height, width, n, dtype=torch.float32) for n in channels))

    def phase_of(self, latent: int) -> int:
        """Row of the phase bias for latent frame `latent` of its segment."""
        since = latent % self.config.period
        if not since:
            return self.config.phases + 1 if latent else 0
        return 1 + (since - 1) % self.config.phases

    def expect(
        self,
        prediction: Tensor,
        memory: Memory,
        lower: Tensor | None,
        stage: int,
        phase: int,
        dtype: torch.dtype,
        moves: Tensor | None = None,
    ) -> Expectation:
        """`prediction` (B, 1, h, w, coefficients) is what the last frame makes of this latent frame.

        `lower` is the estimate of the stage before for this latent frame, None in stage 0; `moves` (B, 1, h, w, 4) the
        features of vectors, None where nothing moves.
        """
        known = [prediction, memory.notes, memory.said, memory.said[..., : self.modes.coefficients].abs()]
        x = self.inlet(torch.cat(known, dim=-1).to(dtype)) + (self.phase[phase] + self.stage[stage]).to(dtype)
        if lower is not None:
            x = x + self.lower(lower.to(dtype))
        if moves is not None:
            x = x + self.move(moves.to(dtype))
        for block in self.context_body:
            x = block(x)
        keep, shift = self.guess(x).float().chunk(2, dim=-1)
        base = prediction * torch.sigmoid(keep) + shift
        if lower is not None:
            base = base + torch.sigmoid(self.gate(x).float()) * (lower - base)
        logarithm = self.scale(x).float().clamp(SMALLEST, LARGEST)
        scale = logarithm.exp()
        return Expectation(base, scale, logarithm, self.modes.units(scale), x)

    def update(self, expected: Expectation, codes: Tensor) -> Memory:
        """Codes (B, 1, h, w, D) fp32 -> what is known with them."""
        said, steps = self.modes.lay_out(codes, expected.units)
        x = expected.features
        x = x + self.codes(said.to(x.dtype))
        for block in self.update_body:
            x = block(x)
        y = self.outlet(x).float()
        bend, notes = y.split([self.config.coefficients, self.config.notes], dim=-1)
        steps = F.pad(steps, (0, self.config.coefficients - self.modes.coefficients))
        estimate = (expected.base + expected.scale * bend + steps).clamp(-self.limit, self.limit)
        return Memory(estimate, torch.tanh(notes.contiguous()), said)


class RecurrentEncoder(nn.Module):
    """Coefficients and what was expected of them -> latent."""

    def __init__(self, config: RecurrentConfig, patch: int, digits: Sequence[int]) -> None:
        super().__init__()
        self.analysis = FixedConv(patch, config.coefficients, 1)
        self.inlet = Conv(config.coefficients, config.width, 1)
        self.mode = Conv(digits[0], config.width, 1)
        self.body = _blocks(config.encoder_blocks, config)
        self.norm = ChannelNorm(config.width)
        self.outlet = Conv(config.width, len(digits) - 1, 1)

    def forward(self, coefficients: Tensor, expected: Expectation, modes: Modes) -> Tensor:
        """(B, 1, h, w, coefficients) fp32 -> latent (B, 1, h, w, D) fp32."""
        off = coefficients - expected.base
        hot, steps = modes.choose(off, expected.units)
        dtype = expected.features.dtype
        x = self.inlet((off / expected.scale).to(dtype)) + expected.features + self.mode(hot.to(dtype))
        for block in self.body:
            x = block(x)
        return modes.latent(hot, steps, self.outlet(self.norm(x)).float())


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
