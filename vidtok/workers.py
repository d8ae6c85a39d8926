"""Jobs one after the other, or in several processes: one that dies costs its own job and is replaced."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from vidtok.batch import Job, Outcome, Work, attempt

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess


def serve(connection: Connection, work: Work) -> None:
    """A worker: receive a job, send what it tells and its outcome, until there is None or nobody."""
    with suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        while (job := connection.recv()) is not None:
            outcome = attempt(job, work, lambda kind, value: connection.send((kind, value)))
            connection.send(("done", outcome))


class _Worker:
    """A process, our end of its pipe, and the job it has."""

    def __init__(self, work: Work) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=serve, args=(theirs, work), daemon=True)
        self.process.start()
        theirs.close()
        self.job: Job | None = None

    def give(self, job: Job | None) -> None:
        self.job = job
        with suppress(OSError):  # it died while idle: noticed when its end of the pipe reports so
            self.connection.send(job)

    def death(self) -> str:
        """Why the process is gone, in a line."""
        self.process.join(5)
        code = self.process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            hint = (
                "; perhaps the machine ran out of memory: fewer --workers or a smaller --tile"
                if code == -9
                else ""
            )
            return f"its worker was killed by {name}{hint}"
        return f"its worker ended with exit code {code}"


def run(
    jobs: Sequence[Job], work: Work, *, workers: int = 1, tell: Callable[[Job, str, Any], None]
) -> Iterator[Outcome]:
    """Do the jobs, in this process or in `workers` others; outcomes come as they are ready."""
    if min(workers, len(jobs)) > 1:
        yield from _run_in_workers(jobs, work, min(workers, len(jobs)), tell)
        return
    for job in jobs:
        yield attempt(job, work, functools.partial(tell, job))


def _run_in_workers(
    jobs: Sequence[Job], work: Work, count: int, tell: Callable[[Job, str, Any], None]
) -> Iterator[Outcome]:
    waiting = list(reversed(jobs))
    workers = [_Worker(work) for _ in range(count)]
    try:
        for worker in workers:
            worker.give(waiting.pop())
        while busy := [worker for worker in workers if worker.job is not None]:
            for ready in wait([worker.connection for worker in busy]):
                worker = next(worker for worker in busy if worker.connection is ready)
                outcome = _hear(worker, tell)
                if outcome is None:
                    continue
                yield outcome
                if not waiting:
                    worker.give(None)
                    continue
                if not worker.process.is_alive():
                    workers.remove(worker)
                    worker = _Worker(work)
                    workers.append(worker)
                worker.give(waiting.pop())
    finally:
        _stop(workers)


def _hear(worker: _Worker, tell: Callable[[Job, str, Any], None]) -> Outcome | None:
    """One message of a worker; the outcome of its job if that is what it was, or if the worker is gone."""
    assert worker.job is not None
    try:
        kind, value = worker.connection.recv()
    except (EOFError, OSError):
        return Outcome(job=worker.job, error=worker.death())
    if kind == "done":
        assert isinstance(value, Outcome)
        return value
    tell(worker.job, kind, value)
    return None


def _stop(workers: Sequence[_Worker]) -> None:
    """Let idle workers go and interrupt the others, so that they remove what they were writing."""
    for worker in workers:
        worker.process.join(1)
        if worker.process.is_alive() and worker.process.pid is not None:
            os.kill(worker.process.pid, signal.SIGINT)
    for worker in workers:
        worker.process.join(5)
        if worker.process.is_alive():
            worker.process.kill()
        worker.connection.close()
