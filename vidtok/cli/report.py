"""`--report page.html` of eval and compare: watch the run, then write the page, whole or not at all."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import vidtok
from vidtok.cli.output import Console, Row, size

if TYPE_CHECKING:
    from vidtok.report import Recorder


class Page:
    """The page to be; without a path nothing is watched and nothing written. `limits` are those of ReportOptions."""

    def __init__(self, path: Path | None, *, force: bool, **limits: int) -> None:
        self.recorder: Recorder | None = None
        self._path, self._force = path, force
        if path is None:
            return
        from vidtok.report import Recorder, ReportOptions, check_target

        if path.is_file() and not force:
            raise click.UsageError(f"{path} exists already; --force overwrites it")
        check_target(path, force=force)
        self.recorder = Recorder(ReportOptions(**limits))
        click.get_current_context().call_on_close(self.recorder.close)

    def write(self, console: Console, title: str, dialects: Mapping[str, str]) -> None:
        """The page of all rows that the console has seen."""
        if self._path is None or self.recorder is None:
            return
        from vidtok.report import Report, write_report

        page = Report(
            title=title,
            rows=console.rows,
            dialects=dialects,
            provenance=provenance(console.rows),
            clips=self.recorder,
        )
        count = write_report(self._path, page, force=self._force)
        console.say(f"{self._path}: {size(count)}")


def provenance(rows: Sequence[Row]) -> dict[str, Any]:
    """What it takes to run this again: command, settings and versions of the summaries, models by content id, time."""
    models = {str(row["model"]): row["model_id"] for row in rows if row.get("model_id") and row.get("model")}
    versions = {"vidtok": vidtok.__version__, "python": platform.python_version()}
    versions |= {package: metadata.version(package) for package in ("torch", "av", "numpy")}
    found: dict[str, Any] = {"command": shlex.join(["vidtok", *sys.argv[1:]]), "versions": versions}
    for key in ("versions", "settings", "weights"):
        said: dict[str, Any] = next((row[key] for row in reversed(rows) if row.get(key)), {})
        found |= {key: {k: v for k, v in said.items() if k != "dialects"}} if said else {}
    if models:
        found["model ids"] = models
    found["machine"] = f"{platform.system()} {platform.machine()}"
    return found | {"written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")}


def videos(rows: Sequence[Row]) -> str:
    """'clip.mp4' or '12 videos'."""
    paths = {str(row["path"]) for row in rows if "path" in row}
    return Path(paths.pop()).name if len(paths) == 1 else f"{len(paths)} videos"
