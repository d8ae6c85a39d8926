"""How runs and clips are called on a page: short where that is clear, and the same everywhere."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

from vidtok.report.content import Report, run_label, series_label
from vidtok.report.escape import name

PANES = (("source", "Source"), ("result", "Reconstruction"), ("difference", "Difference"))
COMPARED = (("source", "A"), ("result", "B"), ("difference", "Difference"))


class Names:
    """The names of a report. `clips`: path -> what it is called; `runs`: label -> what it is called; `panes`: the
    fields of a Preview that are shown beside each other, each with its title."""

    def __init__(self, report: Report) -> None:
        self.panes = COMPARED if report.compared else PANES
        rows = [row for row in report.rows if "path" in row]
        self.clips = _short_paths(dict.fromkeys(str(row["path"]) for row in rows))
        self.runs = _short_models(dict.fromkeys(label for row in report.rows if (label := run_label(row))))
        self.series = _short_models(dict.fromkeys(label for row in report.rows if (label := series_label(row))))

    def clip(self, path: str) -> str:
        return self.clips.get(path, path)

    def run(self, label: str) -> str:
        return self.runs.get(label, label)

    def clip_html(self, path: str) -> str:
        return name(self.clip(path), path)

    def run_html(self, label: str) -> str:
        return name(self.run(label), label)


def _short_paths(paths: Iterable[str]) -> Mapping[str, str]:
    """Without the folder that all are in; itself where that leaves nothing."""
    known = list(paths)
    try:
        common = os.path.commonpath([os.path.dirname(path) or "." for path in known]) if known else "."
    except ValueError:  # some absolute and some not, or other drives
        return {path: path for path in known}
    return {path: path if common == "." else os.path.relpath(path, common) for path in known}


def _short_models(labels: Iterable[str]) -> Mapping[str, str]:
    """Files of models by their stem, unless two would be called the same."""
    known = list(labels)
    short = [re.sub(r"\.safetensors(?= |$)", "", re.sub(r"^.*[/\\]", "", label)) or label for label in known]
    return dict(zip(known, short if len(set(short)) == len(known) else known, strict=True))
