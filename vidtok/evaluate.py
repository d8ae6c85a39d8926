"""The whole loop over files: encode, decode, measure; a row per clip and coder, deltas of curves, and summaries.

    inputs --plan--> clips x families --workers--> rows --Summary--> means, intervals
                                         |                    `----> Bjontegaard deltas
                                         `--> a file of results, from which --resume goes on

A run is a model at one quality or an ordinary codec at one rate; a job is one clip for a family of runs: all qualities
of a model, which share their encoding, or one codec at one rate. The parts are in `vidtok.evaluation`.
"""

from __future__ import annotations

import functools
import itertools
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vidtok.batch import Job, Outcome, Tell, describe_failure, plan
from vidtok.codec import open_source
from vidtok.codec.options import set_threads
from vidtok.errors import OutputError, UsageError, VidtokError
from vidtok.evaluation.clip import TOKEN_KEYS, measure_clip
from vidtok.evaluation.curves import choose_anchor, deltas
from vidtok.evaluation.options import EvalOptions, Progress, Row, Warn
from vidtok.evaluation.results import Results, settled
from vidtok.evaluation.runs import Run, families, highest, make_runs
from vidtok.evaluation.summary import Summary
from vidtok.metrics.networks import Networks
from vidtok.metrics.structure import MIN_SIDE
from vidtok.metrics.table import missing_metrics
from vidtok.report import ClipRecorder, Recorder, ReportOptions, run_label
from vidtok.workers import run as do_jobs

__all__ = ["TOKEN_KEYS", "EvalOptions", "evaluate"]

Begin = Callable[[int, int, str], None]
"""begin(number from 1, of how many, name) before each clip of each family of runs"""
Fetching = Callable[[str], Progress]
Failures = tuple[tuple[str, str], ...]
RESUMED = "clips that were done before the interruption are not in it; measure without --resume"


@dataclass(frozen=True, kw_only=True)
class ClipJob(Job):
    """A clip for some runs of a family; `saves`: where source and result of each are saved side by side, if anywhere.

    Its report is {"rows": a row for each of the runs, with `error` where it failed}.
    """

    runs: tuple[int, ...]
    saves: tuple[Path | None, ...]
    number: int

    def only(self, runs: Sequence[int]) -> ClipJob:
        """The job without the others."""
        kept = [(run, save) for run, save in zip(self.runs, self.saves, strict=True) if run in runs]
        return replace(self, runs=tuple(run for run, _ in kept), saves=tuple(save for _, save in kept))


def evaluate(
    inputs: Iterable[str | Path],
    options: EvalOptions,
    *,
    progress: Progress | None = None,
    warn: Warn | None = None,
    begin: Begin | None = None,
    fetching: Fetching | None = None,
    recorder: Recorder | None = None,
) -> Iterator[Row]:
    """Rows as they are ready: one per input and run, deltas between curves, then one summary per run.

    Inputs are files, globs and folders. An input that fails gives a row with `error`; the others are done.
    `progress(done, total)` counts the frames of the clip begun last: encoded, then measured for each run.
    `fetching(label)` gives a (done, total) callback in bytes for weights that are fetched (unless `offline`).
    `recorder` gets what a page shows of the clips that are measured now.
    """
    say = warn or _silent
    work = plan([str(path) for path in inputs], None, suffix=".vtok")
    paths = [job.source for job in work.jobs]
    if not paths and not work.problems:
        raise UsageError("no video to evaluate among the inputs; give files, or a folder that holds some")
    runs = make_runs(options)
    anchor = choose_anchor(options.anchor, runs)  # now, so that an unknown one stops everything
    networks = Networks(
        device=options.encode.device, weights=options.weights, offline=options.offline, progress=fetching
    )
    missing = missing_metrics(options.metrics, networks, options.fvd)
    if options.encode.strict:
        _refuse_missing(paths, options, missing)
    summaries = [Summary(run, options, missing) for run in runs]
    with Results(options.results, options) if options.results else nullcontext() as results:
        for name, reason in work.problems:
            yield from (_noted(results, summary.failure(name, reason)) for summary in summaries)
        jobs = list(_jobs(paths, runs, options))
        todo = []
        for job in jobs:
            rest = []
            for i in job.runs:
                row = _stored(results, job.source, runs[i])
                if row is None:
                    rest.append(i)
                    continue
                summaries[i].without("fid", RESUMED)
                yield summaries[i].add(row)
            if rest:
                todo.append(job.only(rest))
        for job, outcome in _do(todo, len(jobs), options, runs, networks, progress, say, begin, recorder):
            found_rows = outcome.report["rows"] if outcome.report else [{"error": outcome.error}] * len(job.runs)
            for i, found in zip(job.runs, found_rows, strict=True):
                summary = summaries[i]
                if "error" in found:
                    yield _noted(results, summary.failure(str(job.source), found["error"]))
                else:
                    yield summary.add(_noted(results, {"path": str(job.source)} | summary.run.head | found))
        how = settled(options, networks.files)
        rows = [summary.result(say) | how for summary in summaries]
        measured = (row for summary in summaries for row in summary.rows)
        for row in itertools.chain(deltas(measured, rows, options.metrics, anchor), rows):
            yield _noted(results, row)


def _do(
    jobs: Sequence[ClipJob],
    total: int,
    options: EvalOptions,
    runs: Sequence[Run],
    networks: Networks,
    progress: Progress | None,
    warn: Warn,
    begin: Begin | None,
    recorder: Recorder | None,
) -> Iterator[tuple[ClipJob, Outcome]]:
    """Jobs with their outcomes as they come, in this process or in several."""
    alone = min(options.workers, len(jobs)) <= 1
    started: dict[int, None] = {}  # numbers of jobs in the order of their beginning

    def tell(job: Job, kind: str, value: Any) -> None:
        assert isinstance(job, ClipJob)
        if kind == "warn":
            warn(value)
            return
        if kind == "detail":
            assert recorder is not None
            recorder.add(value)
            return
        if job.number not in started:
            started[job.number] = None
            if begin:
                begin(job.number, total, job.source.name)
        if progress and next(reversed(started)) == job.number:  # several workers: one bar shows one clip
            progress(*value)

    shown = recorder.options if recorder else None
    if alone:
        set_threads(options.encode.threads)
        for i in sorted({i for job in jobs for i in job.runs}):
            runs[i].prepare(options.encode)
        do: Callable[[Job, Tell], Row] = functools.partial(_measure, options, runs, networks, shown)
    else:
        threads = options.encode.threads or len(os.sched_getaffinity(0))
        share = max(1, threads // min(options.workers, len(jobs)))
        apart = replace(options, encode=replace(options.encode, threads=share), results=None, resume=False)
        do = functools.partial(_measure_apart, apart, runs, networks.failures, shown)
    for outcome in do_jobs(jobs, do, workers=options.workers, tell=tell):
        assert isinstance(outcome.job, ClipJob)
        yield outcome.job, outcome


def _measure(
    options: EvalOptions, runs: Sequence[Run], networks: Networks, shown: ReportOptions | None, job: Job, tell: Tell
) -> Row:
    """The rows of a clip; with `shown`, what a page shows of it is told as "detail"."""
    assert isinstance(job, ClipJob)
    own = [runs[i] for i in job.runs]
    best = highest(own)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="vidtok-eval-") as folder:
        warn, report = functools.partial(tell, "warn"), _Report(tell, len(own) + (best is not None))
        master = best.master(job.source, Path(folder), options.encode, report.part(0), warn) if best else None
        for n, (run, save) in enumerate(zip(own, job.saves, strict=True)):
            watch = ClipRecorder(str(job.source), run_label(run.head), shown) if shown else None
            part = report.part(n + (master is not None))
            try:
                row = measure_clip(
                    run, job.source, options, networks, save=save, progress=part, warn=warn, watch=watch, master=master
                )
            except Exception as exc:
                if len(own) == 1:
                    raise
                row = {"error": str(exc) if isinstance(exc, VidtokError) else describe_failure(exc)}
            else:
                if watch:
                    tell("detail", watch.finish())
            rows.append(row)
    return {"rows": rows}


class _Report:
    """Progress of a job in several parts of the same length, one after the other."""

    def __init__(self, tell: Tell, parts: int) -> None:
        self._tell, self._parts = tell, parts

    def part(self, number: int) -> Progress:
        def progress(done: int, total: int | None) -> None:
            if total is None:
                self._tell("progress", (done, None))
            else:
                self._tell("progress", (number * total + done, self._parts * total))

        return progress


def _measure_apart(
    options: EvalOptions,
    runs: Sequence[Run],
    failures: Failures,
    shown: ReportOptions | None,
    job: Job,
    tell: Tell,
) -> Row:
    """In a worker: with networks of its own (what was to be fetched is in the cache), and its share of threads."""
    assert isinstance(job, ClipJob)
    set_threads(options.encode.threads)
    for i in job.runs:
        runs[i].prepare(options.encode)
    networks = _own_networks(options.encode.device, options.weights, failures)
    return _measure(options, runs, networks, shown, job, tell)


@functools.lru_cache(maxsize=1)
def _own_networks(device: str, weights: str, failures: Failures) -> Networks:
    return Networks(device=device, weights=weights, failures=failures)


def _jobs(paths: Sequence[Path], runs: Sequence[Run], options: EvalOptions) -> Iterator[ClipJob]:
    taken: set[Path] = set()
    numbers = itertools.count(1)
    if options.save:
        try:
            options.save.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise OutputError(f"--save {options.save}: {exc.strerror}; give a folder") from exc
    for path in paths:
        saves = [_save_path(path, run, runs, options, taken) if options.save else None for run in runs]
        for family in families(runs):
            yield ClipJob(
                source=path,
                target=path,
                runs=tuple(family),
                saves=tuple(saves[i] for i in family),
                number=next(numbers),
            )


def _stored(results: Results | None, path: Path, run: Run) -> Row | None:
    """A row of an earlier run for the same bytes of the clip and the same weights."""
    row = results.take({"path": str(path)} | run.head, path) if results else None
    same = row is not None and all(row.get(key) == value for key, value in run.identity.items())
    return dict(row) if row is not None and same else None


def _save_path(path: Path, run: Run, runs: Sequence[Run], options: EvalOptions, taken: set[Path]) -> Path:
    """Where this clip is saved: stem, coder and rate where there are several, a number if taken."""
    assert options.save is not None
    coder, rate = run.short
    several = len({other.name for other in runs}) > 1, sum(other.name == run.name for other in runs) > 1
    parts = [path.stem, coder if several[0] else "", rate if several[1] else ""]
    name = ".".join(part for part in parts if part)
    names = itertools.chain([name], (f"{name}.{i}" for i in itertools.count(2)))
    candidates = (options.save / f"{name}.mp4" for name in names)
    target = next(p for p in candidates if p not in taken and (options.encode.force or not p.exists()))
    taken.add(target)
    return target


def _refuse_missing(paths: Sequence[Path], options: EvalOptions, missing: Mapping[str, str]) -> None:
    """--strict: a metric that cannot be had stops everything before any work."""
    for name, reason in missing.items():
        raise UsageError(f"{name}: {reason} (--strict); leave it out")
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


def _noted(results: Results | None, row: Row) -> Row:
    if results is not None:
        results.add(row)
    return row


def _silent(_: str) -> None:
    """Nobody is told."""
