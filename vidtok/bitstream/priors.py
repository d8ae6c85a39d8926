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
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    digest = hashlib.sha256(json.dumps(_plain(config), sort_keys=True, separators=(",", ":")).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype.name} {list(tensor.shape)}\n".encode())
        digest.update(np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def _plain(config: PriorConfig) -> dict[str, Any]:
    """The config as a file has it: without what later versions added, where it has no part."""
    later = {"free": 0, "block": 1}
    return {key: value for key, value in to_dict(config).items() if key not in later or value != later[key]}


def to_bytes(config: PriorConfig, tensors: Tensors, *, model_id: str, description: str = "") -> bytes:
    """The file of a prior for ids of model `model_id`."""
    from safetensors.numpy import save

    metadata = {
        "format": FORMAT,
        "description": description,
        "model_id": model_id,
        "content_id": content_id(config, tensors),
        "config": json.dumps(_plain(config), sort_keys=True),
    }
    return save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, metadata)


def read(path: Path) -> Network:
    """The network of a file. ModelError where it is damaged, or no prior; no tensor is read before all sizes fit."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(_regular(path), framework="np") as file:
            metadata: dict[str, str] = file.metadata() or {}
            config = _config(path, metadata)
            wanted = {n: (_DTYPES[kind], list(shape)) for n, (kind, shape) in config.shapes().items()}
            for name in sorted({*wanted, *file.keys()}):
                part = file.get_slice(name) if name in file.keys() else None  # noqa: SIM118
                if part is None or (part.get_dtype(), part.get_shape()) != wanted.get(name):
                    raise ModelError(f"{path}: the tensors of a prior do not fit its config, first at {name}")
            tensors = {name: file.get_tensor(name) for name in wanted}
    except (SafetensorError, OSError) as exc:
        raise ModelError(f"{path} cannot be read as safetensors: {exc}") from exc
    if content_id(config, tensors) != metadata.get("content_id"):
        raise ModelError(f"{path}: tensors do not match their content id; the file is damaged")
    return Network(config, tensors)


_DTYPES = {np.int8: "I8", np.int16: "I16"}  # safetensors' names


def _regular(path: Path) -> Path:
    """Refuse what is no file, such as a pipe that would never answer."""
    if not path.is_file():
        raise OSError("not a regular file")
    return path


def _config(path: Path, metadata: Mapping[str, str]) -> PriorConfig:
    try:
        return from_dict(PriorConfig, json.loads(metadata["config"]))
    except (KeyError, ValueError, RecursionError) as exc:
        short = str(exc) if len(str(exc)) < 300 else str(exc)[:300] + " ..."
        raise ModelError(f"{path} is not a prior: its config is missing or not valid ({short})") from exc


def known() -> list[PriorEntry]:
    """The priors of this installation and of $VIDTOK_PRIORS; reads no tensors."""
    folders = [BUILT_IN, *(Path(name) for name in os.environ.get(FOLDERS, "").split(os.pathsep) if name)]
    found = [_entry(path) for folder in folders for path in sorted(folder.glob("*" + SUFFIX))]
    return [entry for entry in found if entry]


def _entry(path: Path) -> PriorEntry | None:
    """None where the file is not a prior; `read` would say more."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(_regular(path), framework="np") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except (SafetensorError, OSError):
        return None
    ids = metadata.get("content_id", ""), metadata.get("model_id", "")
    if metadata.get("format") != FORMAT or not all(_ID.fullmatch(value) for value in ids):
        return None
    return PriorEntry(prior_id=ids[0], model_id=ids[1], path=path)


_ID = re.compile("[0-9a-f]{64}")


def of_model(model_id: str | None) -> str | None:
    """The id of the first known prior for ids of that model; None where there is none."""
    if model_id is None:
        return None
    return next((entry.prior_id for entry in known() if entry.model_id == model_id), None)


@functools.lru_cache(maxsize=4)
def load(prior_id: str) -> Network:
    """The prior of that content id. UnsupportedError where it is not here, ModelError where it is damaged."""
    broken: ModelError | None = None
    for entry in known():
        if entry.prior_id == prior_id:
            try:
                return read(entry.path)
            except ModelError as error:  # another folder may hold a sound copy
                broken = broken or error
    if broken:
        raise broken
    raise UnsupportedError(
        f"the ids are coded with prior {prior_id[:12]}, which is not here; a folder that holds its file can be named "
        f"in ${FOLDERS}"
    )


