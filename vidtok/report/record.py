"""Watching a run: frames, values and ids come by once, and what a page needs of them is kept in bounded space.

    Recorder.clip(...) -> ClipRecorder: frames(...), tokens(...) -> finish() -> ClipDetail -> Recorder.add

A ClipRecorder and a ClipDetail can be in another process than the Recorder.

Preview frames are evenly spaced: as soon as there are too many, every second one is dropped and the step doubles.
Of each window of frames the worst one is a candidate for the worst frames, so that these are not all neighbours.
Details of the worst clips wait in temporary files, a file a clip.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from vidtok.report.content import DIFFERENCE_GAIN, ClipDetail, Preview, ReportOptions, lower_is_better
from vidtok.report.series import Series
from vidtok.report.tokens import TokenMaps
from vidtok.video.info import Pixels
from vidtok.video.jpeg import Jpeg, encode_jpeg

WORST_FRAMES = 3
WORST_WINDOW = 16  # frames; two of the worst frames are from different windows
RANKING = ("psnr", "psnr:y", "ssim", "ms_ssim", "lpips")  # the first that is measured decides what is worst

Values = Mapping[str, Sequence[float | None]]
"""Metric -> the values that follow those given before, frame by frame; None where a frame has none"""


class Recorder:
    """Keeps the details of the worst clips of a run, all runs of a clip together. Close it, or use `with`."""

    def __init__(self, options: ReportOptions | None = None) -> None:
        self.options = options or ReportOptions()
        self._kept: dict[str, _Kept] = {}
        self._dropped: set[str] = set()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[ClipDetail]:
        """What was kept, worst clip first, one detail at a time in memory; as often as wanted."""
        for kept in sorted(self._kept.values(), key=lambda kept: kept.score):
            yield from kept.details()

    def close(self) -> None:
        """Let go of all that was kept."""
        for kept in self._kept.values():
            kept.file.close()
        self._kept.clear()

    def clip(self, path: str, run: str, *, frames: int | None = None, rate: Fraction | None = None) -> ClipRecorder:
        """A recorder of one clip; `frames`: how many are expected, `rate`: frames per second, where known."""
        clip = ClipRecorder(path, run, self.options)
        clip.expect(frames, rate)
        return clip

    def add(self, detail: ClipDetail) -> None:
        """Keep a clip, unless enough worse ones are there."""
        if detail.path in self._dropped or self.options.clips == 0:
            return
        if detail.path not in self._kept:
            self._kept[detail.path] = _Kept(tempfile.TemporaryFile(prefix="vidtok-report-"))  # noqa: SIM115
        self._kept[detail.path].add(detail)
        if len(self._kept) > self.options.clips:
            best = max(self._kept, key=lambda path: self._kept[path].score)
            self._kept.pop(best).file.close()
            self._dropped.add(best)


@dataclass
class _Kept:
    """The details of one clip, in a file."""

    file: BinaryIO
    score: float = float("inf")
    runs: int = 0

    def add(self, detail: ClipDetail) -> None:
        self.file.seek(0, 2)
        pickle.dump(detail, self.file)
        self.score, self.runs = min(self.score, detail.score), self.runs + 1

    def details(self) -> Iterator[ClipDetail]:
        """Our own pickles, from a file without a name."""
        self.file.seek(0)
        for _ in range(self.runs):
            yield pickle.load(self.file)


class ClipRecorder:
    """One clip of one run: frames with their values in order, ids in order, then `finish`."""

    def __init__(self, path: str, run: str, options: ReportOptions) -> None:
        self._path, self._run, self._options = path, run, options
        self._rate: Fraction | None = None
        self._frames = self._width = self._height = 0
        self._series: dict[str, Series] = {}
        self._known: dict[str, int] = {}  # frames whose values have come
        self._worst_by: str | None = None
        self._step = 1
        self._previews: list[Preview] = []
        self._worst = _WorstFrames(options)
        self._size = (0, 0)
        self._first: tuple[int, ...] = (0, 0, 0)  # of preview pictures, so that most of them take one try
        self._maps: TokenMaps | None = None

    def expect(self, frames: int | None, rate: Fraction | None) -> None:
        """How many frames are to come, and how many a second, where known; before the first frame."""
        self._step = max(1, -(-(frames or 1) // max(self._options.frames, 1)))
        self._rate = rate

    def frames(self, source: Pixels, result: Pixels, values: Values) -> None:
        """Frames (T, H, W, 3) of both sides, and the values that are new: of these frames, or of earlier ones too."""
        count, self._height, self._width = source.shape[:3]
        ranking = self._worst_by = self._worst_by or self._choose_ranking(values, count)
        scores = values[ranking] if ranking is not None and len(values[ranking]) == count else [None] * count
        for t in range(count) if self._options.frames else ():
            number = self._frames + t
            if number % self._step == 0:
                self._preview(number, source[t], result[t])
            if ranking is not None and (value := scores[t]) is not None:
                self._worst.offer(number, source[t], result[t], -value if lower_is_better(ranking) else value)
        self._frames += count
        self.late_values(values)

    def late_values(self, values: Values) -> None:
        """Values without frames: the last ones of metrics that lag behind."""
        holders = [*((p.frame, p.values) for p in self._previews), *self._worst.holders()]
        for name, numbers in values.items():
            start = self._known.get(name, 0)
            self._known[name] = start + len(numbers)
            for frame, own in holders:
                if start <= frame < start + len(numbers) and (value := numbers[frame - start]) is not None:
                    own[name] = value
            real = [value for value in numbers if value is not None]
            if real:
                self._series.setdefault(name, Series(first=start + len(numbers) - len(real))).extend(real)

    def tokens(
        self,
        ids: np.ndarray[Any, Any],
        vocabulary: int | Sequence[int],
        digits: Sequence[int] | Sequence[Sequence[int]] = (),
    ) -> None:
        """The next latent frames: ids (n, h, w) or (n, h, w, K)."""
        if self._maps is None:
            stages = ids.shape[3] if ids.ndim == 4 else 1
            self._maps = TokenMaps(ids.shape[1], ids.shape[2], vocabulary, digits, stages)
        self._maps.update(ids)

    def finish(self, values: Values | None = None) -> ClipDetail:
        """All that is kept of the clip; `values`: see `late_values`."""
        self.late_values(values or {})
        ranking = self._worst_by or next(iter(self._series), None)
        score = 0.0
        if ranking in self._series:
            own = self._series[ranking]
            mean = sum(m * n for m, n in zip(own.mean, own.lengths, strict=True)) / own.count
            score = -mean if lower_is_better(ranking) else mean
        return ClipDetail(
            path=self._path,
            run=self._run,
            frames=self._frames,
            width=self._width,
            height=self._height,
            rate=float(self._rate) if self._rate else None,
            score=score,
            preview_width=self._size[0],
            preview_height=self._size[1],
            series=self._series,
            previews=tuple(self._previews),
            worst=self._worst.result(),
            worst_by=self._worst_by,
            maps=self._maps.result() if self._maps else (),
        )

    def _choose_ranking(self, values: Values, count: int) -> str | None:
        """The metric that says which frames are worst: one that has values of the first frames at once."""
        prompt = [name for name in values if self._frames == 0 and len(values[name]) == count]
        return next((name for name in RANKING if name in prompt), next(iter(prompt), None))

    def _preview(self, number: int, source: Pixels, result: Pixels) -> None:
        if len(self._previews) == self._options.frames:
            self._step *= 2
            self._previews = [preview for preview in self._previews if preview.frame % self._step == 0]
            if number % self._step:
                return
        preview, jpegs = make_preview(number, source, result, self._options, self._first)
        self._size = (max(self._size[0], jpegs[0].width), max(self._size[1], jpegs[0].height))
        self._first = tuple(jpeg.next_first(self._options.picture_bytes) for jpeg in jpegs)
        self._previews.append(preview)


class _WorstFrames:
    """The worst frames by one metric, at most one of a window of WORST_WINDOW frames."""

    def __init__(self, options: ReportOptions) -> None:
        self._options = options
        self._found: list[tuple[float, Preview]] = []
        self._window = -1
        self._candidate: tuple[float, int, Pixels, Pixels] | None = None
        self._values: dict[str, float] = {}  # of the candidate

    def offer(self, number: int, source: Pixels, result: Pixels, score: float) -> None:
        """One frame; the lower its score, the worse."""
        if number // WORST_WINDOW != self._window:
            self._close_window()
            self._window = number // WORST_WINDOW
        if self._candidate is None or score < self._candidate[0]:
            self._candidate, self._values = (score, number, source.copy(), result.copy()), {}

    def holders(self) -> list[tuple[int, dict[str, float]]]:
        """(frame, where its values go) of all that may be shown."""
        held = [(preview.frame, preview.values) for _, preview in self._found]
        return [*held, (self._candidate[1], self._values)] if self._candidate else held

    def result(self) -> tuple[Preview, ...]:
        self._close_window()
        return tuple(preview for _, preview in self._found)

    def _close_window(self) -> None:
        candidate, self._candidate = self._candidate, None
        if candidate is None or (len(self._found) == WORST_FRAMES and candidate[0] >= self._found[-1][0]):
            return
        preview, _ = make_preview(*candidate[1:], self._options)
        preview.values.update(self._values)
        self._found.append((candidate[0], preview))
        self._found.sort(key=lambda item: (item[0], item[1].frame))
        del self._found[WORST_FRAMES:]


def make_preview(
    number: int, source: Pixels, result: Pixels, options: ReportOptions, first: Sequence[int] = (0, 0, 0)
) -> tuple[Preview, list[Jpeg]]:
    """One frame (H, W, 3) of both sides and their difference as pictures, without values yet; and these pictures."""
    error = (result.astype(np.int16) - source) * DIFFERENCE_GAIN + 128
    jpegs = [
        encode_jpeg(pixels, options.side, options.picture_bytes, tries)
        for pixels, tries in zip((source, result, error.clip(0, 255).astype(np.uint8)), first, strict=True)
    ]
    data = [jpeg.data for jpeg in jpegs]
    return Preview(frame=number, source=data[0], result=data[1], difference=data[2], values={}), jpegs
