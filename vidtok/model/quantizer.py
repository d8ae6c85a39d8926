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
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
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
    entropy: float = 0.1  # lfq, bsq: weight of the entropy of each sample, which is made small
    batch_entropy: float | None = None  # lfq, bsq: weight of the entropy over the batch, made large; None: as entropy
    entropy_group: int = 1  # lfq, bsq: bits whose joint entropy over the batch is taken; 1: each bit by itself

    def __post_init__(self) -> None:
        if self.kind not in QUANTIZERS:
            raise UnknownNameError("quantizer", self.kind, QUANTIZERS)
        if self.kind == "fsq" and (not self.levels or min(self.levels) < 2 or self.bits):
            raise ConfigError(f"fsq wants levels, each at least 2, and no bits; got {self.levels}, {self.bits}")
        if self.kind != "fsq" and (not 1 <= self.bits <= 36 or self.levels):
            raise ConfigError(f"{self.kind} wants bits, 1 to 36, and no levels; got {self.bits}, {self.levels}")
        if math.prod(self.levels) > 2**36:
            raise ConfigError(f"fsq levels {self.levels} make a vocabulary above 2^36")
        if not 1 <= self.entropy_group <= 20:
            raise ConfigError(f"entropy_group is 1 to 20 bits, got {self.entropy_group}")
        if min(self.commitment, self.entropy, self.batch_entropy or 0) < 0:
            raise ConfigError("weights of quantizer terms are not negative; batch entropy is subtracted already")


class Quantized(NamedTuple):
    codes: Tensor  # (..., D) in [-1, 1], with a straight-through gradient
    ids: Tensor  # (...) int64 in [0, vocabulary)
    loss: Tensor  # scalar, zero where the quantizer needs no term of its own
    terms: Mapping[str, Tensor] = MappingProxyType({})  # what `loss` is the sum of, weights and signs included


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
        """Latent (..., D), any float dtype -> codes, ids, and in training the loss and its terms."""
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
        self.config = config
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
        terms = self._terms(z, code) if self.training else {}
        return Quantized(z + (code - z).detach(), ids, sum(terms.values(), z.new_zeros(())), terms)

    def ids_to_codes(self, ids: Tensor) -> Tensor:
        return torch.where((ids.unsqueeze(-1) & self.basis) > 0, self.scale, -self.scale).float()

    def _terms(self, z: Tensor, code: Tensor) -> dict[str, Tensor]:
        """Commitment, entropy of each sample and minus the entropy over the batch, each times its weight.

        A latent belongs to code c with probability softmax(-|z - c|^2 / scale^2), which is a product over bits
        (Yu et al. 2023, Zhao et al. 2024). So the entropy of a sample is the sum over its bits, exactly; over the
        batch, bits are taken as independent between groups of `entropy_group`. Both are per bit, in [0, 1].
        """
        config = self.config
        p = torch.sigmoid(4 * z / self.scale)
        batch_weight = config.entropy if config.batch_entropy is None else config.batch_entropy
        return {
            "commitment": config.commitment * F.mse_loss(z, code) / self.scale**2,
            "sample_entropy": config.entropy * _bit_entropy(p).mean(),
            "batch_entropy": -batch_weight * _batch_entropy(p.flatten(0, -2), config.entropy_group),
        }


class BSQ(LFQ):
    def _scale(self, bits: int) -> float:
        return float(bits**-0.5)

    def _normalise(self, z: Tensor) -> Tensor:
        return F.normalize(z, dim=-1)


def _bit_entropy(p: Tensor) -> Tensor:
    """Entropy in bits of Bernoulli(p), elementwise."""
    p = p.clamp(1e-6, 1 - 1e-6)
    return -(p * p.log2() + (1 - p) * (1 - p).log2())


def _batch_entropy(p: Tensor, group: int) -> Tensor:
    """Entropy over the batch of groups of bits, in bits a bit: p (N, D), chances of a one -> scalar in [0, 1].

    The mean over samples of a group's 2^group chances is one product of (2^a, N) and (N, 2^b) with a + b = group:
    the chances of single samples are never laid out.
    """
    total = p.new_zeros(())
    for bits in torch.split(p, group, dim=-1):
        left, right = _chances(bits[:, ::2]), _chances(bits[:, 1::2])
        mean = (left.T @ right / len(p)).clamp(min=1e-12)
        total = total - (mean * mean.log2()).sum()
    return total / p.shape[-1]


def _chances(p: Tensor) -> Tensor:
    """Chances of every pattern of independent bits: (N, k) -> (N, 2^k), each row sums to one."""
    patterns = p.new_ones(len(p), 1)
    for bit in p.unbind(-1):
        both = torch.stack([1 - bit, bit], dim=-1)
        patterns = (patterns.unsqueeze(-1) * both.unsqueeze(-2)).flatten(1)
    return patterns


QUANTIZERS: dict[str, type[Quantizer]] = {"fsq": FSQ, "lfq": LFQ, "bsq": BSQ}


def build_quantizer(config: QuantizerConfig) -> Quantizer:
    """The quantizer that `config.kind` names."""
    return QUANTIZERS[config.kind](config)
