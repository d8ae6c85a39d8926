"""Clips for training: folders of videos and images, decoded once into a cache, cropped at random.

Every batch is a function of (seed, step) alone, so that a resumed run sees what an uninterrupted one would.
Images become clips by a camera that moves over them. Broken files are skipped and counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vidtok.errors import ConfigError, VidtokError
from vidtok.video import Resize, VideoReader


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    folders: tuple[str, ...] = ()  # videos and images, searched recursively
    cache: str = ""  # folder for decoded clips; empty: kept in memory only
    short_side: int = 256  # pixels; larger sources are reduced to it
    max_frames: int = 400  # of each source
    image_share: float = 0.15  # samples drawn from single pictures, where there are any
    double_rate: float = 0.15  # samples that take every second frame
    zoom_share: float = 0.3  # samples cropped larger and reduced
    zoom: float = 1.6  # by up to this factor
    reverse_share: float = 0.2  # samples played backwards


class Clips:
    """Decoded sources in memory: videos (T, H, W, 3) and images (H, W, 3), uint8."""

    def __init__(self, config: DataConfig, smallest: int, warn: Callable[[str], None]) -> None:
        self.config = config
        self.videos: list[np.ndarray] = []
        self.images: list[np.ndarray] = []
        self.skipped = 0
        for path in self._files():
            try:
                clip = self._load(path)
            except VidtokError as exc:
                self.skipped += 1
                warn(f"skipped {path.name}: {exc}")
                continue
            if min(clip.shape[1:3]) < smallest:
                self.skipped += 1
                warn(f"skipped {path.name}: {clip.shape[2]}x{clip.shape[1]} is smaller than the {smallest} px crops")
            elif len(clip) == 1:
                self.images.append(clip[0])
            else:
                self.videos.append(clip)
        if not self.videos and not self.images:
            raise ConfigError(f"no usable video or image in {', '.join(config.folders) or '(no folders given)'}")

    def _files(self) -> list[Path]:
        files = [p for folder in self.config.folders for p in sorted(Path(folder).rglob("*")) if p.is_file()]
        return [p for p in files if not p.name.startswith(".") and p.suffix not in (".json", ".md", ".txt")]

    def _load(self, path: Path) -> np.ndarray:
        config = self.config
        key = hashlib.sha256(
            f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns} {config.short_side} "
            f"{config.max_frames}".encode()
        ).hexdigest()[:24]
        cached = Path(config.cache) / f"{key}.npy" if config.cache else None
        if cached and cached.exists():
            return np.load(cached)  # type: ignore[no-any-return]
        with VideoReader(path, resize=Resize.parse(str(config.short_side)), frames=config.max_frames) as reader:
            clip = np.stack([frame.pixels for frame in reader])
        if cached:
            cached.parent.mkdir(parents=True, exist_ok=True)
            part = cached.with_suffix(".tmp.npy")
            np.save(part, clip)
            part.replace(cached)
        return clip

    def batch(self, seed: int, step: int, batch: int, frames: int, size: int) -> Tensor:
        """uint8 (batch, frames, size, size, 3), the same for the same arguments."""
        rng = np.random.default_rng([seed, step])
        return torch.from_numpy(np.stack([self._sample(rng, frames, size) for _ in range(batch)]))

    def _sample(self, rng: np.random.Generator, frames: int, size: int) -> np.ndarray:
        pictures = self.images and (not self.videos or rng.random() < self.config.image_share)
        clip = self._pan(rng, frames, size) if pictures else self._cut(rng, frames, size)
        return clip[:, :, ::-1] if rng.random() < 0.5 else clip

    def _cut(self, rng: np.random.Generator, frames: int, size: int) -> np.ndarray:
        """A random crop of a random stretch, sometimes faster, backwards or seen from further away."""
        config = self.config
        video = self.videos[rng.integers(len(self.videos))]
        stride = 2 if rng.random() < config.double_rate and len(video) > 2 * frames else 1
        span = min(len(video), (frames - 1) * stride + 1)
        window = size
        if rng.random() < config.zoom_share:
            window = min(int(size * rng.uniform(1, config.zoom)), *video.shape[1:3])
        t, y, x = (int(rng.integers(n - m + 1)) for n, m in zip(video.shape, (span, window, window), strict=False))
        clip = video[t : t + span : stride, y : y + window, x : x + window]
        if len(clip) < frames:
            clip = np.concatenate([clip, np.repeat(clip[-1:], frames - len(clip), axis=0)])
        if window != size:
            clip = reduce(clip, size)
        return clip[::-1] if rng.random() < config.reverse_share else clip

    def _pan(self, rng: np.random.Generator, frames: int, size: int) -> np.ndarray:
        """A camera moving at constant speed over a picture, up to 3 pixels a frame each way, or standing."""
        image = self.images[rng.integers(len(self.images))]
        speed = rng.uniform(-3, 3, 2) * (rng.random() < 0.8)
        room = np.array(image.shape[:2]) - size
        path = np.round(np.outer(np.arange(frames), speed)).astype(int)
        path -= path.min(axis=0)
        path = np.minimum(path, room)
        y, x = (int(rng.integers(n + 1)) for n in room - path.max(axis=0))
        return np.stack([image[y + dy : y + dy + size, x + dx : x + dx + size] for dy, dx in path])


def reduce(clip: np.ndarray, size: int) -> np.ndarray:
    """uint8 (T, S, S, 3) -> (T, size, size, 3), bilinear with antialiasing."""
    pixels = torch.from_numpy(np.ascontiguousarray(clip)).permute(0, 3, 1, 2).float()
    small = F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
