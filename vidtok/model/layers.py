"""Building blocks whose results do not depend on how a video is cut up.

Shapes: B windows or tiles, t latent frames, h w grid cells, C channels. Activations are (B, t, h, w, C),
contiguous, so that channels are the last axis in memory and one row is one cell.

Exactness on CPU (where weights get no gradients): convolutions call oneDNN directly, since `F.conv2d` switches to other
kernels for small inputs; LayerNorm runs on contiguous rows; ReLU, tanh and copies are exact anyway. With
that, a cell's value depends on its neighbourhood only, not on batch, crop, frame size or thread count.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class State(NamedTuple):
    """What a causal network carries from one latent frame to the next."""

    latent: int = 0  # number, within its segment, of the latent frame that comes next
    taps: tuple[Tensor, ...] = ()  # delayed channels, one tensor a block; () where the past is not known


HAS_ONEDNN = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
HAS_BF16 = HAS_ONEDNN and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Conv(nn.Module):
    """A k x k convolution over the grid, zero padding at the border. (B, t, h, w, Cin) -> (B, t, h, w, Cout)."""

    weight: Tensor
    bias: Tensor

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        fan_in = channels_in * kernel * kernel
        self._hold("weight", torch.randn(channels_out, channels_in, kernel, kernel) / fan_in**0.5)
        self._hold("bias", torch.zeros(channels_out))

    def _hold(self, name: str, value: Tensor) -> None:
        self.register_parameter(name, nn.Parameter(value))

    def forward(self, x: Tensor) -> Tensor:
        return self._convolved(x, self.weight, self.bias)

    def _convolved(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """On the CPU by the kernel that is exact for every size, wherever the weights are not trained."""
        b, t, h, w, c = x.shape
        image = x.reshape(b * t, h, w, c).permute(0, 3, 1, 2)
        if x.device.type == "cpu" and HAS_ONEDNN and not torch.is_grad_enabled():
            y = _convolve(image, weight, bias)
        elif x.device.type == "cpu" and HAS_ONEDNN and not (self.training or weight.requires_grad):
            y = _Exact.apply(image, weight, bias)  # type: ignore[no-untyped-call]
        else:
            y = F.conv2d(image, weight.to(x.dtype), bias.to(x.dtype), padding=self.kernel // 2)
        return y.permute(0, 2, 3, 1).reshape(b, t, h, w, -1)


def _convolve(image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """bf16 is computed in fp32 where the processor has no bf16."""
    kind, pad = image.dtype, [weight.shape[-1] // 2] * 2
    weight, bias = weight.to(kind), bias.to(kind)
    if kind != torch.bfloat16 or not HAS_BF16:
        image, weight, bias = image.float(), weight.float(), bias.float()
    return torch.mkldnn_convolution(image, weight, bias, pad, [1, 1], [1, 1], 1).to(kind)


class _Exact(torch.autograd.Function):
    """A convolution whose weights are fixed, with slopes by the same kernel: exact both ways."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return _convolve(image, weight, bias)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        """A convolution too, of the weights turned round."""
        (weight,) = ctx.saved_tensors
        turned = weight.flip(2, 3).transpose(0, 1).contiguous()
        return _convolve(slope, turned, turned.new_zeros(len(turned))), None, None


class FixedConv(Conv):
    """A convolution that keeps the weights it starts with, and never computes in less than they have."""

    def _hold(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value)

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """Only the channels from `first` on."""
        with torch.autocast(x.device.type, enabled=False):
            return self._convolved(x.to(self.weight.dtype), self.weight[first:], self.bias[first:])


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each cell. Ba, Kiros, Hinton 2016. Any (..., C) -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.contiguous(), x.shape[-1:], self.weight.to(x.dtype), self.bias.to(x.dtype), eps=1e-5)


class TimeShift(nn.Module):
    """Delay the first `channels` channels by one latent frame: a causal time tap that costs no arithmetic.

    After "TSM: Temporal Shift Module", Lin, Gan, Han 2019. What is left over is returned as state, so that
    pieces give the same as the whole:

        time      0   1   2 | 3   4        state 0: zeros, the past before the segment
        delayed  s0   0   1 | 2   3        state 1: the channels of latent frame 2
        rest      0   1   2 | 3   4
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def initial_state(self, batch: int, height: int, width: int, like: Tensor) -> Tensor:
        return torch.zeros(batch, 1, height, width, self.channels, dtype=like.dtype, device=like.device)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        now = x[..., : self.channels]
        delayed = torch.cat([state, now[:, :-1]], dim=1)
        return torch.cat([delayed, x[..., self.channels :]], dim=-1), now[:, -1:].clone()


class Residual(nn.Module):
    """Residual block within a latent frame: norm, 3x3 convolution, ReLU, 1x1 convolution. One cell of halo a side."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.mix = Conv(channels, hidden, 3)
        self.out = Conv(hidden, channels, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self._add(x, self.norm(x))

    def _add(self, x: Tensor, y: Tensor) -> Tensor:
        added: Tensor = self.out(F.relu(self.mix(y)))
        return x + added


class Block(Residual):
    """`Residual` whose first `delayed` channels are those of the latent frame before."""

    def __init__(self, channels: int, hidden: int, delayed: int) -> None:
        super().__init__(channels, hidden)
        self.shift = TimeShift(delayed)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        y, state = self.shift(self.norm(x), state)
        return self._add(x, y), state


class PhaseBias(nn.Module):
    """Tell the network where in a cycle of `phases` latent frames it is, by a bias for each; one more for the first.

        latent frame   0  1  2  3  4  5  6  7  8 ...
        row            0  1  2  3  4  1  2  3  4 ...      phases = 4

    A causal network of finite memory gives the same ids for the same picture again and again. With a phase it can
    say something else each time, and the decoder, which looks back over the cycle, can add it up. It has to be
    learnt: docs/models says of each model whether it was.
    """

    def __init__(self, phases: int, channels: int) -> None:
        super().__init__()
        self.phases = phases
        self.bias = nn.Parameter(torch.zeros(phases + 1, channels))

    def forward(self, x: Tensor, latent: int) -> Tensor:
        rows = [0 if i == 0 else 1 + (i - 1) % self.phases for i in range(latent, latent + x.shape[1])]
        return x + self.bias.to(x.dtype)[rows][:, None, None]


class BlockStack(nn.Module):
    """A phase bias, then blocks one after another."""

    def __init__(self, blocks: int, channels: int, hidden: int, delayed: int, phases: int) -> None:
        super().__init__()
        self.phase = PhaseBias(phases, channels)
        self.blocks = nn.ModuleList(Block(channels, hidden, delayed) for _ in range(blocks))

    def forward(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        b, t, h, w, _ = x.shape
        state = state or State()
        x, taps = self.phase(x, state.latent), []
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            x, tap = block(x, state.taps[i] if state.taps else block.shift.initial_state(b, h, w, x))
            taps.append(tap)
        return x, State(state.latent + t, tuple(taps))


class Half(nn.Module):
    """An encoder or a decoder: `forward(x, state)` -> (y, state), both (B, t, h, w, channels), None at the start."""

    inlet: Conv  # the first layer: patches or codes to channels
    outlet: Conv  # the last: channels to latent or patches
    halo: int  # cells a side that an output cell depends on
    look_back: int  # latent frames of the past that an output depends on
