"""Random clips: which file, which frames, which window, mirrored or not.

A clip is a function of (seed, step, place in the batch) alone. A file that turns out broken is drawn like any
other, and then another one instead: to leave it out would make later clips depend on what was seen before.
"""

from __future__ import annotations

import bisect
import itertools
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vidtok.errors import ConfigError, SourceError
from vidtok.training.data.config import DataConfig
from vidtok.training.data.sources import Found, Media, chances, find
from vidtok.training.data.store import Store

ATTEMPTS = 100  # broken files drawn in a row before that is an error


class Pool:
    """Files of one kind, each with its chance of being drawn."""

    def __init__(self, found: Found, config: DataConfig, wanted: Callable[[Media], bool]) -> None:
        self.files = [media for files in found.by_source for media in files if wanted(media)]
        self._upto = list(itertools.accumulate(chances(found.by_source, config, wanted)))

    def draw(self, rng: np.random.Generator) -> Media:
        return self.files[min(bisect.bisect_right(self._upto, rng.random()), len(self.files) - 1)]


class Clips:
    """Random clips of the files in `config`. ConfigError if there is none with sides of `smallest` pixels or more.

    `warn` gets a line for each file that is skipped or kept in part, when that is found out. May be used by
    several threads.
    """

    def __init__(self, config: DataConfig, smallest: int, warn: Callable[[str], None]) -> None:
        self.config, self._warn = config, warn
        self._lock = threading.Lock()
        self._skipped: dict[str, None] = {}
        self._damaged: dict[str, None] = {}
        found = find(config, smallest)
        for line in found.broken:
            self._note(self._skipped, line, f"skipped {line}")
        self._videos = Pool(found, config, lambda media: media.frames > 1)
        self._images = Pool(found, config, lambda media: media.frames == 1)
        if not self.videos and not self.images:
            names = ", ".join(source.path for source in config.all_sources)
            raise ConfigError(f"no usable video or image in {names or '(no folders given)'}")
        self.store = Store(config, [*self.videos, *self.images], self._note_damaged)

    @property
    def videos(self) -> list[Media]:
        return self._videos.files

    @property
    def images(self) -> list[Media]:
        return self._images.files

    @property
    def skipped(self) -> int:
        """Files that could not be opened, or broke when they were drawn, as far as is known by now."""
        return len(self._skipped)

    @property
    def damaged(self) -> int:
        """Files that broke in the middle and of which the part before is used."""
        return len(self._damaged)

    def fill(self, workers: int | None = None) -> None:
        """Decode every file that is to be kept, now and not when it is drawn."""
        kept = [media for media in {*self.videos, *self.images} if self.store.place(media) != "file"]
        with ThreadPoolExecutor(max(1, self.config.workers if workers is None else workers)) as pool:
            list(pool.map(self._try, sorted(kept, key=lambda media: media.path)))

    def _try(self, media: Media) -> None:
        try:
            self.store.length(media)
        except SourceError as exc:
            self._note_broken(media, exc)

    def batch(self, seed: int, step: int, batch: int, frames: int, size: int) -> Tensor:
        """uint8 (batch, frames, size, size, 3), the same for the same arguments."""
        return torch.from_numpy(np.stack([self.sample(seed, step, i, frames, size) for i in range(batch)]))

    def sample(self, seed: int, step: int, place: int, frames: int, size: int) -> np.ndarray:
        """Clip number `place` of the batch of `step`: uint8 (frames, size, size, 3).

        ConfigError if all files that are drawn are broken.
        """
        rng = np.random.default_rng([seed, step, place])
        for _ in range(ATTEMPTS):
            of_picture = self.images and (not self.videos or rng.random() < self.config.image_share)
            media = (self._images if of_picture else self._videos).draw(rng)
            try:
                clip = self._clip(rng, media, frames, size)
            except SourceError as exc:
                self._note_broken(media, exc)
                continue
            return clip[:, :, ::-1] if rng.random() < 0.5 else clip
        raise ConfigError(f"{ATTEMPTS} files drawn in a row are broken, the last one {media.path.name}")

    def _clip(self, rng: np.random.Generator, media: Media, frames: int, size: int) -> np.ndarray:
        window = draw_window(rng, self.config, size, media.height, media.width)
        clip = self._pan(rng, media, frames, window) if media.frames == 1 else self._cut(rng, media, frames, window)
        return clip if window == (size, size) else scale(clip, size)

    def _cut(self, rng: np.random.Generator, media: Media, frames: int, window: tuple[int, int]) -> np.ndarray:
        """A random window of a random stretch, sometimes faster or backwards; a short video stands at its end."""
        config, length = self.config, self.store.length(media)
        stride = 1
        if config.max_stride > 1 and rng.random() < config.double_rate:
            stride = int(rng.integers(2, config.max_stride + 1))
            stride = max(1, min(stride, (length - 1) // max(1, frames - 1)))
        first = int(rng.integers(max(1, length - (frames - 1) * stride)))
        y, x = (int(rng.integers(n - m + 1)) for n, m in zip((media.height, media.width), window, strict=True))
        backwards = rng.random() < config.reverse_share
        count = min(frames, (length - 1 - first) // stride + 1)
        clip = self.store.read(media, first, count, stride)[:, y : y + window[0], x : x + window[1]]
        if len(clip) < frames:
            clip = np.concatenate([clip, np.repeat(clip[-1:], frames - len(clip), axis=0)])
        return clip[::-1] if backwards else clip

    def _pan(self, rng: np.random.Generator, media: Media, frames: int, window: tuple[int, int]) -> np.ndarray:
        """A camera moving at constant speed over a picture, up to 3 pixels a frame each way, or standing."""
        image = self.store.read(media, 0, 1)[0]
        speed = rng.uniform(-3, 3, 2) * (rng.random() < 0.8)
        room = np.array(image.shape[:2]) - window
        path = np.round(np.outer(np.arange(frames), speed)).astype(int)
        path -= path.min(axis=0)
        path = np.minimum(path, room)
        y, x = (int(rng.integers(n + 1)) for n in room - path.max(axis=0))
        return np.stack([image[y + dy : y + dy + window[0], x + dx : x + dx + window[1]] for dy, dx in path])

    def _note_broken(self, media: Media, exc: SourceError) -> None:
        self._note(self._skipped, str(media.path), f"skipped {media.path.name}: {exc}")

    def _note_damaged(self, media: Media) -> None:
        self._note(self._damaged, str(media.path), f"{media.path.name} is damaged; what decodes of it is used")

    def _note(self, known: dict[str, None], key: str, words: str) -> None:
        with self._lock:
            if key not in known:
                known[key] = None
                self._warn(words)


def draw_window(rng: np.random.Generator, config: DataConfig, size: int, height: int, width: int) -> tuple[int, int]:
    """(height, width) of what becomes size x size: zoomed by zoom_min..zoom, squeezed in one direction by 1..aspect.

    Evenly in the logarithm; never larger than the picture of height x width, whose sides are `size` or more.
    """
    zoom = squeeze = 1.0
    if rng.random() < config.zoom_share:
        zoom = math.exp(rng.uniform(math.log(config.zoom_min), math.log(config.zoom)))
    if rng.random() < config.aspect_share:
        squeeze = math.exp(rng.uniform(-math.log(config.aspect), math.log(config.aspect)))
    sides = size * zoom * max(1, squeeze), size * zoom * max(1, 1 / squeeze)
    return min(height, max(1, int(sides[0]))), min(width, max(1, int(sides[1])))


def scale(clip: np.ndarray, size: int) -> np.ndarray:
    """uint8 (T, H, W, 3) -> (T, size, size, 3), bilinear, averaging where it shrinks."""
    pixels = torch.from_numpy(np.ascontiguousarray(clip)).permute(0, 3, 1, 2)
    # uint8 in channels-last order has a kernel of its own, ten times as fast as float and within 1 of it
    return F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True).permute(0, 2, 3, 1).numpy()
