"""Starting a prior's training from another prior: what fits is taken, the rest starts afresh.

Tensors of the same shape are taken. Tables with a row for each symbol's level, stage or latent frame may have got more
rows, or fewer: the first ones are the same as before, since free symbols come last. The averaged floats of a run
(`last.safetensors`) are better than the integers that a prior's file has of them; either can be named.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from vidtok.bitstream import priors
from vidtok.errors import ConfigError, ModelError
from vidtok.training.quantized import QuantizedNetwork

AVERAGED = "averaged."
SYMBOLS = ("tell", "tell_bias")  # a row for each level of each symbol
ROWS = (*SYMBOLS, "remember_stage", "known_stage", "known_phase")


@torch.no_grad()
def inherit(network: QuantizedNetwork, path: Path) -> str:
    """Set the parameters from another prior's file or run; says in words which are new.

    ConfigError where the file is neither or nothing fits, ModelError where it is damaged.
    """
    found = _read(path)
    state, fresh = network.state_dict(), []
    same_symbols = "embed" in found and found["embed"].shape == state["embed"].shape
    for name, own in state.items():
        theirs = found.get(name)
        if theirs is not None and theirs.shape == own.shape:
            own.copy_(theirs)
            continue
        rows = 0
        if theirs is not None and name in (ROWS if same_symbols else set(ROWS) - {*SYMBOLS}):
            rows = min(len(own), len(theirs)) if theirs.shape[1:] == own.shape[1:] else 0
            own[:rows].copy_(theirs[:rows])
        if rows < len(own):
            fresh.append(f"{name} from row {rows}" if rows else name)
    if len(fresh) == len(state):
        raise ConfigError(f"{path}: nothing of this prior fits the sizes of the new one")
    return f"new: {', '.join(fresh) or 'nothing'}"


def _read(path: Path) -> dict[str, Tensor]:
    """Parameters by name, as of `QuantizedNetwork.state_dict`."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
        if metadata.get("format") == priors.FORMAT:
            return _floats(path)
        kind = json.loads(metadata.get("run", "{}")).get("config", {}).get("kind")
        if kind != "prior":
            raise ConfigError(f"{path} is neither a prior nor the last.safetensors of a prior's run")
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as exc:
        if isinstance(exc, ConfigError):
            raise
        raise ModelError(f"{path} cannot be read as safetensors: {exc}") from exc
    return {name.removeprefix(AVERAGED): t for name, t in tensors.items() if name.startswith(AVERAGED)}


def _floats(path: Path) -> dict[str, Tensor]:
    """The integers of a prior's file as parameters; what the first symbol's choices share is their mean."""
    found = priors.read(path)
    twin = QuantizedNetwork(found.config)
    state = {name: torch.from_numpy(t.astype("f4")) / twin.scale(name) for name, t in found.tensors.items()}
    for name in twin.common:
        shared = twin.shared(name, state[name])
        state[f"common.{name}"], state[name] = shared, state[name] - twin.spread(name, shared)
    return state
