"""What `encode` and `decode` share: from inputs to outcomes, told on the way and summed up at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from vidtok.batch import Job, Outcome, Plan, Work, read_list
from vidtok.cli.output import Console, size
from vidtok.workers import run


@dataclass(kw_only=True)
class FolderRun:
    """The choices of a run over many files; `complete(job)` says whether a job's output is whole already.

    `prepare()` runs once before the first job: what it raises is wrong with all of them.
    """

    console: Console
    complete: Callable[[Job], bool]
    describe: Callable[[dict[str, Any]], str]
    prepare: Callable[[], object] = lambda: None
    exists: Callable[[Job], bool] = lambda job: job.target.exists()
    workers: int = 1
    force: bool = False
    resume: bool = False
    failures: list[tuple[str, str]] = field(default_factory=list)
    done: int = 0
    skipped: int = 0
    wrong_usage: bool = False

    def __call__(self, plan: Plan, work: Callable[[bool], Work]) -> int:
        """Do the plan; the exit code. `work(force)` gives the work, allowed to overwrite or not."""
        for name, reason in plan.problems:
            self._fail(name, "", f"{name}: {reason}")
        if plan.ignored:
            self.console.say(f"Left alone: {_some(plan.ignored)} (not an input, or a link that leads out)")
        todo, broken = self._choose(plan)
        many = len(plan.jobs) + len(plan.problems) > 1
        if todo or broken:
            self.prepare()
        if plan.into_folder:
            for folder in {job.target.parent for job in plan.jobs}:
                make_folder(folder)
        self._do(todo, work(self.force), many)
        self._do(broken, work(True), many)
        return self._sum_up(many)

    def _choose(self, plan: Plan) -> tuple[list[Job], list[Job]]:
        """Jobs to do, and jobs whose output is there but not whole, which --resume replaces."""
        todo: list[Job] = []
        broken: list[Job] = []
        for job in plan.jobs:
            if self.force or not self.exists(job):
                todo.append(job)
            elif not self.resume:
                self._fail(str(job.source), str(job.target), f"{job.target} exists already; --force overwrites it")
            elif self.complete(job):
                self.skipped += 1
            else:
                broken.append(job)
        return todo, broken

    def _do(self, jobs: list[Job], work: Work, many: bool) -> None:
        with _bars(self.console, len(plan_names(jobs)), many) as tell:
            for outcome in run(jobs, work, workers=self.workers, tell=tell):
                self._record(outcome)

    def _record(self, outcome: Outcome) -> None:
        row: dict[str, Any] = {"path": str(outcome.job.source), "output": str(outcome.job.target)}
        if outcome.error is not None:
            if self.console.debug:
                print(outcome.trace, file=sys.stderr, end="")
            self.wrong_usage = outcome.wrong_usage
            self._fail(row["path"], row["output"], outcome.error)
            return
        self.done += 1
        row |= outcome.report or {}
        self.console.result(row, () if self.console.quiet else self.describe(row))

    def _fail(self, path: str, output: str, error: str) -> None:
        self.failures.append((path, error))
        self.console.error(error if path in error else f"{path}: {error}")
        if self.console.json:
            self.console.result({"path": path, "output": output or None, "error": error})

    def _sum_up(self, many: bool) -> int:
        if many:
            skipped = f", {self.skipped} were complete already" if self.skipped else ""
            self.console.say(f"{self.done} done{skipped}, {len(self.failures)} failed")
            for path, error in self.failures[:20]:
                self.console.say(f"  failed: {error if path in error else f'{path}: {error}'}")
        elif self.skipped:
            self.console.say("complete already; nothing to do")
        if self.wrong_usage and not many:
            return 2
        return 1 if self.failures else 0


def plan_names(jobs: list[Job]) -> list[str]:
    """The inputs of jobs, for people."""
    return [str(job.source) for job in jobs]


def gather(inputs: tuple[str, ...], list_file: str | None) -> list[str]:
    """All inputs of a command; wrong usage if there is none."""
    names = [*inputs, *(read_list(list_file) if list_file is not None else [])]
    if not names:
        raise click.UsageError("no input; give files, globs, folders or --list FILE")
    return names


def dry_run(
    console: Console, plan: Plan, estimate: Callable[[Path], dict[str, Any]], *, force: bool, resume: bool
) -> int:
    """Say what would be done: a row per job with the size now and, where it can be known, the size then."""
    for job in plan.jobs:
        exists = job.target.exists()
        action = "write" if not exists else "overwrite" if force else "skip if complete" if resume else "fail: exists"
        row: dict[str, Any] = {"path": str(job.source), "output": str(job.target), "action": action}
        row["source_bytes"] = job.source.stat().st_size
        try:
            row |= estimate(job.source)
        except Exception as exc:
            from vidtok.cli import describe_exception

            row |= {"action": "fail", "error": describe_exception(exc)}
        then = f" -> about {size(row['bytes'])}" if row.get("bytes") else ""
        why = f" ({row['error']})" if "error" in row else ""
        text = f"{row['action']}: {job.source} -> {job.target}, {size(row['source_bytes'])}{then}{why}"
        console.result(row, text)
    for name, reason in plan.problems:
        console.error(f"{name}: {reason}")
    return 1 if plan.problems else 0


def make_folder(folder: Path) -> None:
    """Make an output folder and those above it. OutputError if that cannot be."""
    from vidtok.errors import OutputError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OutputError(f"{folder}: {exc.strerror}; give another -o") from exc


@contextmanager
def _bars(console: Console, total: int, many: bool) -> Iterator[Callable[[Job, str, Any], None]]:
    """A function that shows what jobs tell: one bar for the job told of last."""
    state: dict[str, Any] = {"job": None, "count": 0, "update": None, "close": lambda: None}

    def tell(job: Job, kind: str, value: Any) -> None:
        if kind == "warn":
            console.warn(value, str(job.source))
            return
        if state["job"] is not job:
            state["close"]()
            state["count"] += 1
            label = f"[{state['count']}/{total}] {job.source.name}" if many else job.source.name
            state["job"], (state["update"], state["close"]) = job, console.progress(label)
        state["update"](*value)

    try:
        yield tell
    finally:
        state["close"]()


def _some(paths: list[Path]) -> str:
    shown = ", ".join(str(path) for path in paths[:3])
    return shown if len(paths) <= 3 else f"{shown} and {len(paths) - 3} more"
