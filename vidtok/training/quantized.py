"""The network of `vidtok.bitstream.network` as torch trains it: the same integers forward, straight-through backward.

Parameters are floats; what is multiplied are the integers that they round to, and values are rounded down and held
within their limits as at run time, so that the network that is trained *is* the integer one. Gradients pass rounding as
if it were not there (Bengio et al. 2013, arXiv 1308.3432), and stop where a limit holds a value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidtok.bitstream.free import NONE
from vidtok.bitstream.lattice import NEAR, ORDER, REACH, SOURCES, TURNS
from vidtok.bitstream.network import MAX, SHIFT, PriorConfig, slices

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
        self.config, self.levels, self.tied = config, config.levels, config.tied
        both = config.state + config.embedding
        fan = {"remember": 9 * both, "known": 18 * both, "below": 18 * both, "near": 8 * config.embedding}
        fan |= dict.fromkeys(("mix", "first", "others", "free"), config.features)
        spread = {name: math.sqrt(2 / count) for name, count in fan.items()}
        spread |= {"embed": 0.3, "tell": 0.01, "copy": 0.01}
        self.kinds = {name: kind for name, (kind, _) in config.shapes().items()}
        self.common = nn.ParameterDict()
        for name, (_, shape) in config.shapes().items():
            start = spread.get(name, 0.0)
            if name in ("embed", "before", "others"):
                rows = config.features if name == "others" else sum(self.levels[: self.tied])
                self.common[name] = nn.Parameter(torch.randn(rows, shape[1]) * start)
                start = 0.0
            first = torch.ones(shape) if name == "copy_bias" else torch.randn(shape) * start  # a nat for each source
            self.register_parameter(name, nn.Parameter(first))

    def scale(self, name: str) -> float:
        """Integers per 1.0 of a parameter."""
        special = {"embed": UNIT, "free_embed": UNIT, "tell_bias": NATS, "copy_bias": NATS}
        return special.get(name, SCALES[self.kinds[name]])

    def whole(self, name: str) -> Tensor:
        """A parameter as integers (float tensor)."""
        limit = LIMITS[self.kinds[name]]
        parameter: Tensor = self.get_parameter(name)
        if name in self.common:
            parameter = parameter + self.spread(name, self.common[name])
        return rounded(parameter * self.scale(name)).clamp(-limit, limit)

    def spread(self, name: str, common: Tensor) -> Tensor:
        """What all choices of the first symbol share, for each of them."""
        if name == "others":
            return common.repeat(self.levels[0], 1)
        first, *others = torch.split(common, list(self.levels[: self.tied]))
        return torch.cat([first, *(table.repeat(self.levels[0], 1) for table in others)])

    def shared(self, name: str, table: Tensor) -> Tensor:
        """The mean over choices of the first symbol of what `spread` makes; its own rows belong to it alone."""
        first = self.levels[0]
        if name == "others":
            return table.view(first, -1, table.shape[1]).mean(0)
        own, *others = torch.split(table, list(self.config.rows))
        means = (rows.view(first, -1, table.shape[1]).mean(0) for rows in others)
        return torch.cat([torch.zeros_like(own), *means])

    @torch.no_grad()
    def tensors(self) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
        """The integers, as `Network` takes them."""
        return {name: self.whole(name).cpu().numpy().astype(kind) for name, kind in self.kinds.items()}

    @torch.no_grad()
    def start_from(self, files: Sequence[Tensor]) -> None:
        """Let every symbol have its frequency in files (t, h, w, K, n) at first; free ones that in the first stage."""
        start = 0
        for k, levels in enumerate(self.levels):
            own = torch.cat([(file[..., k] if k < self.tied else file[..., 0, k]).flatten() for file in files])
            counts = torch.bincount(own.long(), minlength=levels) + 1.0
            self.get_parameter("tell_bias")[start : start + levels] = (counts / counts.mean()).log()
            start += levels

    def forward(self, symbols: Tensor, first: int) -> Tensor:
        """Symbols (B, T, h, w, K, n), h and w even, whose first latent frame has that number in its segment -> nats.

        Nats of each symbol, (B, T, h, w, K, n): 0 of free ones above the first stage.
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
        free = symbols[..., self.tied :].long()
        embedded = self._embed(symbols[..., : self.tied], free if stage == 0 else None, whole)  # (B, T, h, w, E)
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
        nats = torch.zeros(free.shape, device=known.device)
        if stage == 0 and self.config.free:
            nats = self._tell_free(known, free, whole)
            known = known + self._free_rows(free, whole["free_known"])
        return torch.cat([self._nats(known, embedded, symbols[..., : self.tied], whole), nats], -1), memory

    def _embed(self, symbols: Tensor, free: Tensor | None, whole: dict[str, Tensor]) -> Tensor:
        found = F.embedding(self._rows(symbols.long()), whole["embed"]).sum(-2)
        if free is not None and self.config.free:
            found = found + self._free_rows(free, whole["free_embed"])
        return found.clamp(0, MAX)

    def _free_rows(self, free: Tensor, table: Tensor) -> Tensor:
        """The sum of rows of free symbols (..., free)."""
        starts = torch.tensor([rows.start for rows in slices(self.levels[self.tied :])], device=free.device)
        return F.embedding(free + starts, table).sum(-2)

    def _tell_free(self, known: Tensor, free: Tensor, whole: dict[str, Tensor]) -> Tensor:
        """Nats (B, T, h, w, free) of free symbols, from sums (B, T, h, w, F): all are those of blocks' first cells."""
        every, cells = known.new_zeros(free.shape), slice(None, None, self.config.block)
        known, free = known[:, :, cells, cells], free[:, :, cells, cells]
        sums = squash(known + whole["free_pass"][0]) @ whole["free"] + whole["free_bias"]
        past = F.pad(free[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0), value=NONE)
        plane = F.pad(free, (0, 0, REACH, REACH, REACH, REACH), value=NONE)
        nats = known.new_empty(free.shape)
        for number, turn in enumerate(TURNS):
            here = (slice(None), slice(None), *turn.cells)
            own = free[here]
            if not own.numel():
                continue
            h, w = own.shape[2:4]
            near = [plane[(slice(None), slice(None), *turn.neighbours(dy, dx, h, w))] for dy, dx in turn.near]
            others = torch.stack([past[here], *near], -1)  # (B, T, h, w, free, sources)
            told = self._told_free(sums[here].flatten(0, 3), own.flatten(0, 3), others.flatten(0, 3), number, whole)
            nats[here] = told.view(own.shape)
        every[:, :, cells, cells] = nats
        return every

    def _told_free(self, sums: Tensor, free: Tensor, others: Tensor, turn: int, whole: dict[str, Tensor]) -> Tensor:
        """Nats (N, free) of a turn's cells, which may be copied from `others` (N, free, sources)."""
        size, found = self.config.hidden, []
        gates = slices([2 * count for count in SOURCES] * self.config.free)
        levels = slices(self.levels)[self.tied :]
        rows = slices(self.levels[self.tied :])
        same = torch.ones_like(others[:, 0], dtype=torch.bool)
        for k, level in enumerate(levels):
            hidden = squash(sums[:, k * size : (k + 1) * size])
            logits = hidden @ whole["tell"][level].T + whole["tell_bias"][level]
            gate = gates[k * len(SOURCES) + turn]
            weights = (hidden @ whole["copy"][gate].T + whole["copy_bias"][gate]).view(len(hidden), -1, 2)
            weights = torch.where(same, weights[..., 0], weights[..., 1])
            nowhere = logits.shape[1]
            places = torch.where(others[:, k] == NONE, nowhere, others[:, k])
            logits = F.pad(logits, (0, 1)).scatter_add(1, places, weights)[:, :nowhere]
            logits = floored(logits * 2.0**-SHIFT) / 16
            found.append(F.cross_entropy(logits, free[:, k], reduction="none"))
            same = same & (others[:, k] == free[:, k, None])
            sums = sums + whole["free_before"][rows[k]][free[:, k]]
        return torch.stack(found, -1)

    def _rows(self, symbols: Tensor) -> Tensor:
        """Which rows of a table symbols (..., n) have."""
        starts = torch.tensor([rows.start for rows in slices(self.config.rows)], device=symbols.device)
        levels = torch.tensor([0, *self.levels[1 : self.tied]], device=symbols.device)
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
        for k, levels in enumerate(slices(self.levels)[: self.tied]):
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
