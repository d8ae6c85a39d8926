"""Two videos beside each other: metrics between them, frame by frame, and a video of both."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from vidtok.codec import EncodeOptions, open_source
from vidtok.errors import UsageError
from vidtok.metrics import DEFAULT_METRICS
from vidtok.metrics.fvd import Features, Sampling
from vidtok.metrics.networks import Networks
from vidtok.metrics.sets import fid_row, fvd_row, too_few
from vidtok.metrics.table import MetricSet
from vidtok.prefetch import prefetch
from vidtok.report import Recorder
from vidtok.video import VideoReader, VideoWriter
from vidtok.video.info import Frame, Pixels, VideoInfo

Row = dict[str, Any]
Progress = Callable[[int, int | None], None]
Warn = Callable[[str], None]
Pair = tuple[Frame | None, Frame | None]

CLIP_FRAMES = 16
AHEAD_FRAMES = 2 * CLIP_FRAMES
AHEAD_BYTES = 2**28
CLOCK_FRAMES = 100  # frames whose times are compared where rates differ
CLOCK_SECONDS = Fraction(2, 1000)  # containers round times to milliseconds


def compare(
    a: str | Path,
    b: str | Path,
    metrics: str | Iterable[str] = DEFAULT_METRICS,
    *,
    reading: EncodeOptions | None = None,
    save: Path | None = None,
    progress: Progress | None = None,
    warn: Warn | None = None,
    networks: Networks | None = None,
    sampling: Sampling | None = None,
    per_frame: bool = False,
    align: bool = False,
    recorder: Recorder | None = None,
) -> Row:
    """Metrics of video `b` against `a`, frame by frame: {path, other, frames, width, height, METRIC...}.

    `networks`: weights of lpips, fvd and fid (None: only those at hand). `per_frame`: values of all frames under the
    key `per_frame`. `sampling`: what of the videos fvd takes as samples.

    `reading`: its resize, fps, start and frames apply to both. A surplus of frames on one side is warned of
    and left out (`frames_left_out`). Another size or frame rate is a UsageError; with `align` video `b` is brought to
    those of `a`, and the row says how (`aligned`). `save`: a file for both side by side. `recorder` gets what a page
    shows.
    """
    how = reading or EncodeOptions()
    sampling = sampling or Sampling()
    measured = MetricSet(metrics, networks, sampling=sampling, per_frame=per_frame, watched=recorder is not None)
    with ExitStack() as stack:
        first = stack.enter_context(open_source(a, how, warn))
        second, aligned = open_aligned(first, b, how, align=align, warn=warn)
        stack.enter_context(second)
        for words in aligned:
            (warn or _silent)(f"{b}: {words}")
        watch = recorder and recorder.clip(str(a), str(b), frames=first.info.frames_hint, rate=first.info.rate)
        beside = stack.enter_context(SideBySide(save, first.info, force=how.force)) if save else None
        surplus = 0
        ahead = frames_ahead(first.info.width, first.info.height)
        left_frames = stack.enter_context(closing(prefetch(iter(first), ahead)))
        right_frames = stack.enter_context(closing(prefetch(iter(second), ahead)))
        for pairs in _clips(itertools.zip_longest(left_frames, right_frames)):
            whole = [(x, y) for x, y in pairs if x is not None and y is not None]
            surplus += len(pairs) - len(whole)
            if not whole:
                continue
            left, right = (np.stack([pair[side].pixels for pair in whole]) for side in (0, 1))
            measured.update(left, right)
            if watch:
                watch.frames(left, right, measured.fresh_values())
            if beside:
                beside.write(left, right, [x.pts for x, _ in whole])
            if progress:
                progress(measured.frames, first.info.frames_hint)
        if beside:
            beside.finish(first.last_duration)
    row: Row = {"path": str(a), "other": str(b), "frames": measured.frames}
    row |= {"width": first.info.width, "height": first.info.height}
    if aligned:
        row["aligned"] = aligned
    if surplus:
        row["frames_left_out"] = surplus
        if warn:
            warn(f"{a} and {b} differ in length; the first {measured.frames} frames were compared")
    row |= measured.result()
    if recorder and watch:
        recorder.add(watch.finish(measured.fresh_values()))
    for name, features in measured.features.items():
        if isinstance(features, Features):
            row |= fvd_row(name, [features.result().numpy()], sampling.frames)
        else:
            row |= fid_row(features.pair)
        if warn and row[name] is not None and (words := too_few(name, row[f"{name}_samples"])):
            warn(words)
    return row


def frames_ahead(width: int, height: int) -> int:
    """How many frames may wait between reading and measuring: fewer of large ones."""
    return max(2, min(AHEAD_FRAMES, AHEAD_BYTES // (3 * width * height)))


class SideBySide:
    """A video of reference (left) and result (right)."""

    def __init__(self, path: Path, info: VideoInfo, *, force: bool) -> None:
        self._writer = VideoWriter(
            path,
            width=2 * info.width,
            height=info.height,
            time_base=info.time_base,
            rate=info.rate,
            sample_aspect=info.sample_aspect,
            force=force,
        )

    def __enter__(self) -> SideBySide:
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)

    def write(self, left: Pixels, right: Pixels, pts: Sequence[int]) -> None:
        self._writer.write(np.concatenate([left, right], axis=2), pts)

    def finish(self, last_duration: int) -> None:
        self._writer.close(last_duration)


def _clips(pairs: Iterator[Pair]) -> Iterator[list[Pair]]:
    """A few pairs at a time."""
    while clip := list(itertools.islice(pairs, CLIP_FRAMES)):
        yield clip


def open_aligned(
    first: VideoReader, b: str | Path, how: EncodeOptions, *, align: bool, warn: Warn | None = None
) -> tuple[VideoReader, list[str]]:
    """Video `b`, and in words what was done to it; UsageError where it is unlike `first` and not to be aligned."""
    second = open_source(b, how, warn)
    x, y = first.info, second.info
    sizes = [f"{info.width}x{info.height}" for info in (x, y)]
    rates = [f"{float(info.rate):.5g}" if info.rate else "unknown" for info in (x, y)]
    other_rate = _rates_differ(x, y) and _clocks_differ(first.path, second.path, how)
    if sizes[0] == sizes[1] and not other_rate:
        return second, []
    second.close()
    if not align:
        what = ", ".join(
            [f"{first.path} is {sizes[0]} and {b} is {sizes[1]}"] * (sizes[0] != sizes[1])
            + [f"{first.path} has {rates[0]} frames/s and {b} has {rates[1]}"] * other_rate
        )
        raise UsageError(f"{what}; --align brings {b} to size and rate of the first, --resize and --fps both to yours")
    changes: Row = {}
    words = []
    if sizes[0] != sizes[1]:
        changes |= {"resize": sizes[0], "enlarge": True}
        shrinks = x.width <= y.width and x.height <= y.height
        words.append(f"{sizes[1]} scaled to {sizes[0]} by {'area averages' if shrinks else 'bicubic interpolation'}")
    if other_rate:
        changes["fps"] = str(x.rate)
        words.append(f"{rates[1]} frames/s resampled to {rates[0]}, each frame the newest one not after it")
    return open_source(b, replace(how, **changes), warn), words


def _rates_differ(x: VideoInfo, y: VideoInfo) -> bool:
    """Whether the nominal rates do, by more than rounding."""
    if x.rate is None or y.rate is None:
        return False
    return abs(x.rate / y.rate - 1) > Fraction(1, 2000)


def _clocks_differ(a: str | Path, b: str | Path, how: EncodeOptions) -> bool:
    """Whether the first frames are shown at other times. Nominal rates may differ where frames have timestamps of
    their own: the mean of a part of a video is not that of the whole."""
    with open_source(a, how, _silent) as x, open_source(b, how, _silent) as y:
        clocks = [
            [frame.pts * video.info.time_base for frame in itertools.islice(video, CLOCK_FRAMES)] for video in (x, y)
        ]
    starts = [clock[0] for clock in clocks]
    pairs = zip(*clocks, strict=False)
    return any(abs((s - starts[0]) - (t - starts[1])) > CLOCK_SECONDS for s, t in pairs)


def _silent(_: str) -> None:
    """Nobody is told."""
