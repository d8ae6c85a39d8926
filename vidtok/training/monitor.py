"""What goes wrong in training, told with step and term: non-finite numbers, divergence, collapse of the ids."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vidtok.errors import ModelError
from vidtok.training.distributed import World
from vidtok.training.plan import TrainConfig

Terms = Mapping[str, float]  # "loss" first, then its terms, weighted


class Monitor:
    """Counts bad steps, and knows what losses were before. `state` is all of it, as JSON has it."""

    def __init__(self, config: TrainConfig, state: Mapping[str, Any] | None = None) -> None:
        self.config = config
        state = state or {}
        self.skipped: int = state.get("skipped", 0)  # steps, in the whole run
        self.bad: int = state.get("bad", 0)  # steps in a row
        self.high: int = state.get("high", 0)
        self.recent: dict[str, list[dict[str, float]]] = dict(state.get("recent", {}))

    @property
    def state(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "bad": self.bad, "high": self.high, "recent": self.recent}

    def skip(self, step: int, reason: str) -> None:
        """Count a step that was not taken; ModelError when `max_bad_steps` come in a row."""
        self.skipped += 1
        self.bad += 1
        if self.bad >= self.config.max_bad_steps:
            raise ModelError(
                f"{self.bad} steps in a row with non-finite numbers, the last is step {step}: {reason}; "
                "training has diverged. Lower rates, clip_gradient or precision fp32 may help"
            )

    def follow(self, step: int, quality: int | None, terms: Terms) -> None:
        """Note the losses of a step that was taken; ModelError when they are high for `divergence_steps` in a row.

        High: above `divergence` times the running median of the same stage and quality. For losses below zero,
        such as logarithms, the distance from the median counts: (divergence - 1) times its size.
        """
        self.bad = 0
        config = self.config
        if not config.divergence:
            return
        stage = str(config.place(step - 1)[0])
        self.recent = {key: value for key, value in self.recent.items() if key.split(".")[0] == stage}
        past = self.recent.setdefault(f"{stage}.{quality}", [])
        if len(past) >= config.divergence_steps:
            medians = {name: statistics.median(p.get(name, 0.0) for p in past) for name in terms}
            limit = medians["loss"] + (config.divergence - 1) * abs(medians["loss"])
            self.high = self.high + 1 if terms["loss"] > limit else 0
            if self.high >= config.divergence_steps:
                grown = max((n for n in terms if n != "loss"), key=lambda n: terms[n] - medians[n], default="loss")
                raise ModelError(
                    f"step {step}: the loss, {terms['loss']:.4g}, has been above {limit:.4g} for {self.high} steps, "
                    f"with a median of {medians['loss']:.4g} before; the term {grown!r} grew most, from "
                    f"{medians[grown]:.4g} to {terms[grown]:.4g}: training has diverged"
                )
        past.append(dict(terms))
        del past[: -4 * config.divergence_steps]


def find_bad(terms: Terms, module: nn.Module, norm: float) -> str | None:
    """What is not finite, in words: a term of the loss, else the loss, else the gradient of a parameter."""
    for name in (*(name for name in terms if name != "loss"), "loss"):
        if not math.isfinite(terms[name]):
            return f"the loss is {terms[name]}" if name == "loss" else f"the loss term {name!r} is {terms[name]}"
    if math.isfinite(norm):
        return None
    for name, p in module.named_parameters():
        if p.grad is not None and not bool(p.grad.isfinite().all()):
            return f"the gradient of {name} is not finite"
    return f"the norm of the gradient is {norm}"


class Usage:
    """How ids of the steps since the last log line use the levels of each digit."""

    def __init__(self, digits: Sequence[int], device: torch.device) -> None:
        self.digits = tuple(digits)
        basis = [math.prod(self.digits[:i]) for i in range(len(self.digits))]
        self._basis = torch.tensor(basis, device=device)
        self._levels = torch.tensor(self.digits, device=device)
        self._offsets = torch.arange(len(self.digits), device=device) * max(self.digits)
        self._counts = self._empty()

    def count(self, ids: Tensor) -> None:
        """Ids of any shape; all stages of a multi-rate model count as one."""
        digits = ids.reshape(-1, 1) // self._basis % self._levels
        bins = (digits + self._offsets).flatten()
        self._counts += torch.bincount(bins, minlength=len(self._counts)).double()

    def result(self, world: World) -> dict[str, Any]:
        """Share of levels that occurred, perplexity (1: constant) and evenness, (perplexity - 1) / (levels - 1), as
        means over digits, and the first two of each digit. Counting begins anew."""
        counts = world.sum(self._counts).view(len(self.digits), -1)
        self._counts = self._empty()
        p = counts / counts.sum(1, keepdim=True).clamp(min=1)
        used = (counts > 0).sum(1) / self._levels
        perplexity = torch.exp(-(p * p.clamp(min=1e-12).log()).sum(1))
        return {
            "usage": float(used.mean()),
            "perplexity": float(perplexity.mean()),
            "evenness": float(((perplexity - 1) / (self._levels - 1)).mean()),
            "digit_usage": [round(x, 3) for x in used.tolist()],
            "digit_perplexity": [round(x, 3) for x in perplexity.tolist()],
        }

    def _empty(self) -> Tensor:
        return torch.zeros(len(self.digits) * max(self.digits), dtype=torch.float64, device=self._levels.device)


def refuse_collapse(config: TrainConfig, step: int, evenness: float) -> None:
    """ModelError when digits hardly change any more, after `collapse_after` steps."""
    if step > config.collapse_after and evenness < config.min_usage:
        raise ModelError(
            f"step {step}: the ids have collapsed: digits use their levels with evenness {evenness:.4f}, below "
            f"min_usage {config.min_usage}. Lower rates or a larger entropy weight may help"
        )
