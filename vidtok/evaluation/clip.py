"""One run over one clip: code it, read the source once more beside the result, measure.

    source --Run.coded--> temporary file --decode--+
    source --the same options----------------------+--prefetch--> MetricSet --> row

Reading, decoding and measuring run at the same time, each in a thread of its own; a few frames are held.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from vidtok.bitstream.container import TokenReader
from vidtok.codec import open_source
from vidtok.compare import SideBySide
from vidtok.errors import SourceError
from vidtok.evaluation.options import EvalOptions, Progress, Row, Warn
from vidtok.evaluation.runs import AHEAD, Coded, Run
from vidtok.evaluation.states import state_of
from vidtok.metrics import TokenStatistics
from vidtok.metrics.networks import Networks
from vidtok.metrics.table import MetricSet
from vidtok.metrics.weights import sha256_of
from vidtok.prefetch import prefetch
from vidtok.report import ClipRecorder
from vidtok.video.info import Frame, Pixels

TOKEN_KEYS = ("usage", "perplexity", "entropy", "digit_entropy", "repeats")


def measure_clip(
    run: Run,
    path: Path,
    options: EvalOptions,
    networks: Networks,
    *,
    save: Path | None,
    progress: Progress,
    warn: Warn,
    watch: ClipRecorder | None = None,
) -> Row:
    """The row of one clip without its name; `state` is for the summary. Errors: VidtokError and what torch raises.

    `watch` gets what a page shows: all but its `finish`.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vidtok-eval-")))
        coded = stack.enter_context(
            run.coded(
                path,
                folder,
                options.encode,
                lambda done, total: progress(done, 2 * total if total else None),
                warn,
            )
        )
        row: Row = coded.row | {
            "frames": coded.frames,
            "width": coded.width,
            "height": coded.height,
            "bpp": coded.bpp,
            "file_bytes": coded.file_bytes,
            "source_sha256": sha256_of(path),
        }
        measured = MetricSet(
            options.metrics,
            networks,
            sampling=options.fvd,
            per_frame=options.per_frame,
            watched=watch is not None,
        )
        decode_seconds = _compare(path, coded, options, measured, save, progress, watch)
        if watch and coded.reader:
            for chunk in coded.reader.iter_chunks():
                assert chunk.ids is not None
                watch.tokens(chunk.ids, coded.reader.header.vocabulary, coded.reader.header.digits)
        tokens = _count_tokens(coded.reader) if coded.reader and "tokens" in options.metrics else None
    row |= measured.result()
    if watch:
        watch.late_values(measured.fresh_values())
    if tokens is not None:
        found = tokens.result()
        row |= {key: found[key] for key in TOKEN_KEYS}
    row["encode_fps"] = coded.frames / max(coded.seconds, 1e-9)
    row["decode_fps"] = coded.frames / max(decode_seconds, 1e-9)
    return row | {"state": state_of(measured, tokens)}


def _compare(
    path: Path,
    coded: Coded,
    options: EvalOptions,
    measured: MetricSet,
    save: Path | None,
    progress: Progress,
    watch: ClipRecorder | None,
) -> float:
    """Feeds `measured` and `watch`; the seconds that decoding took."""
    with ExitStack() as stack:
        decoded = _Timed(stack.enter_context(closing(coded.decode())))
        source = stack.enter_context(open_source(path, options.encode))
        beside = stack.enter_context(SideBySide(save, source.info, force=True)) if save else None
        if watch:
            watch.expect(coded.frames, source.info.rate)
        frames = stack.enter_context(closing(prefetch(iter(source), AHEAD)))
        pairs = stack.enter_context(closing(prefetch(_pairs(path, frames, decoded))))
        for originals, pixels, pts in pairs:
            measured.update(originals, pixels)
            if watch:
                watch.frames(originals, pixels, measured.fresh_values())
            if beside:
                beside.write(originals, pixels, pts)
            progress(coded.frames + measured.frames, 2 * coded.frames)
        if measured.frames != coded.frames or next(frames, None) is not None:
            raise SourceError(f"{str(path)!r} had more frames when read again; is it being written?")
        if beside:
            beside.finish(source.last_duration)
    return decoded.seconds


def _pairs(path: Path, frames: Iterator[Frame], decoded: _Timed) -> Iterator[tuple[Pixels, Pixels, Sequence[int]]]:
    for pixels, pts in decoded:
        reference = [frame.pixels for frame in itertools.islice(frames, len(pixels))]
        if len(reference) != len(pixels):
            raise SourceError(f"{str(path)!r} had fewer frames when read again; is it being written?")
        yield np.stack(reference), pixels, pts


def _count_tokens(reader: TokenReader) -> TokenStatistics:
    header = reader.header
    clip = TokenStatistics(header.vocabulary, header.digits, header.codebooks)
    for chunk in reader.iter_chunks():
        assert chunk.ids is not None
        clip.update(chunk.ids)
    return clip


class _Timed:
    """An iterator that knows how many seconds were spent in it."""

    def __init__(self, items: Generator[tuple[Pixels, Sequence[int]]]) -> None:
        self._items = items
        self.seconds = 0.0

    def __iter__(self) -> _Timed:
        return self

    def __next__(self) -> tuple[Pixels, Sequence[int]]:
        start = time.perf_counter()
        try:
            return next(self._items)
        finally:
            self.seconds += time.perf_counter() - start
