"""Learned priors on disk, found by content id: one safetensors file with the config in its metadata.

The content id is the SHA-256 of the config and of every tensor's name, type, shape and little-endian bytes, in the
order of their names; a token file carries it, so that ids are only ever read with the prior that wrote them. Priors
ship beside the models they are for, as NAME.prior.safetensors; more are looked for in the folders of $VIDTOK_PRIORS.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vidtok.bitstream.network import Network, PriorConfig
from vidtok.config import from_dict, to_dict
from vidtok.errors import ModelError, UnsupportedError

BUILT_IN = Path(__file__).parent.parent / "models"
FOLDERS = "VIDTOK_PRIORS"
SUFFIX = ".prior.safetensors"
FORMAT = "vidtok prior"

Tensors = Mapping[str, npt.NDArray[np.signedinteger]]


@dataclass(frozen=True, kw_only=True)
class PriorEntry:
    """What a prior's file says of itself."""

    prior_id: str
    model_id: str  # of the model whose ids it was trained on
    path: Path


def content_id(config: PriorConfig, tensors: Tensors) -> str:
    """64 hexadecimal digits over config and tensors."""
    digest = hashlib.sha256(json.dumps(to_dict(config), sort_keys=True, separators=(",", ":")).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype.name} {list(tensor.shape)}\n".encode())
        digest.update(np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def to_bytes(config: PriorConfig, tensors: Tensors, *, model_id: str, description: str = "") -> bytes:
    """The file of a prior for ids of model `model_id`."""
    from safetensors.numpy import save

    metadata = {
        "format": FORMAT,
        "description": description,
        "model_id": model_id,
        "content_id": content_id(config, tensors),
        "config": json.dumps(to_dict(config), sort_keys=True),
    }
    return save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, metadata)


def read(path: Path) -> Network:
    """The network of a file. ModelError where it is damaged, or no prior."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        config = from_dict(PriorConfig, json.loads(metadata["config"]))
    except (SafetensorError, OSError, TypeError) as exc:
        raise ModelError(f"{path} cannot be read as safetensors: {exc}") from exc
    except (KeyError, ValueError) as exc:
        raise ModelError(f"{path} is not a prior: its config is missing or not valid ({exc})") from exc
    if content_id(config, tensors) != metadata.get("content_id"):
        raise ModelError(f"{path}: tensors do not match their content id; the file is damaged")
    return Network(config, tensors)


def known() -> list[PriorEntry]:
    """The priors of this installation and of $VIDTOK_PRIORS; reads no tensors."""
    folders = [BUILT_IN, *(Path(name) for name in os.environ.get(FOLDERS, "").split(os.pathsep) if name)]
    found = [_entry(path) for folder in folders for path in sorted(folder.glob("*" + SUFFIX))]
    return [entry for entry in found if entry]


def _entry(path: Path) -> PriorEntry | None:
    """None where the file is not a prior; `read` would say more."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except (SafetensorError, OSError):
        return None
    if metadata.get("format") != FORMAT:
        return None
    return PriorEntry(prior_id=metadata.get("content_id", ""), model_id=metadata.get("model_id", ""), path=path)


def of_model(model_id: str | None) -> str | None:
    """The id of the first known prior for ids of that model; None where there is none."""
    if model_id is None:
        return None
    return next((entry.prior_id for entry in known() if entry.model_id == model_id), None)


@functools.lru_cache(maxsize=4)
def load(prior_id: str) -> Network:
    """The prior of that content id. UnsupportedError where it is not here, ModelError where it is damaged."""
    for entry in known():
        if entry.prior_id == prior_id:
            return read(entry.path)
    raise UnsupportedError(
        f"the ids are coded with prior {prior_id[:12]}, which is not here; a folder that holds its file can be named "
        f"in ${FOLDERS}"
    )


