"""decode_file: TokenReader -> pieces -> DecodeStream -> VideoWriter.

A piece is as many latent frames as go through the network at once. Decoding from the middle starts where the
model says, at most `look_back` latent frames early; from there on frames equal those of a full decode.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from vidtok import checkpoint
from vidtok.bitstream.coding import stored_stages
from vidtok.bitstream.container import Audio, Colour, TokenHeader, TokenReader
from vidtok.codec.options import DecodeOptions, DecodeReport, Progress, StrPath, Warn, set_threads
from vidtok.errors import FormatError, UnknownNameError, UsageError, WrongModelError
from vidtok.model.model import Model
from vidtok.model.stream import DecodeStream
from vidtok.video import VideoWriter

GRAY = 128  # level of spans that are lost


def decode_file(
    source: StrPath | BinaryIO,
    target: StrPath,
    options: DecodeOptions | None = None,
    *,
    progress: Progress | None = None,
    warn: Warn | None = None,
) -> DecodeReport:
    """Decode a token file, or a stream of one, into a video. Errors: FormatError, WrongModelError, OutputError."""
    began = time.perf_counter()
    options = options or DecodeOptions()
    say = warn or (lambda text: None)
    with contextlib.ExitStack() as stack:
        seekable = stack.enter_context(_seekable(source))
        reader = stack.enter_context(TokenReader(seekable, recover=options.skip_damaged))
        for problem in reader.problems:
            say(problem)
        header = _video_header(reader)
        start, stop = frame_range(options.frames, reader.frames)
        whole = (start, stop) == (0, reader.frames)
        audio = None
        if header.audio and options.audio == "copy":
            if whole and Path(target).suffix.lower() in (".mp4", ".mkv"):
                audio = io.BufferedReader(_AudioFile(reader.audio()))
            else:
                say("audio is left out: it is copied only with all frames, into .mp4 or .mkv")
        chroma444 = bool(header.width % 2 or header.height % 2) or "444" in header.source_format
        if chroma444 and Path(target).suffix.lower() in (".mp4", ".mkv"):
            say(
                "written as 4:4:4, "
                + ("since a side is odd" if header.width % 2 or header.height % 2 else "as the source was")
            )
        colour = header.colour or Colour()
        writer = stack.enter_context(
            VideoWriter(
                Path(target),
                width=header.width,
                height=header.height,
                time_base=header.time_base,
                rate=header.fps,
                sample_aspect=Fraction(*header.sample_aspect),
                chroma444=chroma444,
                crf=options.crf,
                audio=audio,
                force=options.force,
                primaries=colour.primaries,
                transfer=colour.transfer,
            )
        )
        damaged: list[int] = []
        done = 0
        with closing(decode_clips(reader, options, damaged=damaged)) as clips:
            for pixels, pts in clips:
                writer.write(pixels, pts)
                done += len(pts)
                if progress:
                    progress(done, stop - start)
        if damaged:
            say(f"damaged chunks are gray: {', '.join(map(str, damaged))}")
        writer.close(reader.last_duration if stop == reader.frames else None)
    return DecodeReport(
        frames=done,
        width=header.width,
        height=header.height,
        seconds=time.perf_counter() - began,
        damaged_chunks=tuple(damaged),
    )


class _VideoHeader(NamedTuple):
    """The fields of a header that a video needs, all of them there."""

    width: int
    height: int
    time_base: Fraction
    fps: Fraction | None
    sample_aspect: tuple[int, int]
    source_format: str
    colour: Colour | None
    audio: Audio | None


def _video_header(reader: TokenReader) -> _VideoHeader:
    h = reader.header
    if h.width is None or h.height is None or h.time_base is None or h.model_id is None:
        raise UsageError("this file holds ids without a video model (imported); `vidtok export` gives them back")
    return _VideoHeader(h.width, h.height, h.time_base, h.fps, h.sample_aspect, h.source_format, h.colour, h.audio)


def frame_range(wanted: tuple[int | None, int | None] | None, frames: int) -> tuple[int, int]:
    """A:B of the command line, half open, either side open -> checked numbers."""
    first, end = wanted or (None, None)
    start, stop = 0 if first is None else first, frames if end is None else end
    if not 0 <= start < stop <= frames:
        raise UsageError(f"--frames {start}:{stop} is not within 0:{frames}, or is empty")
    return start, stop


def load_for(reader: TokenReader, options: DecodeOptions) -> Model:
    """The model that wrote the file, by its name, or the one given; WrongModelError if ids differ."""
    header = reader.header
    name = options.model or header.model_name
    try:
        model = checkpoint.load(name, device=options.device, precision=options.precision)
    except UnknownNameError as exc:
        if options.model:
            raise
        raise WrongModelError(
            f"the file was written by model {header.model_name!r} ({(header.model_id or '')[:12]}), which is not built "
            f"in; give its file with --model"
        ) from exc
    if model.model_id != header.model_id:
        raise WrongModelError(
            f"the file was written by model {header.model_name!r} ({(header.model_id or '')[:12]}), "
            f"{model.name!r} is {model.model_id[:12]}; give the matching --model"
        )
    return model


Clip = tuple[np.ndarray, Sequence[int]]


def decode_clips(
    reader: TokenReader,
    options: DecodeOptions | None = None,
    *,
    damaged: list[int] | None = None,
) -> Generator[Clip]:
    """Clips ((T, H, W, 3) uint8, T pts) of the frames `options.frames` means, in order, a pass at a time.

    Numbers of chunks that could not be read go to `damaged`, their frames are gray (with `skip_damaged`).
    """
    options = options or DecodeOptions()
    set_threads(options.threads)
    header = _video_header(reader)
    model = load_for(reader, options)
    _check_fits(reader.header, model)
    stream = model.decoder(header.height, header.width, options.schedule)
    if stream.grid != (reader.header.grid_height, reader.header.grid_width):
        raise FormatError(f"the grid does not fit frames of {header.width}x{header.height}; the file is damaged")
    start, stop = frame_range(options.frames, reader.frames)
    yield from _Decoding(reader, stream, model, options.skip_damaged, damaged).clips(start, stop)


def _check_fits(header: TokenHeader, model: Model) -> None:
    """FormatError if a header with the model's content id says what no file of that model can."""
    stages = header.vocabularies
    if len(stages) > model.qualities or set(stages) != {model.vocabulary} or header.geometry != model.geometry:
        raise FormatError(
            f"the header says {len(stages)} stages of {max(stages)} ids, strides {header.time_stride} and "
            f"{header.space_stride}; model {model.name!r} has other ones; the file is damaged"
        )


class _Decoding:
    """Ids of a reader through a stream: seeks, look-back, gray spans."""

    def __init__(
        self,
        reader: TokenReader,
        stream: DecodeStream,
        model: Model,
        skip_damaged: bool,
        damaged: list[int] | None,
    ) -> None:
        self.reader, self.stream, self.geometry = reader, stream, model.geometry
        self.first_needed = model.tokenizer.first_needed
        self.skip_damaged = skip_damaged
        self.damaged = damaged if damaged is not None else []
        self.segment_frames = reader.header.segment_frames
        self.segment_latents = self.geometry.latents(self.segment_frames)  # 0: one segment
        self._next: int | None = None  # the latent frame that the stream's state is good for

    def clips(self, start: int, stop: int) -> Iterator[Clip]:
        """Frames [start, stop), from the first latent frame that they depend on."""
        first, last = self.reader.latents_for_frames(start, stop)
        begin = first - self._inside(first) + self.first_needed(self._inside(first))
        pts = self._pts()
        for number in self.reader.chunks_for_latents(begin, last):
            info = self.reader.chunk_info(number)
            a, b = max(begin, info.first_latent), min(last, info.first_latent + info.latents)
            if a != self._next or self._inside(a) == 0:
                self.stream.restart(self._inside(a))
            for frame, pixels in self._chunk(number, a, b):
                low, high = max(start, frame), min(stop, frame + len(pixels))
                if low < high:
                    yield pixels[low - frame : high - frame], pts[low:high]

    def _inside(self, latent: int) -> int:
        """Number of a latent frame within its segment."""
        return latent % self.segment_latents if self.segment_latents else latent

    def _pts(self) -> Sequence[int]:
        return self.reader.all_pts(repair=self.skip_damaged)

    def _chunk(self, number: int, a: int, b: int) -> Iterator[tuple[int, np.ndarray]]:
        """(first frame, frames) of latent frames [a, b) of one chunk, a pass at a time."""
        info = self.reader.chunk_info(number)
        end = info.first_frame + info.frames
        try:
            held = self.reader.read_chunk(number)[a - info.first_latent : b - info.first_latent]
            ids = as_decoded(held, self.reader.header)
        except FormatError:
            if not self.skip_damaged:
                raise
            self.damaged.append(number)
            self._next = None
            yield from self._gray(a, b, end)
            return
        for i in range(a, b, self.stream.latents_per_pass):
            piece = ids[i - a : i - a + self.stream.latents_per_pass]
            frame, _ = self.geometry.span_of_latent(i, self.segment_frames)
            pixels = self.stream.push(piece)
            yield frame, pixels[: end - frame]
        self._next = b

    def _gray(self, a: int, b: int, end: int) -> Iterator[tuple[int, np.ndarray]]:
        for latent in range(a, b):
            frame, after = self.geometry.span_of_latent(latent, self.segment_frames)
            count = min(after, end) - frame
            yield frame, np.full((count, self.stream.height, self.stream.width, 3), GRAY, np.uint8)


def as_decoded(ids: np.ndarray, header: TokenHeader) -> np.ndarray:
    """Ids as a file has them -> as models take them: (t, h, w, K) loses stages not stored, and the axis of one alone.

    See `encode.as_stored`.
    """
    if not header.codebooks:
        return ids
    stages = stored_stages(ids, header)
    return ids[..., 0] if stages == 1 else ids[..., :stages]


@contextlib.contextmanager
def _seekable(source: StrPath | BinaryIO) -> Iterator[StrPath | BinaryIO]:
    """A path as it is; a pipe is kept in a temporary file, so that it can be read like one."""
    if isinstance(source, (str, os.PathLike)) or source.seekable():
        yield source
        return
    with tempfile.SpooledTemporaryFile(max_size=64 << 20) as file:
        while block := source.read(1 << 20):
            file.write(block)
        file.seek(0)
        yield file  # type: ignore[misc]


class _AudioFile(io.RawIOBase):
    """The pieces of the audio stream as one file to read from front to back."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = piece
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count
