"""The causal 3D convolution backbone: 2D convolutions over the grid, time through shifted channels.

    patches -> 1x1 -> [Block] x n -> norm -> 1x1 -> latent           encoder, (B, t, h, w, P) -> (B, t, h, w, D)
    codes   -> 1x1 -> [Block] x m -> 1x1 -> patches                  decoder, (B, t, h, w, D) -> (B, t, h, w, P)

Nothing looks beyond its neighbouring cells and the latent frame before, so a video may be cut into chunks
(state is handed on) and tiles (with a halo of one cell a block) without changing a bit of the result.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vidtok.errors import ConfigError
from vidtok.model.layers import BlockStack, ChannelNorm, Conv, Half, State


@dataclass(frozen=True, kw_only=True)
class ConvConfig:
    width: int = 192  # channels of the residual stream
    hidden: int = 192  # channels inside a block
    delayed: int = 64  # channels that come from the latent frame before
    encoder_blocks: int = 4
    decoder_blocks: int = 8
    phases: int = 4  # latent frames in a cycle, see PhaseBias

    def __post_init__(self) -> None:
        for name, limit in (
            ("width", 8192),
            ("hidden", 8192),
            ("phases", 256),
            ("encoder_blocks", 256),
            ("decoder_blocks", 256),
        ):
            if not 1 <= getattr(self, name) <= limit:
                raise ConfigError(f"{name} is 1 to {limit}, got {getattr(self, name)}")
        if not 0 < self.delayed <= self.width:
            raise ConfigError(f"delayed is 1 to width ({self.width}), got {self.delayed}")


class ConvEncoder(Half):
    """Normalised patches (B, t, h, w, P) in [-1, 1] -> latent (B, t, h, w, D), and the state."""

    def __init__(self, config: ConvConfig, patch: int, latent: int) -> None:
        super().__init__()
        self.halo = config.encoder_blocks
        self.look_back = config.encoder_blocks
        self.inlet = Conv(patch, config.width, 1)
        self.body = BlockStack(config.encoder_blocks, config.width, config.hidden, config.delayed, config.phases)
        self.norm = ChannelNorm(config.width)
        self.outlet = Conv(config.width, latent, 1)

    def forward(self, patches: Tensor, state: State | None) -> tuple[Tensor, State]:
        x, state = self.body(self.inlet(patches), state)
        return self.outlet(self.norm(x)), state


class ConvDecoder(Half):
    """Codes (B, t, h, w, D) in [-1, 1] -> patches (B, t, h, w, P), about [-1, 1], and the state."""

    def __init__(self, config: ConvConfig, patch: int, latent: int) -> None:
        super().__init__()
        self.halo = config.decoder_blocks
        self.look_back = config.decoder_blocks
        self.inlet = Conv(latent, config.width, 1)
        self.body = BlockStack(config.decoder_blocks, config.width, config.hidden, config.delayed, config.phases)
        self.outlet = Conv(config.width, patch, 1)

    def forward(self, codes: Tensor, state: State | None) -> tuple[Tensor, State]:
        x, state = self.body(self.inlet(codes), state)
        return self.outlet(x), state
