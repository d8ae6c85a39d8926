"""Frames of a Media: decoded once into .npy files that are mapped, or into memory, or on the fly by seeking."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from vidtok.errors import SourceError
from vidtok.training.data.config import DataConfig
from vidtok.training.data.sources import Media, read_frames
from vidtok.video.beside import BesideFile

LARGEST = 2 << 30  # bytes; a decoded file above that is always read on the fly


class Store:
    """Where frames come from. Which file is kept where follows from the sizes alone: small ones first.

    May be used by several threads; a file is decoded by one of them, and the others wait for it.
    """

    def __init__(self, config: DataConfig, files: Iterable[Media], damaged: Callable[[Media], None]) -> None:
        self._config, self._damaged = config, damaged
        self._memory: dict[str, np.ndarray] = {}
        self._failed: dict[str, str] = {}
        self._place: dict[str, str] = {}
        room = {"disk": config.cache_mb * 10**6 if config.cache else 0, "memory": config.memory_mb * 10**6}
        for media in sorted(set(files), key=lambda media: (media.decoded_bytes, media.key)):
            size = media.decoded_bytes
            place = next((name for name, left in room.items() if size <= min(left, LARGEST)), "file")
            if place != "file":
                room[place] -= size
            self._place[media.key] = place
        self._locks = {key: threading.Lock() for key in self._place}

    def place(self, media: Media) -> str:
        """One of "disk", "memory" and "file", which is decoded whenever it is read."""
        return self._place[media.key]

    def length(self, media: Media) -> int:
        """Frames that can be read; decodes the file if it is one to keep. SourceError if it is broken."""
        return media.frames if self.place(media) == "file" else len(self._kept(media))

    def read(self, media: Media, first: int, count: int, stride: int = 1) -> np.ndarray:
        """uint8 (T, H, W, 3), maybe a view: frames first, first + stride, ...; T = count unless the file breaks before.

        SourceError if too little of the file can be decoded.
        """
        span = (count - 1) * stride + 1
        if self.place(media) != "file":
            return self._kept(media)[first : first + span : stride]
        frames, whole = read_frames(media, self._config, first, span, stride)
        if not whole:
            self._damaged(media)
        return frames

    def _kept(self, media: Media) -> np.ndarray:
        """All frames, from memory or mapped from the disk; decoded now if they never were."""
        with self._locks[media.key]:
            if media.key in self._failed:
                raise SourceError(self._failed[media.key])
            if self.place(media) == "disk":
                return self._on_disk(media)
            if media.key not in self._memory:
                self._memory[media.key] = self._decode(media)
            return self._memory[media.key]

    def _on_disk(self, media: Media) -> np.ndarray:
        path = Path(self._config.cache) / f"{media.key}.npy"
        try:
            frames: np.ndarray = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError):
            frames = self._decode(media)
            save_array(path, frames)
        return frames[: media.frames]

    def _decode(self, media: Media) -> np.ndarray:
        try:
            frames, whole = read_frames(media, self._config)
        except SourceError as exc:
            self._failed[media.key] = str(exc)
            raise
        if not whole:
            self._damaged(media)
        return frames


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an .npy file beside `path` and rename it; OutputError if the disk will not have it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = BesideFile(path, force=True)
    try:
        np.save(file.file, array)
    except BaseException:
        file.discard()
        raise
    file.commit()
