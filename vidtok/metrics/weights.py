"""Weights that are not in the package: found by path, environment variable or cache, or fetched and checked.

Every file is known by its published name and SHA-256. What is fetched is kept in torch.hub's folder only if its
hash is right. Nothing is fetched unless `download` says so.
"""

from __future__ import annotations

import hashlib
import os
import urllib.request
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from vidtok.errors import ModelError

Progress = Callable[[int, int | None], None]
BLOCK_BYTES = 1 << 20
TIMEOUT_SECONDS = 20
TRUST = "VIDTOK_TRUSTED_SHA256"
"""Environment variable: SHA-256 of TorchScript files that may be run besides the published ones, comma-separated."""


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """A published file of weights."""

    title: str  # what it is for: "lpips vgg"
    file: str  # its published name
    variable: str  # environment variable that may hold a path
    urls: tuple[str, ...]  # tried in this order
    megabytes: int
    sha256: str
    names: tuple[str, ...] = ()  # other names looked for in folders, first

    @property
    def cached(self) -> Path:
        return Path(torch.hub.get_dir()) / "checkpoints" / self.file


def find(
    weights: WeightsFile,
    path: str | Path = "",
    *,
    download: bool = False,
    ask: str = "allow download = true",
    progress: Progress | None = None,
) -> Path:
    """The file: `path`, else the variable, else the cache, else (with `download`) the network.

    Path and variable are a file, or a folder with files of the published names. ModelError where there is none,
    with what to do; `ask` says how to allow the network.
    """
    title = weights.title.split()[0].upper()
    for given, source in ((path, "path"), (os.environ.get(weights.variable, ""), weights.variable)):
        if given:
            place = Path(given).expanduser()
            files = [place / name for name in (*weights.names, weights.file)] if place.is_dir() else [place]
            found = next((file for file in files if file.is_file()), None)
            if found is None:
                raise ModelError(f"{title} weights: {source} says {place}, where there is no {weights.file}")
            return found
    if not weights.cached.is_file():
        if not download:
            raise ModelError(
                f"no weights for {weights.title}: give the path of {weights.file}, set {weights.variable} to it, or "
                f"{ask} ({weights.megabytes} MB from {weights.urls[0]})"
            )
        fetch(weights, weights.cached, progress)
    return weights.cached


def fetch(weights: WeightsFile, target: Path, progress: Progress | None = None) -> None:
    """From the first of its addresses that gives the right bytes, beside `target` and renamed; else ModelError."""
    reasons = []
    for url in weights.urls:
        part = target.with_name(f".{target.name}.tmp-{os.getpid()}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            digest = _download(url, part, progress)
            if digest == weights.sha256:
                os.replace(part, target)
                return
            reasons.append(f"{url}: invalid hash value {digest[:16]}, not {weights.sha256[:16]}")
        except (OSError, ValueError) as exc:
            reasons.append(f"{url}: {first_line(exc)}")
        finally:
            part.unlink(missing_ok=True)
    raise ModelError(f"cannot download {'; '.join(reasons)}")


def _download(url: str, target: Path, progress: Progress | None) -> str:
    """The SHA-256 of what was written to `target`."""
    digest, done = hashlib.sha256(), 0
    request = urllib.request.Request(url, headers={"User-Agent": "vidtok"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as source, open(target, "wb") as file:
        announced = source.headers.get("Content-Length", "")
        total = int(announced) if announced.isdigit() else None
        while block := source.read(BLOCK_BYTES):
            digest.update(block)
            file.write(block)
            done += len(block)
            if progress:
                progress(done, total)
    return digest.hexdigest()


def sha256_of(file: Path) -> str:
    """Hash of a file's bytes; asked again for the same file (name, size, time) it is remembered."""
    status = file.stat()
    return _sha256(str(file), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _sha256(file: str, _size: int, _time: int) -> str:
    with open(file, "rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def read_tensors(file: Path, title: str) -> dict[str, Tensor]:
    """Tensors of a .safetensors file, or of one of torch.save, read without running what is in it."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as exc:  # torch's reader, faced with a file that is none of its own, raises nearly anything
        raise ModelError(f"{title} weights {file} cannot be read: {first_line(exc)}") from exc
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise ModelError(f"{title} weights {file}: a dict of tensors is wanted")
    return tensors


def load_script(weights: WeightsFile, file: Path) -> torch.nn.Module:
    """A TorchScript network. Loading runs the code in the file, so a file of unknown hash is refused."""
    digest = sha256_of(file)
    trusted = {text.strip().lower() for text in os.environ.get(TRUST, "").split(",")}
    if digest not in {weights.sha256, *trusted}:
        raise ModelError(
            f"{file} is not the published {weights.file} (SHA-256 {digest}), and loading it would run its code; "
            f"{TRUST} may hold the hash if you know it"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch prefers other formats; these files are what is
            network: torch.nn.Module = torch.jit.load(str(file), map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as exc:  # as above
        raise ModelError(f"{weights.title} weights {file} cannot be read: {first_line(exc)}") from exc
    return network.eval()


def first_line(exc: BaseException) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0]
