"""From folders and lists to Media: which files there are, which of them open, how long and large they are."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from vidtok.errors import ConfigError, SourceError, VidtokError
from vidtok.training.data.config import DataConfig, SourceConfig
from vidtok.video import Resize, VideoReader
from vidtok.video.beside import BesideFile

ASSUMED_RATE = Fraction(25)
LISTS = (".txt",)
_NO_MEDIA = {".json", ".jsonl", ".md", ".csv", ".tsv", ".npy", ".npz", ".zip", *LISTS}


@dataclass(frozen=True)
class Media:
    """A file that opens. Height and width after the reduction to `short_side`; `frames` 1: a picture.

    `key` names its decoded frames: it changes with the file (size, time of change) and with how it is decoded.
    """

    path: Path
    key: str
    frames: int  # announced, or counted where nothing is; at most max_frames
    height: int
    width: int
    rate: Fraction  # frames per second

    @property
    def decoded_bytes(self) -> int:
        return self.frames * self.height * self.width * 3


@dataclass(frozen=True)
class Found:
    """What the sources hold: usable files by source, and a line for each one that is not."""

    by_source: list[list[Media]]
    broken: list[str]


def find(config: DataConfig, smallest: int) -> Found:
    """Open every file once, in threads. Broken ones, and those smaller than `smallest` pixels, are told, not raised.

    ConfigError for a source that is not there. What was learned stays in the cache folder for the next run.
    """
    listed = [list(_files(source)) for source in config.all_sources]
    paths = list(dict.fromkeys(path for files in listed for path in files))
    with _Index(config) as index, ThreadPoolExecutor(max(1, config.workers)) as pool:
        opened = dict(zip(paths, pool.map(index.look_up, paths), strict=True))
    broken = []
    for path, media in opened.items():
        if isinstance(media, str):
            broken.append(f"{path.name}: {media}")
        elif min(media.height, media.width) < smallest:
            broken.append(f"{path.name}: {media.width}x{media.height} is smaller than the {smallest} px crops")
    usable = {
        path: media
        for path, media in opened.items()
        if isinstance(media, Media) and min(media.height, media.width) >= smallest
    }
    return Found([[usable[path] for path in files if path in usable] for files in listed], broken)


def _files(source: SourceConfig) -> Iterator[Path]:
    """The files that a source names, in an order that depends on names alone."""
    path = Path(source.path).expanduser()
    if path.is_dir():
        yield from _within(path)
    elif not path.is_file():
        raise ConfigError(f"there is no folder, list or file {source.path!r} to train on")
    elif path.suffix.lower() in LISTS:
        yield from _listed(path)
    else:
        yield path


def _within(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.suffix.lower() not in _NO_MEDIA and path.is_file():
            yield path


def _listed(path: Path) -> Iterator[Path]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"the list {str(path)!r} cannot be read: {exc}") from exc
    for line in map(str.strip, lines):
        if line and not line.startswith("#"):
            entry = path.parent / Path(line).expanduser()
            yield from _within(entry) if entry.is_dir() else [entry]


class _Index:
    """Looks files up; with a cache folder it remembers them in `index.json`, by key."""

    def __init__(self, config: DataConfig) -> None:
        self._config = config
        self._path = Path(config.cache) / "index.json" if config.cache else None
        self._known: dict[str, list[int | str]] = {}
        self._asked: dict[str, list[int | str]] = {}

    def __enter__(self) -> _Index:
        if self._path and self._path.exists():
            with contextlib.suppress(OSError, ValueError, TypeError):  # it only saves time
                entries = dict(json.loads(self._path.read_bytes()))
                self._known = {key: entry for key, entry in entries.items() if len(entry) == 4}
        return self

    def __exit__(self, *_: object) -> None:
        if self._path and not self._asked.keys() <= self._known.keys():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = BesideFile(self._path, force=True)
            file.file.write(json.dumps(self._known | self._asked).encode())
            file.commit()

    def look_up(self, path: Path) -> Media | str:
        """Media, or the words for what is wrong with the file."""
        try:
            key = media_key(path, self._config)
            entry = self._known.get(key) or _measure(path, self._config)
            frames, height, width, rate = entry
        except (VidtokError, OSError, ValueError, TypeError) as exc:
            return " ".join(str(exc).split())
        self._asked[key] = entry
        return Media(path, key, int(frames), int(height), int(width), Fraction(rate))


def media_key(path: Path, config: DataConfig) -> str:
    """24 hex digits that stand for the file as it is now and for how it is decoded; SourceError if it is not there."""
    try:
        stat = path.stat()
    except OSError as exc:
        raise SourceError(f"cannot read {str(path)!r}: {exc.strerror}") from exc
    text = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {config.short_side} {config.max_frames}"
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _measure(path: Path, config: DataConfig) -> list[int | str]:
    """[frames, height, width, rate] of a file, from its header and first frame."""
    most = config.max_frames or None
    with VideoReader(path, resize=resize(config), warn=_quiet) as reader:
        info = reader.info
        frames = info.frames_hint or 0
        if frames <= 1:  # headers of pictures say nothing, or anything
            frames = sum(1 for _ in itertools.islice(reader, most))
        frames = min(frames, most or frames)
        return [frames, info.height, info.width, str(info.rate or ASSUMED_RATE)]


def resize(config: DataConfig) -> Resize:
    return Resize(short=config.short_side)


def read_frames(
    media: Media, config: DataConfig, first: int = 0, count: int | None = None, stride: int = 1
) -> tuple[np.ndarray, bool]:
    """(uint8 (T, H, W, 3), whole): every `stride`-th of `count` frames from frame `first` on.

    A file that breaks on the way gives what came before, and whole is False; SourceError if that is less than
    `min_frames`, or nothing at all. Begins by seeking, so `first` counts at the nominal rate.
    """
    wanted = media.frames - first if count is None else count
    pixels: list[np.ndarray] = []
    decoded, broke = 0, None
    try:
        start = float(first / media.rate)
        with VideoReader(media.path, resize=resize(config), start=start, frames=wanted, warn=_quiet) as reader:
            for frame in reader:
                if decoded % stride == 0:
                    pixels.append(frame.pixels)
                decoded += 1
    except SourceError as exc:
        broke = exc
    if decoded < min(config.min_frames, wanted):
        raise broke or SourceError(f"{decoded} of {wanted} frames could be decoded; {config.min_frames} are wanted")
    return np.stack(pixels), decoded == wanted


def chances(by_source: Iterable[list[Media]], config: DataConfig, wanted: Callable[[Media], bool]) -> list[float]:
    """The chance of each wanted file, in the order of the sources; they add up to 1."""
    weights = []
    for files, source in zip(by_source, config.all_sources, strict=True):
        number = sum(map(wanted, files))
        each = source.weight if config.weight_per == "file" else source.weight / max(1, number)
        weights += [each] * number
    total = sum(weights)
    return [weight / total for weight in weights]


def _quiet(words: str) -> None:
    """What a reader notes about a file does not matter here."""
