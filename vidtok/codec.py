"""A video into a token file and back: the story on three screens.

encode_file  VideoReader -> pieces -> EncodeStream -> TokenWriter
decode_file  TokenReader -> pieces -> DecodeStream -> VideoWriter

Pieces are as many frames as go through the network at once, and end where a stored chunk or a segment ends;
how long they are never changes a result. Reading runs a piece ahead in its own thread.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch

from vidtok import checkpoint
from vidtok.bitstream.container import Audio, Chunk, Colour, TokenHeader, TokenReader, TokenWriter
from vidtok.errors import FormatError, TooLargeError, UnknownNameError, UsageError, WrongModelError
from vidtok.geometry import Geometry
from vidtok.model.model import Model
from vidtok.model.stream import DecodeStream, Schedule
from vidtok.prefetch import prefetch
from vidtok.video import Resize, VideoInfo, VideoReader, VideoWriter

CHUNK_LATENTS = 16  # latent frames stored together
MAX_SIDE = 65535  # pixels, of the format
ENTROPY_MODES = ("auto", "raw", "lzma", "adaptive", "prior")
GRAY = 128  # level of spans that are lost

StrPath = str | os.PathLike[str]
Progress = Callable[[int, int | None], None]
Warn = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """What `vidtok encode` can be told; see DESIGN and `vidtok encode --help`."""

    model: StrPath = "default"
    quality: int | None = None
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
        if self.entropy not in ENTROPY_MODES:
            raise UnknownNameError("entropy mode", self.entropy, ENTROPY_MODES)
        if self.entropy not in ("auto", "raw"):
            raise UsageError(f"--entropy {self.entropy} is not built yet; raw and auto are")
        if self.audio not in ("copy", "drop"):
            raise UnknownNameError("audio mode", self.audio, ["copy", "drop"])
        if self.quality not in (None, 1):
            raise UsageError(f"--quality {self.quality}: this model has one rate, quality 1")
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
    file_bytes: int
    audio_bytes: int
    bpp: float
    raw_bpp: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class DecodeReport:
    frames: int
    width: int
    height: int
    seconds: float
    damaged_chunks: tuple[int, ...]


def set_threads(threads: int | None) -> None:
    """How many threads torch may use in this process; None leaves it alone. Never changes results."""
    if threads is not None:
        if threads < 1:
            raise UsageError(f"--threads {threads}: at least 1")
        torch.set_num_threads(threads)


# --- encode -----------------------------------------------------------------------------------------


class Piece(NamedTuple):
    """Frames that are encoded together. `audio` holds what was copied up to the end of a stored chunk."""

    pixels: np.ndarray  # (T, H, W, 3) uint8
    pts: list[int]
    ends_segment: bool
    audio: bytes


def encode_file(
    source: StrPath, target: StrPath | BinaryIO, options: EncodeOptions = EncodeOptions(), *,  # noqa: B008
    progress: Progress | None = None, warn: Warn | None = None,
) -> EncodeReport:
    """Encode the video at `source` into a token file. Errors: SourceError, OutputError, ModelError and kinds."""
    began = time.perf_counter()
    set_threads(options.threads)
    model = checkpoint.load(options.model, device=options.device, precision=options.precision)
    with open_source(source, options, warn) as video:
        header = make_header(model, video, options)
        if warn and video.info.audio_streams and options.audio == "drop":
            warn("audio is dropped; --audio copy keeps it")
        stream = model.encoder(video.info.height, video.info.width, options.schedule)
        with TokenWriter(target, header, force=options.force) as sink:
            done, total = 0, _expected_frames(video, options)
            pieces = _pieces(video, header, stream.latents_per_pass)
            with closing(prefetch(pieces)) as ahead:
                for piece in ahead:
                    sink.write(stream.push(piece.pixels), piece.pts)
                    if piece.ends_segment:
                        sink.write(stream.flush())
                    if piece.audio:
                        sink.write_audio(piece.audio)
                    done += len(piece.pts)
                    if progress:
                        progress(done, total)
            if not header.segment_frames or done % header.segment_frames:
                sink.write(stream.flush())
            if header.audio and (rest := video.take_audio()):
                sink.write_audio(rest)
            sink.finish(damaged_source=video.damaged, last_duration=video.last_duration)
    pixels = done * video.info.width * video.info.height
    return EncodeReport(
        frames=done, width=video.info.width, height=video.info.height, file_bytes=sink.position,
        audio_bytes=sink.audio_bytes, bpp=(sink.position - sink.audio_bytes) * 8 / pixels,
        raw_bpp=float(np.log2(model.vocabulary)) / (model.geometry.time * model.geometry.space**2),
        seconds=time.perf_counter() - began,
    )


def open_source(source: StrPath, options: EncodeOptions, warn: Warn | None = None) -> VideoReader:
    """The frames that these options mean, for whoever needs the same frames again."""
    reader = VideoReader(
        Path(source), resize=Resize.parse(options.resize, options.enlarge) if options.resize else None,
        fps=parse_rate(options.fps), start=options.start, frames=options.frames, max_pixels=options.max_pixels,
        strict=options.strict, audio=options.audio == "copy", warn=warn or (lambda text: None),
    )
    if max(reader.info.width, reader.info.height) > MAX_SIDE:
        reader.close()
        raise TooLargeError(f"frames of {reader.info.width}x{reader.info.height}: sides are at most {MAX_SIDE}")
    return reader


def parse_rate(text: str | None) -> Fraction | None:
    """'30000/1001', '29.97' or None -> frames per second."""
    if text is None:
        return None
    try:
        rate = Fraction(str(text))
    except (ValueError, ZeroDivisionError) as exc:
        raise UsageError(f"--fps {text}: a number or a fraction such as 30000/1001") from exc
    if not 0 < rate <= 1_000_000:
        raise UsageError(f"--fps {text}: above 0 and at most 1000000")
    return rate


def make_header(model: Model, video: VideoReader, options: EncodeOptions) -> TokenHeader:
    """All that the file says of model and source."""
    info = video.info
    grid = model.geometry.grid(info.height, info.width)
    step = 1 / (info.rate * info.time_base) if info.rate else Fraction(0)
    return TokenHeader(
        grid_height=grid[0], grid_width=grid[1], vocabulary=model.vocabulary, digits=model.digits,
        model_name=model.name, model_id=model.model_id, time_stride=model.geometry.time,
        space_stride=model.geometry.space, width=info.width, height=info.height, chunk_latents=CHUNK_LATENTS,
        segment_frames=options.segment_frames, look_back=model.look_back, entropy="raw",
        device=model.device.type, precision=model.precision, source_width=info.source_width,
        source_height=info.source_height, rotation=info.rotation % 360, mirrored=info.mirrored,
        sample_aspect=(info.sample_aspect.numerator, info.sample_aspect.denominator),
        colour=_colour(info), source_format=info.pixel_format, bit_depth=info.bit_depth,
        alpha_composited=info.alpha, time_base=info.time_base,
        frame_step=int(step) if step.denominator == 1 else 0, fps=info.rate,
        audio=Audio("nut", ", ".join(info.audio_streams)) if options.audio == "copy" and info.audio_streams else None,
    )


def _colour(info: VideoInfo) -> Colour:
    c = info.colour
    return Colour(int(c.matrix), int(c.range), int(c.primaries), int(c.transfer), c.guessed)


def _expected_frames(video: VideoReader, options: EncodeOptions) -> int | None:
    hint = video.info.frames_hint
    return options.frames if hint is None else min(hint, options.frames or hint)


def _pieces(video: VideoReader, header: TokenHeader, latents_per_pass: int) -> Iterator[Piece]:
    """Cut the video where a pass, a stored chunk or a segment is full."""
    frames, geometry = iter(video), header.geometry
    inside = 0  # frames of the running segment
    while True:
        latents = geometry.latents(inside)
        chunk_end = (latents // header.chunk_latents + 1) * header.chunk_latents
        end = geometry.frames(min(latents + latents_per_pass, chunk_end))
        if header.segment_frames:
            end = min(end, header.segment_frames)
        batch = list(itertools.islice(frames, end - inside))
        if not batch:
            return
        inside += len(batch)
        stored = inside == geometry.frames(chunk_end)
        ends_segment = inside == header.segment_frames
        audio = video.take_audio() if header.audio and (stored or ends_segment) else b""
        yield Piece(np.stack([f.pixels for f in batch]), [f.pts for f in batch], ends_segment, audio)
        if ends_segment:
            inside = 0


def estimate_file(source: StrPath, options: EncodeOptions) -> dict[str, Any]:
    """What encoding would give, from the source's own words: size, and frames and bytes where they are known."""
    _, path = checkpoint.find_model(options.model)
    config = checkpoint.model_config(path, checkpoint.read_metadata(path))
    with open_source(source, options) as video:
        h, w = config.geometry.grid(video.info.height, video.info.width)
        frames = _expected_frames(video, options)
        result: dict[str, Any] = {"width": video.info.width, "height": video.info.height}
    if frames:
        bits = max(1, (config.vocabulary - 1).bit_length())
        result |= {
            "frames": frames,
            "bytes": config.geometry.total_latents(frames, options.segment_frames) * h * w * bits // 8,
        }
    return result


# --- decode -----------------------------------------------------------------------------------------


def decode_file(
    source: StrPath | BinaryIO, target: StrPath, options: DecodeOptions = DecodeOptions(), *,  # noqa: B008
    progress: Progress | None = None, warn: Warn | None = None,
) -> DecodeReport:
    """Decode a token file, or a stream of one, into a video. Errors: FormatError, WrongModelError, OutputError."""
    began = time.perf_counter()
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
            say("written as 4:4:4, " + ("since a side is odd" if header.width % 2 or header.height % 2 else "as the source was"))
        colour = header.colour or Colour()
        writer = stack.enter_context(VideoWriter(
            target, width=header.width, height=header.height, time_base=header.time_base, rate=header.fps,
            sample_aspect=Fraction(*header.sample_aspect), chroma444=chroma444, crf=options.crf, audio=audio,
            force=options.force, primaries=colour.primaries, transfer=colour.transfer,
        ))
        damaged: list[int] = []
        done = 0
        with closing(decode_clips(reader, options, damaged=damaged, warn=say)) as clips:
            for pixels, pts in clips:
                writer.write(pixels, pts)
                done += len(pts)
                if progress:
                    progress(done, stop - start)
        if damaged:
            say(f"damaged chunks are gray: {', '.join(map(str, damaged))}")
        writer.close(reader.last_duration if stop == reader.frames else None)
    return DecodeReport(
        frames=done, width=header.width, height=header.height, seconds=time.perf_counter() - began,
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
    reader: TokenReader, options: DecodeOptions = DecodeOptions(), *,  # noqa: B008
    damaged: list[int] | None = None, warn: Warn | None = None,
) -> Iterator[Clip]:
    """Clips ((T, H, W, 3) uint8, T pts) of the frames `options.frames` means, in order, a pass at a time.

    Numbers of chunks that could not be read go to `damaged`, their frames are gray (with `skip_damaged`).
    """
    set_threads(options.threads)
    header = _video_header(reader)
    model = load_for(reader, options)
    stream = model.decoder(header.height, header.width, options.schedule)
    if stream.grid != (reader.header.grid_height, reader.header.grid_width):
        raise FormatError(f"the grid does not fit frames of {header.width}x{header.height}; the file is damaged")
    start, stop = frame_range(options.frames, reader.frames)
    yield from _Decoding(reader, stream, model.geometry, options.skip_damaged, damaged).clips(start, stop)


class _Decoding:
    """Ids of a reader through a stream: seeks, look-back, gray spans."""

    def __init__(
        self, reader: TokenReader, stream: DecodeStream, geometry: Geometry, skip_damaged: bool,
        damaged: list[int] | None,
    ) -> None:
        self.reader, self.stream, self.geometry = reader, stream, geometry
        self.skip_damaged = skip_damaged
        self.damaged = damaged if damaged is not None else []
        self.segment_frames = reader.header.segment_frames

    def clips(self, start: int, stop: int) -> Iterator[Clip]:
        """Frames [start, stop), from the first latent frame that they depend on."""
        first, last = self.reader.latents_for_frames(start, stop)
        segment, _ = self.geometry.locate_frame(start, self.segment_frames)
        segment_start = segment * self.geometry.latents(self.segment_frames) if self.segment_frames else 0
        begin = max(segment_start, first - self.reader.header.look_back)
        at_start = begin == segment_start
        self.stream.reset() if at_start else self.stream.resume()
        previous = segment
        pts = self._pts()
        for number in self.reader.chunks_for_latents(begin, last):
            info = self.reader.chunk_info(number)
            if info.segment != previous:
                self.stream.reset()
                previous = info.segment
            a, b = max(begin, info.first_latent), min(last, info.first_latent + info.latents)
            for frame, pixels in self._chunk(number, a, b):
                low, high = max(start, frame), min(stop, frame + len(pixels))
                if low < high:
                    yield pixels[low - frame : high - frame], pts[low:high]

    def _pts(self) -> Sequence[int]:
        return self.reader.all_pts(repair=self.skip_damaged)

    def _chunk(self, number: int, a: int, b: int) -> Iterator[tuple[int, np.ndarray]]:
        """(first frame, frames) of latent frames [a, b) of one chunk, a pass at a time."""
        info = self.reader.chunk_info(number)
        end = info.first_frame + info.frames
        try:
            ids = self.reader.read_chunk(number)[a - info.first_latent : b - info.first_latent]
        except FormatError:
            if not self.skip_damaged:
                raise
            self.damaged.append(number)
            yield from self._gray(a, b, end)
            self.stream.resume()
            return
        for i in range(a, b, self.stream.latents_per_pass):
            piece = ids[i - a : i - a + self.stream.latents_per_pass]
            frame, _ = self.geometry.span_of_latent(i, self.segment_frames)
            pixels = self.stream.push(piece)
            yield frame, pixels[: end - frame]

    def _gray(self, a: int, b: int, end: int) -> Iterator[tuple[int, np.ndarray]]:
        for latent in range(a, b):
            frame, after = self.geometry.span_of_latent(latent, self.segment_frames)
            count = min(after, end) - frame
            yield frame, np.full((count, self.stream.height, self.stream.width, 3), GRAY, np.uint8)


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


__all__ = [
    "Chunk", "DecodeOptions", "DecodeReport", "EncodeOptions", "EncodeReport", "decode_clips", "decode_file",
    "encode_file", "estimate_file", "frame_range", "load_for", "open_source",
]
