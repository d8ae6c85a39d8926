"""The network of `vidtok.bitstream.network` as torch trains it: the same integers forward, straight-through backward.

Parameters are floats; what is multiplied are the integers that they round to, and values are rounded down and held
within their limits as at run time, so that the network that is trained *is* the integer one. Gradients pass rounding as
if it were not there (Bengio et al. 2013, arXiv 1308.3432), and stop where a limit holds a value.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidtok.bitstream.network import MAX, NEAR, ORDER, SHIFT, PriorConfig, slices

UNIT = 64  # of values, per 1.0
SUM = UNIT << SHIFT  # of sums of products, per 1.0
NATS = 16 << SHIFT  # of sums that become logits, per nat

SCALES = {np.int8: 1 << SHIFT, np.int16: SUM}  # integers per 1.0 of a parameter
LIMITS = {np.int8: MAX, np.int16: (1 << 15) - 1}


def rounded(x: Tensor) -> Tensor:
    """To the nearest integer, with the gradient of x."""
    return x + (x.round() - x).detach()


def floored(x: Tensor) -> Tensor:
    """Rounded down, with the gradient of x."""
    return x + (x.floor() - x).detach()


def squash(sums: Tensor) -> Tensor:
    """Sums to values, 0 to 127."""
    return floored(sums * 2.0**-SHIFT).clamp(0, MAX)


class QuantizedNetwork(nn.Module):
    """Parameters have the names and shapes of `PriorConfig.shapes`.

    Where the first symbol chooses, `common` holds what all choices share; the parameters themselves are what is added.
    """

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config, self.levels = config, config.levels
        both = config.state + config.embedding
        fan = {"remember": 9 * both, "known": 18 * both, "below": 18 * both, "near": 8 * config.embedding}
        fan |= {"mix": config.features, "first": config.features, "others": config.features}
        spread = {name: math.sqrt(2 / count) for name, count in fan.items()} | {"embed": 0.3, "tell": 0.01}
        self.kinds = {name: kind for name, (kind, _) in config.shapes().items()}
        self.common = nn.ParameterDict()
        for name, (_, shape) in config.shapes().items():
            start = spread.get(name, 0.0)
            if name in ("embed", "before", "others"):
                rows = config.features if name == "others" else sum(self.levels)
                self.common[name] = nn.Parameter(torch.randn(rows, shape[1]) * start)
                start = 0.0
            self.register_parameter(name, nn.Parameter(torch.randn(shape) * start))

    def scale(self, name: str) -> float:
        """Integers per 1.0 of a parameter."""
        return {"embed": UNIT, "tell_bias": NATS}.get(name, SCALES[self.kinds[name]])

    def whole(self, name: str) -> Tensor:
        """A parameter as integers (float tensor)."""
        limit = LIMITS[self.kinds[name]]
        parameter: Tensor = self.get_parameter(name)
        if name == "others":
            parameter = parameter + self.common[name].repeat(self.levels[0], 1)
        elif name in self.common:
            first, *others = self.common[name].split(self.levels)
            parameter = parameter + torch.cat([first, *(table.repeat(self.levels[0], 1) for table in others)])
        return rounded(parameter * self.scale(name)).clamp(-limit, limit)

    @torch.no_grad()
    def tensors(self) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
        """The integers, as `Network` takes them."""
        return {name: self.whole(name).cpu().numpy().astype(kind) for name, kind in self.kinds.items()}

    @torch.no_grad()
    def start_from(self, symbols: Tensor) -> None:
        """Let every symbol have its frequency in symbols (..., n) at first."""
        start = 0
        for k, levels in enumerate(self.levels):
            counts = torch.bincount(symbols[..., k].flatten().long(), minlength=levels) + 1.0
            self.get_parameter("tell_bias")[start : start + levels] = (counts / counts.mean()).log()
            start += levels

    def forward(self, symbols: Tensor, first: int) -> Tensor:
        """Symbols (B, T, h, w, K, n), h and w even, whose first latent frame has that number in its segment -> nats.

        Nats of each symbol, (B, T, h, w, K, n).
        """
        whole = {name: self.whole(name) for name in self.kinds}
        below = None
        stages = []
        for k in range(symbols.shape[4]):
            nats, below = self._stage(symbols[..., k, :], below, k, first, whole)
            stages.append(nats)
        return torch.stack(stages, 4)

    def _stage(
        self, symbols: Tensor, below: Tensor | None, stage: int, first: int, whole: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Nats (B, T, h, w, n), and what is remembered after each latent frame, (B, T, C, h, w)."""
        b, t, h, w, _ = symbols.shape
        size = self.config.state
        embedded = self._embed(symbols, whole["embed"])  # (B, T, h, w, E)
        ids = embedded.movedim(4, 2)
        kernel = _kernel(whole["remember"], size + self.config.embedding)
        fresh = F.conv2d(_flat(ids), kernel[:, size:], padding=1).view(b, t, size, h, w)
        fresh = fresh + whole["remember_stage"][stage][:, None, None]
        state = ids.new_zeros(b, size, h, w)
        states = [state]
        for now in range(t):
            state = squash(fresh[:, now] + F.conv2d(state, kernel[:, :size], padding=1))
            states.append(state)
        memory = torch.cat([torch.stack(states[1:], 1), ids], 2)
        before = torch.cat([torch.zeros_like(memory[:, :1]), memory[:, :-1]], 1)
        known = F.conv2d(_flat(before), _kernel(whole["known"], memory.shape[2]), padding=1)
        if below is not None:
            known = known + F.conv2d(_flat(below), _kernel(whole["below"], memory.shape[2]), padding=1)
        place = torch.arange(first, first + t, device=symbols.device) % self.config.period
        bias = whole["known_stage"][stage] + whole["known_phase"][place]  # (T, F)
        bias = torch.cat([bias[:1] + whole["known_first"], bias[1:]])
        known = known.view(b, t, -1, h, w).movedim(2, 4) + bias[:, None, None]
        return self._nats(known, embedded, symbols, whole), memory

    def _embed(self, symbols: Tensor, table: Tensor) -> Tensor:
        return F.embedding(self._rows(symbols.long()), table).sum(-2).clamp(0, MAX)

    def _rows(self, symbols: Tensor) -> Tensor:
        """Which rows of a table symbols (..., n) have."""
        starts = torch.tensor([rows.start for rows in slices(self.config.rows)], device=symbols.device)
        levels = torch.tensor([0, *self.levels[1:]], device=symbols.device)
        return symbols + starts + levels * symbols[..., :1]

    def _nats(self, known: Tensor, embedded: Tensor, symbols: Tensor, whole: dict[str, Tensor]) -> Tensor:
        """Of all passes, from sums (B, T, h, w, F), embedded ids (B, T, h, w, E) and symbols (B, T, h, w, n)."""
        around = F.pad(embedded, (0, 0, 1, 1, 1, 1))
        h, w = known.shape[2:4]
        nats = known.new_empty(symbols.shape)
        tap, size = 0, self.config.embedding
        for number, (y, x) in enumerate(ORDER):
            sums = known[:, :, y::2, x::2] + whole["known_pass"][number]
            if NEAR[number]:
                taps = [
                    around[:, :, y + dy + 1 : h + 1 + dy : 2, x + dx + 1 : w + 1 + dx : 2] for dy, dx in NEAR[number]
                ]
                rows = len(taps) * size
                sums = sums + torch.cat(taps, -1) @ whole["near"][tap : tap + rows]
                tap += rows
            mixed = squash(squash(sums) @ whole["mix"] + whole["mix_bias"])
            own = symbols[:, :, y::2, x::2]
            told = self._tell(mixed.flatten(0, -2), own.flatten(0, -2).long(), whole)
            nats[:, :, y::2, x::2] = told.view(own.shape)
        return nats

    def _tell(self, mixed: Tensor, symbols: Tensor, whole: dict[str, Tensor]) -> Tensor:
        """Nats (N, n) of symbols (N, n), from values (N, features)."""
        order = symbols[:, 0].argsort(stable=True)
        parts = torch.split(mixed[order], symbols[:, 0].bincount(minlength=self.levels[0]).tolist())
        choices = torch.split(whole["others"], self.config.features)
        sums = torch.cat([part @ choice for part, choice in zip(parts, choices, strict=True)])[order.argsort()]
        first = mixed @ whole["first"] + whole["first_bias"]
        rows, size = self._rows(symbols), self.config.hidden
        found = []
        for k, levels in enumerate(slices(self.levels)):
            hidden = squash(sums[:, (k - 1) * size : k * size] if k else first)
            logits = floored((hidden @ whole["tell"][levels].T + whole["tell_bias"][levels]) * 2.0**-SHIFT) / 16
            found.append(F.cross_entropy(logits, symbols[:, k], reduction="none"))
            sums = sums + F.embedding(rows[:, k], whole["before"])
        return torch.stack(found, -1)


def _flat(x: Tensor) -> Tensor:
    """(B, T, C, h, w) -> (B * T, C, h, w)."""
    return x.flatten(0, 1)


def _kernel(weights: Tensor, size: int) -> Tensor:
    """(9 * in, out), tap after tap -> (out, in, 3, 3)."""
    return weights.view(3, 3, size, -1).permute(3, 2, 0, 1)
