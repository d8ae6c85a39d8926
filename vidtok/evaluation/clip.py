"""The runs of a family over one clip: code it, read the source once more beside each result, measure.

    source --Run.coded--> temporary file --decode--+
    source --the same options----------------------+--prefetch--> MetricSet --> row

Reading, decoding and measuring run at the same time, each in a thread of its own; a few frames are held.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from vidtok.bitstream.container import TokenReader
from vidtok.codec import open_source
from vidtok.compare import SideBySide, frames_ahead
from vidtok.errors import SourceError
from vidtok.evaluation.options import EvalOptions, Progress, Row, Warn
from vidtok.evaluation.runs import Coded, Master, Run
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
    master: Master | None = None,
) -> Row:
    """The row of one clip without its name; `state` is for the summary. Errors: VidtokError and what torch raises.

    `progress` counts the frames that are encoded and then those that are measured; with a `master`, whose encoding was
    counted, only the latter. `watch` gets what a page shows: all but its `finish`.
    """
    parts = 1 if master else 2
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vidtok-eval-")))
        coded = stack.enter_context(
            run.coded(
                path,
                folder,
                options.encode,
                lambda done, total: progress(done, parts * total if total else None),
                warn,
                master,
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
        before = (parts - 1) * coded.frames
        decode_seconds = _compare(
            path,
            coded,
            options,
            measured,
            save,
            lambda done: progress(before + done, parts * coded.frames),
            watch,
        )
        tokens = _count_tokens(coded.reader, watch, "tokens" in options.metrics) if coded.reader else None
    row |= measured.result()
    if watch:
        watch.late_values(measured.fresh_values())
    if tokens is not None:
        found = tokens.result()
        row |= {key: found[key] for key in TOKEN_KEYS}
    row["encode_fps"] = None if coded.seconds is None else coded.frames / max(coded.seconds, 1e-9)
    row["decode_fps"] = coded.frames / max(decode_seconds, 1e-9)
    return row | {"state": state_of(measured, tokens)}


def _compare(
    path: Path,
    coded: Coded,
    options: EvalOptions,
    measured: MetricSet,
    save: Path | None,
    progress: Callable[[int], None],
    watch: ClipRecorder | None,
) -> float:
    """Feeds `measured` and `watch`; the seconds that decoding took. `progress` gets the frames that are done."""
    with ExitStack() as stack:
        decoded = _Timed(stack.enter_context(closing(coded.decode())))
        source = stack.enter_context(open_source(path, options.encode))
        beside = stack.enter_context(SideBySide(save, source.info, force=True)) if save else None
        if watch:
            watch.expect(coded.frames, source.info.rate)
        frames = stack.enter_context(closing(prefetch(iter(source), frames_ahead(coded.width, coded.height))))
        pairs = stack.enter_context(closing(prefetch(_pairs(path, frames, decoded))))
        for originals, pixels, pts in pairs:
            measured.update(originals, pixels)
            if watch:
                watch.frames(originals, pixels, measured.fresh_values())
            if beside:
                beside.write(originals, pixels, pts)
            progress(measured.frames)
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


def _count_tokens(reader: TokenReader, watch: ClipRecorder | None, counted: bool) -> TokenStatistics | None:
    """One pass over the ids, for statistics (where `counted`) and for a page."""
    header = reader.header
    clip = TokenStatistics(header.vocabulary, header.digits, header.codebooks) if counted else None
    for chunk in reader.iter_chunks() if watch or counted else ():
        assert chunk.ids is not None
        if watch:
            watch.tokens(chunk.ids, header.vocabulary, header.digits)
        if clip:
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
