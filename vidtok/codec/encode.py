"""encode_file: VideoReader -> pieces -> EncodeStream -> TokenWriter.

A piece is as many frames as go through the network at once; it ends where a stored chunk or a segment ends.
How long pieces are never changes a byte. Reading runs one piece ahead, in a thread of its own. With a target in place
of a quality the file is written twice: with all stages to a temporary one first, then with those chosen (`rates`);
where ids are to be refined too, the plain ones go to a second one, and every segment is taken from where it is better.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from vidtok import checkpoint
from vidtok.bitstream.audio import IN_MEMORY_BYTES
from vidtok.bitstream.container import Audio, Colour, TokenHeader, TokenReader, TokenWriter
from vidtok.bitstream.describe import histogram
from vidtok.bitstream.output import OutputFile
from vidtok.bitstream.repack import choose_entropy
from vidtok.codec.options import (
    EncodeOptions,
    EncodeReport,
    Progress,
    StrPath,
    Warn,
    highest_quality,
    segment_frames,
    set_threads,
)
from vidtok.codec.rates import Gauge, Take, choose, cut, header_for
from vidtok.errors import TooLargeError, UsageError
from vidtok.model.model import Model
from vidtok.prefetch import prefetch
from vidtok.video import Resize, VideoInfo, VideoReader

CHUNK_LATENTS = 16  # latent frames stored together
MAX_SIDE = 65535  # pixels, of the format


class Piece(NamedTuple):
    """Frames that are encoded together. `audio` holds what was copied up to the end of a stored chunk."""

    pixels: np.ndarray  # (T, H, W, 3) uint8
    pts: list[int]
    ends_segment: bool
    audio: bytes


def encode_file(
    source: StrPath,
    target: StrPath | BinaryIO,
    options: EncodeOptions | None = None,
    *,
    progress: Progress | None = None,
    warn: Warn | None = None,
) -> EncodeReport:
    """Encode the video at `source` into a token file. Errors: SourceError, OutputError, ModelError and kinds."""
    began = time.perf_counter()
    options = options or EncodeOptions()
    set_threads(options.threads)
    model = checkpoint.load(options.model, device=options.device, precision=options.precision)
    quality = highest_quality(options, model.config)
    model.config.check_refine(options.refine)
    with open_source(source, options, warn) as video:
        header = make_header(model, video, options, quality)
        total = _expected_frames(video, options)
        if not options.has_target:
            with TokenWriter(target, header, force=options.force) as sink:
                _write(video, model, [Recording(sink, options.refine)], options, total, progress)
            chosen = None
        else:
            with contextlib.ExitStack() as stack:
                place: Any = target
                if isinstance(target, (str, os.PathLike)):  # first of all: it may be that nothing can be written there
                    place = stack.enter_context(OutputFile(target, force=options.force))
                folder = place.target.parent if place is not target else None
                ways = sorted({0, options.refine})
                spools: list[Any] = [
                    stack.enter_context(tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES, dir=folder)) for _ in ways
                ]
                with contextlib.ExitStack() as writers:
                    takes = [
                        Recording(
                            writers.enter_context(TokenWriter(spool, header)),
                            way,
                            _gauge(model, video, options, header, total),
                        )
                        for spool, way in zip(spools, ways, strict=True)
                    ]
                    _write(video, model, takes, options, total, progress)
                for spool in spools:
                    spool.seek(0)
                found = [Take(TokenReader(spool), take.gauge) for spool, take in zip(spools, takes, strict=True)]
                chosen = choose(found, options, warn or (lambda text: None))
                with TokenWriter(place, header_for(header, chosen.stages)) as sink:
                    cut(chosen.source, sink, chosen.stages)
    info, done = video.info, sink.frames
    held = (chosen.stages if chosen else None) or [quality or 1]
    each = model.geometry.latents(header.segment_frames) or sink.latents
    latents = [min(each, sink.latents - i * each) for i in range(len(held))]
    stages = sum(q * count for q, count in zip(held, latents, strict=True)) / sum(latents)
    return EncodeReport(
        frames=done,
        width=info.width,
        height=info.height,
        quality=sink.header.quality,
        file_bytes=sink.position,
        audio_bytes=sink.audio_bytes,
        bpp=(sink.position - sink.audio_bytes) * 8 / (done * info.width * info.height),
        raw_bpp=stages * math.log2(model.vocabulary) / (model.geometry.time * model.geometry.space**2),
        dropped_audio=len(info.audio_streams) if options.audio == "drop" else 0,
        seconds=time.perf_counter() - began,
        qualities=histogram(chosen.stages) if chosen else None,
        refined=sum(chosen.source.sources) if chosen and options.refine else None,
        psnr=chosen.psnr if chosen else None,
    )


class Recording(NamedTuple):
    """Where ids go that are refined in so many steps; `gauge` sees frames and ids."""

    sink: TokenWriter
    refine: int
    gauge: Gauge | None = None


def _write(
    video: VideoReader,
    model: Model,
    takes: Sequence[Recording],
    options: EncodeOptions,
    total: int | None,
    progress: Progress | None,
) -> None:
    """All frames of `video` through the model into all `takes`, their ends included."""
    header, done, info = takes[0].sink.header, 0, video.info
    streams = [model.encoder(info.height, info.width, options.schedule, header.quality, take.refine) for take in takes]

    def store(frames: np.ndarray, pts: Sequence[int], ends_segment: bool) -> None:
        for take, stream in zip(takes, streams, strict=True):
            _store(take, stream.push(frames), frames, pts)
            if ends_segment:
                _store(take, stream.flush(), frames[:0], ())
                if take.gauge:
                    take.gauge.end_segment()

    with closing(prefetch(_pieces(video, header, streams[0].latents_per_pass))) as ahead:
        for piece in ahead:
            store(piece.pixels, piece.pts, piece.ends_segment)
            if piece.audio:
                for take in takes:
                    take.sink.write_audio(piece.audio)
            done += len(piece.pts)
            if progress:
                progress(done, total)
    if not header.segment_frames or done % header.segment_frames:
        store(np.empty((0, info.height, info.width, 3), np.uint8), (), True)
    rest = video.take_audio() if header.audio else b""
    for take in takes:
        if rest:
            take.sink.write_audio(rest)
        take.sink.finish(damaged_source=video.damaged, last_duration=video.last_duration)


def _store(take: Recording, ids: np.ndarray, frames: np.ndarray, pts: Sequence[int]) -> None:
    take.sink.write(as_stored(ids, take.sink.header), pts)
    if take.gauge:
        take.gauge.push(frames, ids)


def _gauge(
    model: Model, video: VideoReader, options: EncodeOptions, header: TokenHeader, total: int | None
) -> Gauge | None:
    """What measures every quality, where the choice needs it: not for bytes of a video that is one segment, plain."""
    several = header.segment_frames and (total is None or total > header.segment_frames)
    if options.target_psnr is None and not several and not options.refine:
        return None
    return Gauge(model, video.info.height, video.info.width, options.schedule)


def as_stored(ids: np.ndarray, header: TokenHeader) -> np.ndarray:
    """Ids as a model gives them -> as the header has them: one stage of several keeps the axis (t, h, w, 1)."""
    return ids[..., None] if header.codebooks == 1 else ids


def open_source(source: StrPath, options: EncodeOptions, warn: Warn | None = None) -> VideoReader:
    """The frames that these options mean, for whoever needs the same frames again."""
    reader = VideoReader(
        Path(source),
        resize=Resize.parse(options.resize, options.enlarge) if options.resize else None,
        fps=parse_rate(options.fps),
        start=options.start,
        frames=options.frames,
        max_pixels=options.max_pixels,
        strict=options.strict,
        audio=options.audio == "copy",
        warn=warn or (lambda text: None),
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


def make_header(model: Model, video: VideoReader, options: EncodeOptions, quality: int | None) -> TokenHeader:
    """All that the file says of model and source. `quality`: stages of a model with several, else None."""
    info = video.info
    grid = model.geometry.grid(info.height, info.width)
    step = 1 / (info.rate * info.time_base) if info.rate else Fraction(0)
    entropy, prior_id = choose_entropy(options.entropy, model.model_id, model.name)
    return TokenHeader(
        grid_height=grid[0],
        grid_width=grid[1],
        vocabulary=model.vocabulary,
        digits=model.digits,
        codebooks=quality or 0,
        quality=quality,
        model_name=model.name,
        model_id=model.model_id,
        time_stride=model.geometry.time,
        space_stride=model.geometry.space,
        width=info.width,
        height=info.height,
        chunk_latents=CHUNK_LATENTS,
        segment_frames=segment_frames(options, model.config),
        look_back=model.look_back,
        entropy=entropy,
        prior_id=prior_id,
        device=model.device.type,
        precision=model.precision,
        source_width=info.source_width,
        source_height=info.source_height,
        rotation=info.rotation % 360,
        mirrored=info.mirrored,
        sample_aspect=(info.sample_aspect.numerator, info.sample_aspect.denominator),
        colour=_colour(info),
        source_format=info.pixel_format,
        bit_depth=info.bit_depth,
        alpha_composited=info.alpha,
        time_base=info.time_base,
        frame_step=int(step) if step.denominator == 1 else 0,
        fps=info.rate,
        audio=Audio(video.audio_format, ", ".join(info.audio_streams)) if video.audio_format else None,
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
    """What encoding would give, from the source's own words: size, and frames and bytes where they are known.

    Bytes are those of raw ids; of the highest quality with --target-psnr, with --target-bpp at most what it allows.
    """
    _, path = checkpoint.find_model(options.model)
    config = checkpoint.model_config(path, checkpoint.read_metadata(path))
    stages = highest_quality(options, config) or 1
    with open_source(source, options) as video:
        h, w = config.geometry.grid(video.info.height, video.info.width)
        frames = _expected_frames(video, options)
        result: dict[str, Any] = {"width": video.info.width, "height": video.info.height}
    if frames:
        bits = stages * max(1, (config.vocabulary - 1).bit_length())
        latents = config.geometry.total_latents(frames, segment_frames(options, config))
        size = latents * h * w * bits // 8
        if options.target_bpp is not None:
            size = min(size, int(options.target_bpp * frames * result["width"] * result["height"] / 8))
        result |= {"frames": frames, "bytes": size}
    return result
