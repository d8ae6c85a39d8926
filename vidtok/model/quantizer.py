"""Quantizers: latent vectors <-> integer ids, digit by digit, without ever building a codebook.

All answer the same questions: `quantize(z)`, `codes_to_ids(codes)`, `ids_to_codes(ids)`, `vocabulary`, `digits`.
An id is a mixed-radix number of its digits, the fastest digit first in `digits`.

  FSQ  finite scalar quantization, Mentzer et al. 2023: tanh, then round to L levels a channel. First channel fastest.
  LFQ  lookup-free quantization, Yu et al. 2023 (MAGVIT-v2): the sign of each channel. First channel slowest.
  BSQ  binary spherical quantization, Zhao et al. 2024: signs of the vector scaled to the unit sphere.

Ids equal those of vector_quantize_pytorch (FSQ with preserve_symmetry, LFQ, LFQ spherical); tests compare.
Quantizing is done in fp32 whatever the precision of the network: one bit of a bf16 latent changes 0.7 % of ids.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidtok.errors import ConfigError, UnknownNameError


@dataclass(frozen=True, kw_only=True)
class QuantizerConfig:
    kind: str = "fsq"
    levels: tuple[int, ...] = ()  # fsq: levels of each channel, 2 or more
    bits: int = 0  # lfq, bsq: channels, one bit each
    commitment: float = 0.25  # lfq, bsq: weight of the distance between latent and code
    entropy: float = 0.1  # lfq, bsq: weight of sample entropy minus batch entropy

    def __post_init__(self) -> None:
        if self.kind not in QUANTIZERS:
            raise UnknownNameError("quantizer", self.kind, QUANTIZERS)
        if self.kind == "fsq" and (not self.levels or min(self.levels) < 2 or self.bits):
            raise ConfigError(f"fsq wants levels, each at least 2, and no bits; got {self.levels}, {self.bits}")
        if self.kind != "fsq" and (not 1 <= self.bits <= 36 or self.levels):
            raise ConfigError(f"{self.kind} wants bits, 1 to 36, and no levels; got {self.bits}, {self.levels}")
        if math.prod(self.levels) > 2**36:
            raise ConfigError(f"fsq levels {self.levels} make a vocabulary above 2^36")


class Quantized(NamedTuple):
    codes: Tensor  # (..., D) in [-1, 1], with a straight-through gradient
    ids: Tensor  # (...) int64 in [0, vocabulary)
    loss: Tensor  # scalar, zero where the quantizer needs no term of its own


class Quantizer(nn.Module):
    """What encoders, decoders and trainers may ask of any quantizer."""

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()

    digits: tuple[int, ...]  # levels of each digit, fastest first

    @property
    def dim(self) -> int:
        """Channels D of the latent."""
        return len(self.digits)

    @property
    def vocabulary(self) -> int:
        return math.prod(self.digits)

    def quantize(self, z: Tensor) -> Quantized:
        """Latent (..., D), any float dtype -> codes, ids, loss."""
        raise NotImplementedError

    def ids_to_codes(self, ids: Tensor) -> Tensor:
        """Ids (...) in [0, vocabulary) -> codes (..., D) float32."""
        raise NotImplementedError


class FSQ(Quantizer):
    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__(config)
        self.digits = config.levels
        levels = torch.tensor(config.levels)
        basis = torch.cumprod(torch.tensor((1, *config.levels[:-1])), 0)
        self.register_buffer("levels", levels, persistent=False)
        self.register_buffer("basis", basis, persistent=False)
        self.levels: Tensor
        self.basis: Tensor

    def quantize(self, z: Tensor) -> Quantized:
        top = (self.levels - 1).float()
        scaled = (torch.tanh(z.float()) + 1) / 2 * top
        digit = scaled.round()
        ids = (digit.detach().long() * self.basis).sum(-1)
        digit = scaled + (digit - scaled).detach()
        return Quantized(digit / top * 2 - 1, ids, z.new_zeros(()))

    def ids_to_codes(self, ids: Tensor) -> Tensor:
        digit = (ids.unsqueeze(-1) // self.basis) % self.levels
        return digit.float() / (self.levels - 1).float() * 2 - 1


class LFQ(Quantizer):
    scale = 1.0

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__(config)
        self.digits = (2,) * config.bits
        self.scale = self._scale(config.bits)
        self.commitment, self.entropy = config.commitment, config.entropy
        self.register_buffer("basis", 2 ** torch.arange(config.bits - 1, -1, -1), persistent=False)
        self.basis: Tensor

    def _scale(self, bits: int) -> float:
        return 1.0

    def _normalise(self, z: Tensor) -> Tensor:
        return z

    def quantize(self, z: Tensor) -> Quantized:
        z = self._normalise(z.float())
        positive = z > 0
        code = torch.where(positive, self.scale, -self.scale)
        ids = (positive.long() * self.basis).sum(-1)
        return Quantized(z + (code - z).detach(), ids, self._loss(z, code) if self.training else z.new_zeros(()))

    def ids_to_codes(self, ids: Tensor) -> Tensor:
        return torch.where((ids.unsqueeze(-1) & self.basis) > 0, self.scale, -self.scale).float()

    def _loss(self, z: Tensor, code: Tensor) -> Tensor:
        """Commitment, and the entropy of each bit per sample less that over the batch (bits independent)."""
        p = torch.sigmoid(4 * z / self.scale)
        sample = _bit_entropy(p).mean()
        batch = _bit_entropy(p.flatten(0, -2).mean(0)).mean()
        return self.commitment * F.mse_loss(z, code) / self.scale**2 + self.entropy * (sample - batch)


class BSQ(LFQ):
    def _scale(self, bits: int) -> float:
        return float(bits**-0.5)

    def _normalise(self, z: Tensor) -> Tensor:
        return F.normalize(z, dim=-1)


def _bit_entropy(p: Tensor) -> Tensor:
    """Entropy in bits of Bernoulli(p), elementwise."""
    p = p.clamp(1e-6, 1 - 1e-6)
    return -(p * p.log2() + (1 - p) * (1 - p).log2())


QUANTIZERS: dict[str, type[Quantizer]] = {"fsq": FSQ, "lfq": LFQ, "bsq": BSQ}


def build_quantizer(config: QuantizerConfig) -> Quantizer:
    """The quantizer that `config.kind` names."""
    return QUANTIZERS[config.kind](config)
