"""What encoding and decoding can be told, and what they report."""

from __future__ import annotations

import math
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
    target_bpp: float | None = None  # instead of a quality: at most so many bits per pixel, audio left out
    target_psnr: float | None = None  # instead of a quality: the lowest of each segment that reaches so many dB
    refine: int = 0  # steps of search for better ids, of each latent frame and stage
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
    segment_frames: int | None = None  # 0: one segment; None: 0, or with a target what the model forgets after
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
        if self.refine < 0:
            raise UsageError(f"--refine {self.refine}: 0 or more steps")
        for name, value in (("--target-bpp", self.target_bpp), ("--target-psnr", self.target_psnr)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"{name} {value}: a number above 0")
        if sum(value is not None for value in (self.quality, self.target_bpp, self.target_psnr)) > 1:
            raise UsageError("--quality, --target-bpp and --target-psnr exclude each other; give one of them")
        if (self.segment_frames or 0) < 0:
            raise UsageError(f"--segment-frames {self.segment_frames}: at least 1, or 0 for one segment")

    @property
    def has_target(self) -> bool:
        """Whether qualities are chosen by segment."""
        return self.target_bpp is not None or self.target_psnr is not None

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
    quality: int | None  # stages written, the most of all segments; None: the model has one rate
    file_bytes: int
    audio_bytes: int
    bpp: float
    raw_bpp: float
    dropped_audio: int  # streams
    seconds: float
    qualities: dict[str, int] | None = None  # with a target: how many segments have which
    refined: int | None = None  # with a target and refinement: how many segments were better with it
    psnr: float | None = None  # mean over frames in dB, where a target made it known


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


def highest_quality(options: EncodeOptions, config: ModelConfig) -> int | None:
    """The quality that is encoded, as headers have it: the one asked for, or all there are, to choose from."""
    if not options.has_target:
        return choose_quality(options.quality, config)
    if config.qualities == 1:
        option = "--target-psnr" if options.target_bpp is None else "--target-bpp"
        raise UsageError(f"{option}: this model has one rate, there is nothing to choose; leave it out")
    return config.qualities


def segment_frames(options: EncodeOptions, config: ModelConfig) -> int:
    """Frames of a segment, 0 for one. With a target, where nothing is said: as many as the model remembers at most."""
    if options.segment_frames is not None or not options.has_target:
        return options.segment_frames or 0
    return config.geometry.frames(config.period)


def set_threads(threads: int | None) -> None:
    """How many threads torch may use in this process; None leaves it alone. Never changes results."""
    if threads is not None:
        if threads < 1:
            raise UsageError(f"--threads {threads}: at least 1")
        torch.set_num_threads(threads)
