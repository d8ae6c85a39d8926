"""The networks that metrics need, loaded when first asked for and kept; what cannot be had stays a reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from vidtok.errors import ModelError, UsageError, VidtokError
from vidtok.metrics.fid import INCEPTION
from vidtok.metrics.fvd import STYLEGANV
from vidtok.metrics.i3d import PUBLISHED, load_i3d
from vidtok.metrics.lpips import BACKBONES, Lpips, find_weights, load_lpips
from vidtok.metrics.weights import Progress, WeightsFile, find, load_script, sha256_of

PLAIN = "leave out --offline"


class Networks:
    """LPIPS, I3D and Inception on one device.

    `weights`: a file, or a folder with files of the published names, for all of them. `offline`: nothing is
    fetched. `progress(label)` gives a (done, total) callback in bytes for a file that is fetched. Errors of
    loading are raised again whenever the same network is asked for; `failures` are those of another process.
    """

    def __init__(
        self,
        *,
        device: str = "cpu",
        weights: str | Path = "",
        offline: bool = True,
        progress: Callable[[str], Progress] | None = None,
        failures: Iterable[tuple[str, str]] = (),
    ) -> None:
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise UsageError(f"--device {device}: this machine, or this build of torch, has none; use cpu or auto")
        if weights and not Path(weights).expanduser().exists():
            raise UsageError(f"--metric-weights {weights}: there is no such file or folder")
        self._weights, self._offline, self._progress = weights, offline, progress
        self._have: dict[str, torch.nn.Module | VidtokError] = {name: ModelError(why) for name, why in failures}
        self.files: dict[str, str] = {}  # published name -> SHA-256 of the file in use

    @property
    def failures(self) -> tuple[tuple[str, str], ...]:
        """(published name, reason) of what was asked for and could not be had."""
        return tuple((name, str(found)) for name, found in self._have.items() if isinstance(found, VidtokError))

    def lpips(self, net: str) -> Lpips:
        """LPIPS with a VGG or AlexNet backbone."""
        file = BACKBONES[net].file

        def load() -> Lpips:
            path = find_weights(net, self._for(file), **self._how(file))
            network = load_lpips(net, path)
            self.files[file] = sha256_of(path)
            return network

        found = self._once(file, load)
        assert isinstance(found, Lpips)
        return found

    def i3d(self) -> torch.nn.Module:
        """Kinetics-400 I3D from i3d_pretrained_400.pt."""
        return self._once(PUBLISHED.file, lambda: load_i3d(self._find(PUBLISHED)))

    def styleganv(self) -> torch.nn.Module:
        """StyleGAN-V's TorchScript I3D."""
        return self._once(STYLEGANV.file, lambda: load_script(STYLEGANV, self._find(STYLEGANV)))

    def inception(self) -> torch.nn.Module:
        """StyleGAN2-ADA's TorchScript Inception."""
        return self._once(INCEPTION.file, lambda: load_script(INCEPTION, self._find(INCEPTION)))

    def _once(self, key: str, load: Callable[[], torch.nn.Module]) -> torch.nn.Module:
        if key not in self._have:
            try:
                self._have[key] = load().to(self.device)
            except VidtokError as exc:
                self._have[key] = exc
            except RuntimeError as exc:
                self._have[key] = ModelError(f"{key} does not fit on {self.device}: {str(exc).splitlines()[0]}")
        found = self._have[key]
        if isinstance(found, VidtokError):
            raise found
        return found

    def _find(self, weights: WeightsFile) -> Path:
        path = find(weights, self._for(weights.file), **self._how(weights.file))
        self.files[weights.file] = sha256_of(path)
        return path

    def _for(self, file: str) -> str | Path:
        """The path given, if it can be about this file: a folder that lacks it says nothing."""
        place = Path(self._weights).expanduser() if self._weights else None
        if place is None:
            return ""
        if place.is_dir():
            names = (file, Path(file).with_suffix(".safetensors").name)
            return place if any((place / name).is_file() for name in names) else ""
        return place if place.stem == Path(file).stem else ""

    def _how(self, file: str) -> dict[str, Any]:
        progress = self._progress(f"fetching {file}") if self._progress and not self._offline else None
        return {"download": not self._offline, "ask": PLAIN, "progress": progress}
