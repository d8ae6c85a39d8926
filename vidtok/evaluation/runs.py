"""What codes a clip: a model at one quality, or an ordinary codec at one rate. Both count bytes and decode.

Lower qualities of a model are prefixes of higher ones: where several are asked for, a clip is encoded once, at the
highest, and the file of each is cut from it (`Master`). Its bytes are those that encoding that way would have written.
"""

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
from vidtok.bitstream.repack import choose_entropy, repack
from vidtok.codec import DecodeOptions, EncodeOptions, choose_quality, decode_clips, encode_file, open_source
from vidtok.compare import CLIP_FRAMES, frames_ahead
from vidtok.errors import SourceError
from vidtok.evaluation.codecs import label, parse_codec
from vidtok.evaluation.options import EvalOptions, Progress, Row, Warn
from vidtok.prefetch import prefetch
from vidtok.video.info import Pixels
from vidtok.video.ordinary import OrdinaryOptions, OrdinaryWriter, read_ordinary

Clips = Generator[tuple[Pixels, Sequence[int]]]


@dataclass(frozen=True, kw_only=True)
class Master:
    """A clip encoded once for several qualities: a token file of the highest of them, its ids packed plainly."""

    path: Path
    quality: int
    frames: int
    seconds: float  # from file to file
    raw_bpp: float


@dataclass(kw_only=True)
class Coded:
    """A coded clip: its size in frames, pixels and bytes, and a way to decode it."""

    frames: int
    width: int
    height: int
    file_bytes: int
    seconds: float | None  # from file to coded; None where encoding was shared and of a higher quality
    decode: Callable[[], Clips]  # ((T, H, W, 3), T pts), in order
    row: Row = field(default_factory=dict)  # what only this kind of coder says
    reader: TokenReader | None = None

    @property
    def bpp(self) -> float:
        return self.file_bytes * 8 / (self.frames * self.width * self.height)


class Run(Protocol):
    """One coder at one rate. `head`: the keys that name it in every row; `family`: runs of one family can be coded
    together; `identity`: keys of rows that must be what they are here for a row of an earlier run to be this one's.
    """

    @property
    def name(self) -> str: ...

    @property
    def head(self) -> Row: ...

    @property
    def family(self) -> str: ...

    @property
    def identity(self) -> Row: ...

    @property
    def short(self) -> tuple[str, str]:
        """Words for file names: the coder, and its rate ("": there is one)."""
        ...

    def prepare(self, encode: EncodeOptions) -> None: ...

    def coded(
        self,
        path: Path,
        folder: Path,
        encode: EncodeOptions,
        progress: Progress,
        warn: Warn,
        master: Master | None = None,
    ) -> contextlib.AbstractContextManager[Coded]: ...


@dataclass(frozen=True, kw_only=True)
class ModelRun:
    """A model at one quality; None: the model has one rate."""

    model: str
    quality: int | None
    model_id: str = ""
    prior_id: str | None = None  # of the prior that ids are coded with

    @property
    def name(self) -> str:
        return self.model

    @property
    def head(self) -> Row:
        return {"model": self.model, "quality": self.quality}

    @property
    def family(self) -> str:
        return f"model {self.model}" if self.quality is not None else f"model {self.model}, one rate"

    @property
    def identity(self) -> Row:
        return {"model_id": self.model_id, "prior_id": self.prior_id}

    @property
    def short(self) -> tuple[str, str]:
        return Path(self.model).stem, "" if self.quality is None else f"q{self.quality}"

    def prepare(self, encode: EncodeOptions) -> None:
        """Load the model, so that no clip's speed pays for it."""
        checkpoint.load(self.model, device=encode.device, precision=encode.precision)

    def options(self, encode: EncodeOptions) -> EncodeOptions:
        return replace(encode, model=self.model, quality=self.quality, audio="drop", force=True)

    def master(self, path: Path, folder: Path, encode: EncodeOptions, progress: Progress, warn: Warn) -> Master:
        """The clip at this quality, to cut this and lower ones from."""
        assert self.quality is not None
        target = folder / "master.vtok"
        options = replace(self.options(encode), entropy="raw")
        report = encode_file(path, target, options, progress=progress, warn=warn)
        return Master(
            path=target,
            quality=self.quality,
            frames=report.frames,
            seconds=report.seconds,
            raw_bpp=report.raw_bpp,
        )

    @contextlib.contextmanager
    def coded(
        self,
        path: Path,
        folder: Path,
        encode: EncodeOptions,
        progress: Progress,
        warn: Warn,
        master: Master | None = None,
    ) -> Iterator[Coded]:
        target, encode = folder / "clip.vtok", self.options(encode)
        seconds: float | None
        if master is None:
            report = encode_file(path, target, encode, progress=progress, warn=warn)
            seconds, raw_bpp = report.seconds, report.raw_bpp
        else:
            seconds, raw_bpp = self._cut(master, target, encode)
        with TokenReader(target) as reader:
            header = reader.header
            assert header.width is not None and header.height is not None
            yield Coded(
                frames=reader.frames,
                width=header.width,
                height=header.height,
                file_bytes=target.stat().st_size,
                seconds=seconds,
                decode=lambda: decode_clips(reader, _decode_options(encode)),
                row={
                    "model_id": header.model_id,
                    "entropy_mode": header.entropy,
                    "prior_id": header.prior_id,
                    "raw_bpp": raw_bpp,
                    **({"cut_from": master.quality} if master and seconds is None else {}),
                },
                reader=reader,
            )

    def _cut(self, master: Master, target: Path, encode: EncodeOptions) -> tuple[float | None, float]:
        """This quality out of a master: (seconds from video to file, raw bpp)."""
        assert self.quality is not None
        began = time.perf_counter()
        repack(master.path, target, entropy=encode.entropy, quality=self.quality, force=True)
        whole = master.seconds + time.perf_counter() - began
        return whole if self.quality == master.quality else None, master.raw_bpp * self.quality / master.quality


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
    def family(self) -> str:
        return f"codec {self.name} at {self.options.crf:g}"

    @property
    def identity(self) -> Row:
        return {}

    @property
    def short(self) -> tuple[str, str]:
        return f"{self.options.codec}.{self.options.preset}", f"crf{self.options.crf:g}"

    def prepare(self, encode: EncodeOptions) -> None:
        """Nothing to load."""

    @contextlib.contextmanager
    def coded(
        self,
        path: Path,
        folder: Path,
        encode: EncodeOptions,
        progress: Progress,
        warn: Warn,
        master: Master | None = None,
    ) -> Iterator[Coded]:
        began = time.perf_counter()
        target, pts = folder / "clip.packets", []
        with open_source(path, encode, warn) as video:
            info = video.info
            with OrdinaryWriter(target, self.options, info.width, info.height, info.rate) as writer:
                with closing(prefetch(iter(video), frames_ahead(info.width, info.height))) as frames:
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
        name, path = checkpoint.find_model(model)
        metadata = checkpoint.read_metadata(path)
        config, model_id = checkpoint.model_config(path, metadata), metadata.get("content_id", "")
        _, prior_id = choose_entropy(options.encode.entropy, model_id, name)
        runs += [
            ModelRun(model=model, quality=choose_quality(q, config), model_id=model_id, prior_id=prior_id)
            for q in options.qualities
        ]
    runs += [CodecRun(options=point) for text in options.codecs for point in parse_codec(text)]
    return list(dict.fromkeys(runs))


def families(runs: Sequence[Run]) -> list[list[int]]:
    """Numbers of runs that are coded together, in the order of the first of each family."""
    found: dict[str, list[int]] = {}
    for i, run in enumerate(runs):
        found.setdefault(run.family, []).append(i)
    return list(found.values())


def highest(runs: Sequence[Run]) -> ModelRun | None:
    """The one that the others are cut from; None where each is coded by itself."""
    models = [run for run in runs if isinstance(run, ModelRun) and run.quality is not None]
    return max(models, key=lambda run: run.quality or 0) if len(models) > 1 else None


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
