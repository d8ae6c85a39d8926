"""What codes a clip: a model at one quality, or an ordinary codec at one rate. Both count bytes and decode."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from vidtok import checkpoint
from vidtok.bitstream.container import TokenReader
from vidtok.codec import DecodeOptions, EncodeOptions, choose_quality, decode_clips, encode_file, open_source
from vidtok.compare import CLIP_FRAMES
from vidtok.errors import SourceError
from vidtok.evaluation.codecs import label, parse_codec
from vidtok.evaluation.options import EvalOptions, Progress, Row, Warn
from vidtok.prefetch import prefetch
from vidtok.video.info import Pixels
from vidtok.video.ordinary import OrdinaryOptions, OrdinaryWriter, read_ordinary

Clips = Generator[tuple[Pixels, Sequence[int]]]
AHEAD = 2 * CLIP_FRAMES


@dataclass(kw_only=True)
class Coded:
    """A coded clip: its size in frames, pixels and bytes, and a way to decode it."""

    frames: int
    width: int
    height: int
    file_bytes: int
    seconds: float  # from file to coded
    decode: Callable[[], Clips]  # ((T, H, W, 3), T pts), in order
    row: Row = field(default_factory=dict)  # what only this kind of coder says
    reader: TokenReader | None = None

    @property
    def bpp(self) -> float:
        return self.file_bytes * 8 / (self.frames * self.width * self.height)


class Run(Protocol):
    """One coder at one rate. `head`: the keys that name it in every row."""

    @property
    def name(self) -> str: ...

    @property
    def head(self) -> Row: ...

    @property
    def short(self) -> tuple[str, str]:
        """Words for file names: the coder, and its rate ("": there is one)."""
        ...

    def prepare(self, encode: EncodeOptions) -> None: ...

    def coded(
        self, path: Path, folder: Path, encode: EncodeOptions, progress: Progress, warn: Warn
    ) -> contextlib.AbstractContextManager[Coded]: ...


@dataclass(frozen=True, kw_only=True)
class ModelRun:
    """A model at one quality; None: the model has one rate."""

    model: str
    quality: int | None

    @property
    def name(self) -> str:
        return self.model

    @property
    def head(self) -> Row:
        return {"model": self.model, "quality": self.quality}

    @property
    def short(self) -> tuple[str, str]:
        return Path(self.model).stem, "" if self.quality is None else f"q{self.quality}"

    def prepare(self, encode: EncodeOptions) -> None:
        """Load the model, so that no clip's speed pays for it."""
        checkpoint.load(self.model, device=encode.device, precision=encode.precision)

    @contextlib.contextmanager
    def coded(
        self, path: Path, folder: Path, encode: EncodeOptions, progress: Progress, warn: Warn
    ) -> Iterator[Coded]:
        target = folder / "clip.vtok"
        encode = replace(encode, model=self.model, quality=self.quality, audio="drop", force=True)
        report = encode_file(path, target, encode, progress=progress, warn=warn)
        with TokenReader(target) as reader:
            yield Coded(
                frames=report.frames,
                width=report.width,
                height=report.height,
                file_bytes=report.file_bytes,
                seconds=report.seconds,
                decode=lambda: decode_clips(reader, _decode_options(encode)),
                row={"model_id": reader.header.model_id, "raw_bpp": report.raw_bpp},
                reader=reader,
            )


@dataclass(frozen=True, kw_only=True)
class CodecRun:
    """An ordinary codec at one rate; `quality` of its rows is the crf, where less is better."""

    options: OrdinaryOptions

    @property
    def name(self) -> str:
        return label(self.options)

    @property
    def head(self) -> Row:
        return {"codec": self.name, "quality": self.options.crf}

    @property
    def short(self) -> tuple[str, str]:
        return f"{self.options.codec}.{self.options.preset}", f"crf{self.options.crf:g}"

    def prepare(self, encode: EncodeOptions) -> None:
        """Nothing to load."""

    @contextlib.contextmanager
    def coded(
        self, path: Path, folder: Path, encode: EncodeOptions, progress: Progress, warn: Warn
    ) -> Iterator[Coded]:
        began = time.perf_counter()
        target, pts = folder / "clip.packets", []
        with open_source(path, encode, warn) as video:
            info = video.info
            with OrdinaryWriter(target, self.options, info.width, info.height, info.rate) as writer:
                with closing(prefetch(iter(video), AHEAD)) as frames:
                    for frame in frames:
                        writer.write(frame.pixels)
                        pts.append(frame.pts)
                        progress(len(pts), info.frames_hint)
                size = writer.finish()
        yield Coded(
            frames=len(pts),
            width=info.width,
            height=info.height,
            file_bytes=size,
            seconds=time.perf_counter() - began,
            decode=lambda: _with_pts(read_ordinary(target, writer), pts, path),
            row={"crf": self.options.crf, "preset": self.options.preset},
        )


def _with_pts(frames: Iterator[Pixels], pts: Sequence[int], path: Path) -> Clips:
    done = 0
    while batch := list(itertools.islice(frames, CLIP_FRAMES)):
        yield np.stack(batch), pts[done : done + len(batch)]
        done += len(batch)
    if done != len(pts):
        raise SourceError(f"{str(path)!r}: {done} of {len(pts)} frames came back from the codec")


def make_runs(options: EvalOptions) -> list[Run]:
    """Models with their qualities, then codecs with their rates; unknown names and qualities stop everything."""
    runs: list[Run] = []
    for model in options.models:
        _, path = checkpoint.find_model(model)
        config = checkpoint.model_config(path, checkpoint.read_metadata(path))
        runs += [ModelRun(model=model, quality=choose_quality(q, config)) for q in options.qualities]
    runs += [CodecRun(options=point) for text in options.codecs for point in parse_codec(text)]
    return list(dict.fromkeys(runs))


def _decode_options(e: EncodeOptions) -> DecodeOptions:
    return DecodeOptions(
        model=e.model,
        device=e.device,
        precision=e.precision,
        threads=e.threads,
        chunk_frames=e.chunk_frames,
        tile=e.tile,
        batch=e.batch,
        audio="drop",
    )
