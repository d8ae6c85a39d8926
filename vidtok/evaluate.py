"""The whole loop over files: encode, decode, measure; a row per clip and coder, deltas of curves, and summaries.

    inputs --plan--> clips x runs --workers--> rows --Summary--> means, intervals
                                     |                    `----> Bjontegaard deltas
                                     `--> a file of results, from which --resume goes on

A run is a model at one quality or an ordinary codec at one rate; the parts are in `vidtok.evaluation`.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vidtok.batch import Job, Outcome, Tell, plan
from vidtok.codec import open_source
from vidtok.codec.options import set_threads
from vidtok.errors import UsageError, VidtokError
from vidtok.evaluation.clip import TOKEN_KEYS, measure_clip
from vidtok.evaluation.curves import choose_anchor, deltas
from vidtok.evaluation.options import EvalOptions, Progress, Row, Warn
from vidtok.evaluation.results import Results, settled
from vidtok.evaluation.runs import Run, make_runs
from vidtok.evaluation.summary import Summary
from vidtok.metrics.networks import Networks
from vidtok.metrics.structure import MIN_SIDE
from vidtok.metrics.table import missing_metrics
from vidtok.report import ClipRecorder, Recorder, ReportOptions, run_label
from vidtok.workers import run as do_jobs

__all__ = ["TOKEN_KEYS", "EvalOptions", "evaluate"]

Begin = Callable[[int, int, str], None]
"""begin(number from 1, of how many, name) before each clip of each run"""
Fetching = Callable[[str], Progress]
Failures = tuple[tuple[str, str], ...]
RESUMED = "clips that were done before the interruption are not in it; measure without --resume"


@dataclass(frozen=True, kw_only=True)
class ClipJob(Job):
    """A clip for one of the runs; `target` is where source and result are saved side by side."""

    run: int
    number: int


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
    `progress(done, total)` counts the frames of the clip at work twice: encoded, then measured. `fetching(label)`
    gives a (done, total) callback in bytes for weights that are fetched (unless `offline`). `recorder` gets what a page
    shows of the clips that are measured now.
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
            row = results.take({"path": str(job.source)} | runs[job.run].head, job.source) if results else None
            if row is None:
                todo.append(job)
                continue
            summaries[job.run].without("fid", RESUMED)
            yield summaries[job.run].add(dict(row))
        for job, outcome in _do(todo, len(jobs), options, runs, networks, progress, say, begin, recorder):
            summary = summaries[job.run]
            if outcome.error is not None:
                yield _noted(results, summary.failure(str(job.source), outcome.error))
            else:
                assert outcome.report is not None
                row = _noted(results, {"path": str(job.source)} | summary.run.head | outcome.report)
                yield summary.add(row)
        how = settled(options, networks.files)
        rows = [summary.result(say) | how for summary in summaries]
        for row in itertools.chain(deltas(summaries, rows, options.metrics, anchor), rows):
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
    started: list[int] = []

    def tell(job: Job, kind: str, value: Any) -> None:
        assert isinstance(job, ClipJob)
        if kind == "warn":
            warn(value)
            return
        if kind == "detail":
            assert recorder is not None
            recorder.add(value)
            return
        if not started or started[-1] != job.number:
            started.append(job.number)
            if begin:
                begin(job.number, total, job.source.name)
        if progress:
            progress(*value)

    shown = recorder.options if recorder else None
    if alone:
        set_threads(options.encode.threads)
        for run in {runs[job.run] for job in jobs}:
            run.prepare(options.encode)
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
    """The row of a clip; with `shown`, what a page shows of it is told as "detail"."""
    assert isinstance(job, ClipJob)
    watch = ClipRecorder(str(job.source), run_label(runs[job.run].head), shown) if shown else None
    row = measure_clip(
        runs[job.run],
        job.source,
        options,
        networks,
        save=job.target if options.save else None,
        progress=lambda done, total: tell("progress", (done, total)),
        warn=lambda text: tell("warn", text),
        watch=watch,
    )
    if watch:
        tell("detail", watch.finish())
    return row


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
    runs[job.run].prepare(options.encode)
    networks = _own_networks(options.encode.device, options.weights, failures)
    return _measure(options, runs, networks, shown, job, tell)


@functools.lru_cache(maxsize=1)
def _own_networks(device: str, weights: str, failures: Failures) -> Networks:
    return Networks(device=device, weights=weights, failures=failures)


def _jobs(paths: Sequence[Path], runs: Sequence[Run], options: EvalOptions) -> Iterator[ClipJob]:
    taken: set[Path] = set()
    numbers = itertools.count(1)
    for path in paths:
        for i, run in enumerate(runs):
            target = _save_path(path, run, runs, options, taken) if options.save else path
            yield ClipJob(source=path, target=target, run=i, number=next(numbers))


def _save_path(path: Path, run: Run, runs: Sequence[Run], options: EvalOptions, taken: set[Path]) -> Path:
    """Where this clip is saved: stem, coder and rate where there are several, a number if taken."""
    assert options.save is not None
    options.save.mkdir(parents=True, exist_ok=True)
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
