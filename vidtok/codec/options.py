"""What encoding and decoding can be told, and what they report."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from vidtok.bitstream.header import ENTROPY
from vidtok.errors import UnknownNameError, UsageError
from vidtok.model.stream import Schedule
from vidtok.model.tokenizer import ModelConfig

StrPath = str | os.PathLike[str]
Progress = Callable[[int, int | None], None]
Warn = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """What `vidtok encode` can be told; see DESIGN and `vidtok encode --help`."""

    model: StrPath = "default"
    quality: int | None = None  # stages kept, 1 = fewest bits; None: the model's default
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    entropy: str = "auto"
    resize: str | None = None
    enlarge: bool = False
    fps: str | None = None
    start: float = 0.0
    frames: int | None = None
    chunk_frames: int | None = None
    tile: int | None = None
    batch: int = 1
    segment_frames: int = 0
    audio: str = "drop"
    strict: bool = False
    max_pixels: int = 2**28
    force: bool = False

    def __post_init__(self) -> None:
        if self.entropy not in ("auto", *ENTROPY):
            raise UnknownNameError("entropy mode", self.entropy, ["auto", *ENTROPY])
        if self.audio not in ("copy", "drop"):
            raise UnknownNameError("audio mode", self.audio, ["copy", "drop"])
        if self.quality is not None and self.quality < 1:
            raise UsageError(f"--quality {self.quality}: at least 1")
        if self.segment_frames < 0:
            raise UsageError(f"--segment-frames {self.segment_frames}: at least 1, or 0 for one segment")

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.chunk_frames, self.tile, self.batch)


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """What `vidtok decode` can be told. `model` None: the one that the file names."""

    model: StrPath | None = None
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    frames: tuple[int | None, int | None] | None = None
    chunk_frames: int | None = None
    tile: int | None = None
    batch: int = 1
    skip_damaged: bool = False
    audio: str = "copy"
    crf: float = 16
    force: bool = False

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.chunk_frames, self.tile, self.batch)


@dataclass(frozen=True, kw_only=True)
class EncodeReport:
    frames: int
    width: int
    height: int
    quality: int | None  # stages written; None: the model has one rate
    file_bytes: int
    audio_bytes: int
    bpp: float
    raw_bpp: float
    dropped_audio: int  # streams
    seconds: float


@dataclass(frozen=True, kw_only=True)
class DecodeReport:
    frames: int
    width: int
    height: int
    seconds: float
    damaged_chunks: tuple[int, ...]


def choose_quality(wanted: int | None, config: ModelConfig) -> int | None:
    """The quality to encode with, as headers have it: None where the model has one rate. UsageError out of range."""
    quality = config.check_quality(wanted)
    return quality if config.qualities > 1 else None


def set_threads(threads: int | None) -> None:
    """How many threads torch may use in this process; None leaves it alone. Never changes results."""
    if threads is not None:
        if threads < 1:
            raise UsageError(f"--threads {threads}: at least 1")
        torch.set_num_threads(threads)
