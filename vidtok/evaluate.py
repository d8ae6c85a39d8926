"""The whole loop over files: encode, decode, measure; a row per clip, model and quality, and summaries.

    source --encode_file--> temporary token file --decode_clips--+
    source --VideoReader, the same options-----------------------+--> MetricSet --> row

Nothing is held but a few frames: both sides are walked together.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from vidtok import checkpoint
from vidtok.batch import describe_failure, plan
from vidtok.bitstream.container import TokenReader
from vidtok.codec import DecodeOptions, EncodeOptions, choose_quality, decode_clips, encode_file, open_source
from vidtok.compare import Progress, Row, SideBySide, Warn
from vidtok.errors import SourceError, UsageError, VidtokError
from vidtok.metrics import DEFAULT_METRICS, NOT_BUILT, TokenStatistics, parse_metrics
from vidtok.metrics.structure import MIN_SIDE
from vidtok.metrics.table import MetricSet
from vidtok.report import ClipRecorder, Recorder, run_label
from vidtok.video.info import Pixels

TOKEN_KEYS = ("usage", "perplexity", "entropy", "digit_entropy", "repeats")


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """What to measure, on which models; `encode` says how sources are read and encoded (its model, quality,
    audio and target are not used; its `strict` also refuses metrics that cannot be had, before any work)."""

    metrics: tuple[str, ...] = (*DEFAULT_METRICS, "tokens")
    models: tuple[str, ...] = ("default",)
    qualities: tuple[int | None, ...] = (None,)  # None: the model's default
    encode: EncodeOptions = field(default_factory=EncodeOptions)
    save: Path | None = None  # folder for videos of source (left) and result (right)

    def __post_init__(self) -> None:
        object.__setattr__(self, "metrics", parse_metrics(self.metrics))
        if not self.models or not self.qualities:
            raise UsageError("nothing to evaluate: give at least one model and one quality")


def evaluate(
    inputs: Iterable[str | Path],
    options: EvalOptions,
    *,
    progress: Progress | None = None,
    warn: Warn | None = None,
    recorder: Recorder | None = None,
) -> Iterator[Row]:
    """Rows as they are ready: one per input, model and quality, then one summary per model and quality.

    Inputs are files, globs and folders. An input that fails gives a row with `error`; the others are done.
    `progress(done, total)` counts the frames of the clip at work twice: encoded, then measured. `recorder` gets what
    a page shows.
    """
    work = plan([str(path) for path in inputs], None, suffix=".vtok")
    paths = [job.source for job in work.jobs]
    if not paths and not work.problems:
        raise UsageError("no video to evaluate among the inputs; give files, or a folder that holds some")
    if options.encode.strict:
        _refuse_missing(paths, options)
    runs = [_Run(m, q, options, progress, warn, recorder) for m in options.models for q in options.qualities]
    for name, reason in work.problems:
        yield from (run.failure(name, reason) for run in runs)
    for path in paths:
        yield from (run.row(path) for run in runs)
    yield from (run.summary() for run in runs)


class _Run:
    """One model at one quality over all clips."""

    def __init__(
        self,
        model: str,
        quality: int | None,
        options: EvalOptions,
        progress: Progress | None,
        warn: Warn | None,
        recorder: Recorder | None,
    ) -> None:
        self._model, self._options, self._recorder = model, options, recorder
        self._progress: Progress = progress or _no_progress
        self._warn = warn or _silent
        # now, so that an unknown model or rate stops everything at once and no clip's speed pays for loading
        loaded = checkpoint.load(model, device=options.encode.device, precision=options.encode.precision)
        self._quality = choose_quality(quality, loaded.config)  # None: one rate
        self._encode = replace(options.encode, model=model, quality=self._quality, audio="drop", force=True)
        self._rows: list[Row] = []
        self._failed = 0
        self._tokens: TokenStatistics | None = None

    def row(self, path: Path) -> Row:
        """Encode, decode and measure one clip; what goes wrong with it becomes the row's error."""
        try:
            found = self._measure(path)
        except VidtokError as exc:
            return self.failure(str(path), str(exc))
        except Exception as exc:
            return self.failure(str(path), describe_failure(exc))
        row = self._head(str(path)) | found
        self._rows.append(row)
        return row

    def failure(self, path: str, reason: str) -> Row:
        self._failed += 1
        return self._head(path) | {"error": reason}

    def summary(self) -> Row:
        """Means over clips; `METRIC_worst` is the worst value, `METRIC_worst_path` the clip with it."""
        rows, frame_metrics = self._rows, [name for name in self._options.metrics if name != "tokens"]
        row: Row = {"summary": True, "model": self._model, "quality": self._quality}
        row |= {"clips": len(rows), "failed": self._failed, "frames": sum(r["frames"] for r in rows)}
        row |= {"bpp": _mean(rows, "bpp"), "file_bytes": sum(r["file_bytes"] for r in rows)}
        for name in frame_metrics:
            row |= _summarise(rows, name)
        if self._tokens is not None:
            pooled = self._tokens.result()
            row |= {key: pooled[key] for key in TOKEN_KEYS}
        return row | {key: _mean(rows, key) for key in ("encode_fps", "decode_fps")}

    def _head(self, path: str) -> Row:
        return {"path": path, "model": self._model, "quality": self._quality}

    def _measure(self, path: Path) -> Row:
        with tempfile.TemporaryDirectory(prefix="vidtok-eval-") as folder:
            target = Path(folder) / "clip.vtok"
            report = encode_file(
                path,
                target,
                self._encode,
                progress=lambda done, total: self._progress(done, 2 * total if total else None),
                warn=self._warn,
            )
            with TokenReader(target) as reader:
                row = {
                    "model_id": reader.header.model_id,
                    "frames": report.frames,
                    "width": report.width,
                    "height": report.height,
                    "bpp": report.bpp,
                    "raw_bpp": report.raw_bpp,
                    "file_bytes": report.file_bytes,
                }
                measured, decode_seconds = self._compare(path, reader)
                row |= measured
                if "tokens" in self._options.metrics:
                    row |= self._count_tokens(reader)
        row["encode_fps"] = report.frames / max(report.seconds, 1e-9)
        row["decode_fps"] = report.frames / max(decode_seconds, 1e-9)
        return row

    def _compare(self, path: Path, reader: TokenReader) -> tuple[Row, float]:
        """(metrics, seconds spent decoding) of the token file against its source, read once more."""
        measured = MetricSet(self._options.metrics)
        with ExitStack() as stack:
            watch = self._watch(path, reader)
            clips = stack.enter_context(closing(decode_clips(reader, self._decode_options())))
            decoded = _Timed(clips)
            source = stack.enter_context(open_source(path, self._encode))
            save = self._save_path(path)
            beside = stack.enter_context(SideBySide(save, source.info, force=True)) if save else None
            frames = iter(source)
            for pixels, pts in decoded:
                reference = [frame.pixels for frame in itertools.islice(frames, len(pixels))]
                if len(reference) != len(pixels):
                    raise SourceError(f"{str(path)!r} had fewer frames when read again; is it being written?")
                originals = np.stack(reference)
                measured.update(originals, pixels)
                if watch:
                    watch.frames(originals, pixels, measured.frame_values)
                if beside:
                    beside.write(originals, pixels, pts)
                self._progress(reader.frames + measured.frames, 2 * reader.frames)
            if measured.frames != reader.frames or next(frames, None) is not None:
                raise SourceError(f"{str(path)!r} had more frames when read again; is it being written?")
            if beside:
                beside.finish(source.last_duration)
        if self._recorder and watch:
            _show_tokens(reader, watch)
            self._recorder.add(watch.finish())
        return measured.result(), decoded.seconds

    def _watch(self, path: Path, reader: TokenReader) -> ClipRecorder | None:
        """What collects this clip for a page, if there is to be one."""
        if self._recorder is None:
            return None
        label = run_label(self._head(str(path)))
        return self._recorder.clip(str(path), label, frames=reader.frames, rate=reader.header.fps)

    def _decode_options(self) -> DecodeOptions:
        e = self._encode
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

    def _count_tokens(self, reader: TokenReader) -> Row:
        header = reader.header
        clip = TokenStatistics(header.vocabulary, header.digits, header.codebooks)
        if self._tokens is None:
            self._tokens = TokenStatistics(header.vocabulary, header.digits, header.codebooks)
        for chunk in reader.iter_chunks():
            assert chunk.ids is not None
            clip.update(chunk.ids)
            self._tokens.update(chunk.ids)
        self._tokens.end_clip()
        found = clip.result()
        return {key: found[key] for key in TOKEN_KEYS}

    def _save_path(self, path: Path) -> Path | None:
        """Where this clip is saved: stem, model and quality where there are several, a number if taken."""
        options = self._options
        if options.save is None:
            return None
        parts = [path.stem]
        if len(options.models) > 1:
            parts.append(Path(self._model).stem)
        if len(options.qualities) > 1 and self._quality is not None:
            parts.append(f"q{self._quality}")
        options.save.mkdir(parents=True, exist_ok=True)
        name = ".".join(parts)
        names = itertools.chain([name], (f"{name}.{i}" for i in itertools.count(2)))
        candidates = (options.save / f"{name}.mp4" for name in names)
        return next(p for p in candidates if options.encode.force or not p.exists())


class _Timed:
    """An iterator that knows how many seconds were spent in it."""

    def __init__(self, items: Iterator[tuple[Pixels, Sequence[int]]]) -> None:
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


def _refuse_missing(paths: Sequence[Path], options: EvalOptions) -> None:
    """--strict: a metric that cannot be had stops everything before any work."""
    for name in options.metrics:
        if name in NOT_BUILT:
            raise UsageError(f"{name} {NOT_BUILT[name]} (--strict); leave it out")
    if not any(name.startswith("ms_ssim") for name in options.metrics):
        return
    for path in paths:
        try:
            with open_source(path, options.encode) as source:
                side = min(source.info.width, source.info.height)
        except VidtokError:
            continue  # its own row will say what is wrong with it
        if side <= MIN_SIDE:
            raise UsageError(f"{path}: short side {side}; ms_ssim needs more than {MIN_SIDE} (--strict)")


def _summarise(rows: Sequence[Row], name: str) -> Row:
    """Mean, worst value and worst clip of a metric over the clips that have it."""
    have = [row for row in rows if row[name] is not None]
    found: Row = {name: _mean(have, name)}
    if have:
        worst = (max if name == "flicker" else min)(have, key=lambda row: float(row[name]))
        found |= {f"{name}_worst": worst[name], f"{name}_worst_path": worst["path"]}
    if len(have) < len(rows):
        reason = next(row[f"{name}_missing"] for row in rows if row[name] is None)
        found[f"{name}_missing"] = f"{len(rows) - len(have)} of {len(rows)} clips: {reason}"
    elif not rows:
        found[f"{name}_missing"] = "no clip could be measured"
    return found


def _mean(rows: Sequence[Row], key: str) -> float | None:
    return sum(row[key] for row in rows) / len(rows) if rows else None


def _show_tokens(reader: TokenReader, watch: ClipRecorder) -> None:
    """All ids of a file to whoever collects them."""
    for chunk in reader.iter_chunks():
        assert chunk.ids is not None
        watch.tokens(chunk.ids, reader.header.vocabulary, reader.header.digits)


def _silent(_: str) -> None:
    """Nobody is told."""


def _no_progress(_done: int, _total: int | None) -> None:
    """Nobody watches."""
