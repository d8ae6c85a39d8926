"""Models on disk: one safetensors file with the config in its metadata, known by name and content id.

The content id is the SHA-256 of the config and of every tensor's name, shape, type and little-endian bytes, in
the order of their names. It is stored beside the weights and checked whenever they are loaded. Nothing is ever
unpickled.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidtok.errors import ConfigError, ModelError, OutputError, UnknownNameError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vidtok.model.model import Model
    from vidtok.model.tokenizer import ModelConfig, Tokenizer

BUILT_IN = Path(__file__).parent / "models"
ALIASES = {"default": "vidtok-2"}
MAX_HEADER_BYTES = 8 << 20


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One line of `vidtok models list`."""

    name: str
    aliases: tuple[str, ...]
    model_id: str
    path: Path
    file_bytes: int
    description: str


def content_id(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """64 hexadecimal digits over config and weights."""
    import torch

    digest = hashlib.sha256(json.dumps(config, sort_keys=True, separators=(",", ":")).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        raw = tensor.view(
            torch.uint8
            if tensor.element_size() == 1
            else torch.int16
            if tensor.element_size() == 2
            else torch.int32
            if tensor.element_size() == 4
            else torch.int64
        ).numpy()
        digest.update(raw.astype(raw.dtype.newbyteorder("<")).tobytes() if sys.byteorder == "big" else raw.tobytes())
    return digest.hexdigest()


def save_tokenizer(path: Path, tokenizer: Tokenizer, *, name: str, description: str = "") -> str:
    """Write weights in fp16 with config, name and content id; whole or not at all. Returns the content id."""
    import torch
    from safetensors.torch import save

    from vidtok.config import to_dict

    config = to_dict(tokenizer.config)
    tensors = {k: v.detach().to(torch.float16).contiguous() for k, v in tokenizer.state_dict().items()}
    model_id = content_id(config, tensors)
    metadata = {
        "format": "vidtok",
        "name": name,
        "description": description,
        "content_id": model_id,
        "config": json.dumps(config, sort_keys=True),
    }
    write_atomically(path, save(tensors, metadata))
    return model_id


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside `path`, flush to disk, rename."""
    part = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as exc:
        part.unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {exc.strerror}") from exc


def load_tokenizer(path: Path) -> tuple[Tokenizer, dict[str, str]]:
    """The network in fp32 and eval mode, and the file's metadata. ModelError if anything does not fit."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from vidtok.model.tokenizer import build_tokenizer

    metadata = read_metadata(path)
    config = model_config(path, metadata)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as exc:
        raise ModelError(f"{path} cannot be read as safetensors: {exc}") from exc
    stored = metadata.get("content_id", "")
    if content_id(json.loads(metadata["config"]), tensors) != stored:
        raise ModelError(f"{path}: weights do not match their content id {stored[:12]}; the file is damaged")
    with torch.device("meta"):
        tokenizer = build_tokenizer(config)
    wanted = {name: tuple(t.shape) for name, t in tokenizer.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in tensors.items()}
    if wanted != found:
        odd = sorted(set(wanted.items()) ^ set(found.items()))[0][0]
        raise ModelError(f"{path}: tensors do not fit the config, first at {odd}")
    tokenizer = build_tokenizer(config)
    tokenizer.load_state_dict({name: t.float() for name, t in tensors.items()})
    return tokenizer.eval().requires_grad_(False), metadata


def load(name: str | os.PathLike[str] = "default", *, device: str = "auto", precision: str = "auto") -> Model:
    """The model called `name`: a built-in name, an alias, a file or a folder. Loaded once per process."""
    import torch

    found, path = find_model(name)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if (device.startswith("cuda") and not torch.cuda.is_available()) or (
        device == "mps" and not torch.backends.mps.is_available()
    ):
        raise UsageError(f"--device {device}: this machine, or this build of torch, has none; use cpu or auto")
    try:
        place = torch.device(device)
    except RuntimeError as exc:
        raise UnknownNameError("device", device, ["auto", "cpu", "cuda", "mps"]) from exc
    precision = "fp32" if precision == "auto" else precision
    if precision == "fp16" and place.type == "cpu":
        raise UsageError("--precision fp16 is for GPUs; this is the CPU: fp32 or bf16")
    return _load(found, path.resolve(), path.stat().st_mtime_ns, place, precision)


@functools.lru_cache(maxsize=4)
def _load(name: str, path: Path, modified: int, device: torch.device, precision: str) -> Model:
    from vidtok.model.model import PRECISIONS, Model

    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, ["auto", *PRECISIONS])
    tokenizer, metadata = load_tokenizer(path)
    return Model(tokenizer, name=name, model_id=metadata["content_id"], device=device, precision=precision)


def model_config(path: Path, metadata: Mapping[str, str]) -> ModelConfig:
    """The checked config in a model file's metadata."""
    from vidtok.config import from_dict
    from vidtok.model.tokenizer import ModelConfig

    try:
        return from_dict(ModelConfig, json.loads(metadata["config"]))
    except KeyError as exc:
        raise ModelError(f"{path} is safetensors, but not a vidtok model: it has no config") from exc
    except (ConfigError, ValueError) as exc:
        raise ModelError(f"{path}: its config is not valid: {exc}") from exc


def read_metadata(path: Path) -> dict[str, str]:
    """The strings beside the weights, read without loading torch or the weights."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
            if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                raise ModelError(f"{path} is not a safetensors file")
            header = json.loads(file.read(length))
    except OSError as exc:
        raise ModelError(f"cannot read model {path}: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:
        raise ModelError(f"{path} is not a safetensors file") from exc
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ModelError(f"{path}: its metadata is not text")
    return metadata


def find_model(name: str | os.PathLike[str]) -> tuple[str, Path]:
    """(name, file) of a built-in name, an alias, a file, or a folder that holds `model.safetensors`."""
    text = os.fspath(name)
    built_in = {path.stem: path for path in _built_in()}
    resolved = ALIASES.get(text, text)
    if resolved in built_in:
        return resolved, built_in[resolved]
    path = Path(text)
    if path.is_dir() and (path / "model.safetensors").exists():
        path = path / "model.safetensors"
    if path.is_file():
        return read_metadata(path).get("name") or path.stem, path
    if path.suffix == ".safetensors" or os.sep in text:
        raise ModelError(f"no model file at {text}; `vidtok models list` shows the names that are built in")
    raise UnknownNameError("model", text, [*built_in, *ALIASES])


def list_models() -> list[ModelEntry]:
    """The built-in models. Reads metadata only; no torch."""
    return [describe(path.stem) for path in _built_in()]


def _built_in() -> list[Path]:
    """The files of the built-in models; beside them stand those of their priors, as NAME.prior.safetensors."""
    return sorted(path for path in BUILT_IN.glob("*.safetensors") if "." not in path.stem)


def describe(name: str | os.PathLike[str]) -> ModelEntry:
    """What a model file says of itself."""
    found, path = find_model(name)
    metadata = read_metadata(path)
    aliases = tuple(alias for alias, target in ALIASES.items() if target == found)
    return ModelEntry(
        name=found,
        aliases=aliases,
        model_id=metadata.get("content_id", ""),
        path=path,
        file_bytes=path.stat().st_size,
        description=metadata.get("description", ""),
    )
