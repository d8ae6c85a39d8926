"""A tokenizer: encoder, quantizer, decoder and the config that built them.

    uint8 frames -> pad in time -> patches in [-1, 1] -> encoder -> latent -> quantizer -> ids
    ids -> codes -> decoder -> patches -> uint8 frames

The first frame of a segment is repeated in front so that it fills a latent frame of its own; see `geometry`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vidtok.config import from_dict
from vidtok.errors import ConfigError, UnknownNameError
from vidtok.geometry import Geometry
from vidtok.model.conv import ConvConfig, ConvDecoder, ConvEncoder
from vidtok.model.layers import Half, State
from vidtok.model.patches import from_patches, patch_values, to_patches
from vidtok.model.quantizer import Quantized, QuantizerConfig, build_quantizer


class Backbone(NamedTuple):
    config: type[Any]  # a dataclass
    encoder: Callable[[Any, int, int], Half]  # (config, patch values, latent channels)
    decoder: Callable[[Any, int, int], Half]


BACKBONES = {
    "conv": Backbone(ConvConfig, ConvEncoder, ConvDecoder),
}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    kind: str = "conv"  # which backbone; `backbone` is its own config
    time_stride: int = 4  # frames per latent frame, after the first
    space_stride: int = 8  # pixels per grid cell, each way
    backbone: dict[str, Any] = field(default_factory=dict)
    quantizer: QuantizerConfig = field(default_factory=lambda: QuantizerConfig(levels=(4,) * 8))

    def __post_init__(self) -> None:
        if self.kind not in BACKBONES:
            raise UnknownNameError("backbone", self.kind, BACKBONES)
        if not 1 <= self.time_stride <= 64 or not 1 <= self.space_stride <= 64:
            raise ConfigError(f"strides are 1 to 64, got {self.time_stride} and {self.space_stride}")
        self.backbone_config()

    def backbone_config(self) -> Any:
        """The backbone's own config object, checked."""
        return from_dict(BACKBONES[self.kind].config, self.backbone, "backbone")

    @property
    def vocabulary(self) -> int:
        return build_quantizer(self.quantizer).vocabulary

    @property
    def geometry(self) -> Geometry:
        return Geometry(time=self.time_stride, space=self.space_stride)


class Reconstruction(NamedTuple):
    frames: Tensor  # (B, T, H, W, 3) about [-1, 1]
    quantized: Quantized


class Tokenizer(nn.Module):
    """The network of a `ModelConfig`. Knows patches, latents and ids; videos of any size are `stream`'s job."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.geometry = config.geometry
        self.quantizer = build_quantizer(config.quantizer)
        backbone, sizes = BACKBONES[config.kind], config.backbone_config()
        patch = patch_values(self.geometry)
        self.encoder = backbone.encoder(sizes, patch, self.quantizer.dim)
        self.decoder = backbone.decoder(sizes, patch, self.quantizer.dim)

    @property
    def look_back(self) -> int:
        """Latent frames before the first wanted one that the decoder needs for exact frames."""
        return self.decoder.look_back

    def forward(self, frames: Tensor) -> Reconstruction:
        """Training path. Frames (B, T, H, W, 3) in [-1, 1] with T = 1 + k * time and H, W multiples of space."""
        front = frames[:, :1].expand(-1, self.geometry.time - 1, -1, -1, -1)
        patches = to_patches(torch.cat([front, frames], dim=1), self.geometry)
        latent, _ = self.encoder(patches, None)
        quantized = self.quantizer.quantize(latent)
        decoded, _ = self.decoder(quantized.codes, None)
        return Reconstruction(from_patches(decoded, self.geometry)[:, self.geometry.time - 1 :], quantized)

    @torch.no_grad()
    def encode_pixels(
        self, pixels: Tensor, state: State | None, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, State]:
        """uint8 (B, t * time, H, W, 3) -> ids (B, t, h, w) int64, and the state for what follows."""
        patches = to_patches(pixels, self.geometry).float().div_(127.5).sub_(1).to(dtype)
        latent, state = self.encoder(patches, state)
        return self.quantizer.quantize(latent).ids, state

    @torch.no_grad()
    def decode_ids(self, ids: Tensor, state: State | None, dtype: torch.dtype = torch.float32) -> tuple[Tensor, State]:
        """Ids (B, t, h, w) -> uint8 patches (B, t, h, w, P), and the state for what follows."""
        decoded, state = self.decoder(self.quantizer.ids_to_codes(ids).to(dtype), state)
        return decoded.float().mul_(127.5).add_(127.5).round_().clamp_(0, 255).to(torch.uint8), state
