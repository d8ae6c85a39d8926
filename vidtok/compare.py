"""Two videos beside each other: metrics between them, frame by frame, and a video of both."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
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
from vidtok.video import VideoWriter
from vidtok.video.info import Frame, Pixels, VideoInfo

Row = dict[str, Any]
Progress = Callable[[int, int | None], None]
Warn = Callable[[str], None]
Pair = tuple[Frame | None, Frame | None]

CLIP_FRAMES = 16


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
) -> Row:
    """Metrics of video `b` against `a`, frame by frame: {path, other, frames, width, height, METRIC...}.

    `networks`: weights of lpips, fvd and fid (None: only those at hand). `per_frame`: values of all frames under the
    key `per_frame`. `sampling`: what of the videos fvd takes as samples.

    `reading`: its resize, fps, start and frames apply to both. A surplus of frames on one side is warned of
    and left out (`frames_left_out`); different sizes are a UsageError. `save`: a file for both side by side.
    """
    how = reading or EncodeOptions()
    sampling = sampling or Sampling()
    measured = MetricSet(metrics, networks, sampling=sampling, per_frame=per_frame)
    with ExitStack() as stack:
        first, second = (stack.enter_context(open_source(path, how, warn)) for path in (a, b))
        _check_sizes(a, first.info, b, second.info)
        beside = stack.enter_context(SideBySide(save, first.info, force=how.force)) if save else None
        surplus = 0
        for pairs in _clips(itertools.zip_longest(first, second)):
            whole = [(x, y) for x, y in pairs if x is not None and y is not None]
            surplus += len(pairs) - len(whole)
            if not whole:
                continue
            left, right = (np.stack([pair[side].pixels for pair in whole]) for side in (0, 1))
            measured.update(left, right)
            if beside:
                beside.write(left, right, [x.pts for x, _ in whole])
            if progress:
                progress(measured.frames, first.info.frames_hint)
        if beside:
            beside.finish(first.last_duration)
    row: Row = {"path": str(a), "other": str(b), "frames": measured.frames}
    row |= {"width": first.info.width, "height": first.info.height}
    if surplus:
        row["frames_left_out"] = surplus
        if warn:
            warn(f"{a} and {b} differ in length; the first {measured.frames} frames were compared")
    row |= measured.result()
    for name, features in measured.features.items():
        if isinstance(features, Features):
            row |= fvd_row(name, [features.result().numpy()], sampling.frames)
        else:
            row |= fid_row(features.pair)
        if warn and row[name] is not None and (words := too_few(name, row[f"{name}_samples"])):
            warn(words)
    return row


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


def _check_sizes(a: str | Path, first: VideoInfo, b: str | Path, second: VideoInfo) -> None:
    x, y = (first.width, first.height), (second.width, second.height)
    if x != y:
        raise UsageError(f"{a} is {x[0]}x{x[1]} and {b} is {y[0]}x{y[1]}; frames must be equal in size: --resize WxH")
