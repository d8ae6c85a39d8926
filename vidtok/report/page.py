"""The page: one HTML file that needs nothing else, and forbids itself to fetch anything.

The style sheet and the script are files beside this one. The policy in the page's head allows these two, by their
hashes, and pictures that are in the page; no other script, style, picture, font, frame or connection.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from vidtok.bitstream.output import OutputFile
from vidtok.report import clips, tables
from vidtok.report.content import Report
from vidtok.report.escape import breakable, data, text
from vidtok.report.names import Names


def write_report(target: str | os.PathLike[str], report: Report, *, force: bool = False) -> int:
    """Write the page; it appears under its name only when it is whole. Returns its bytes.

    OutputError if it cannot be written, OutputExistsError if it is there and not `force`.
    """
    count = 0
    with OutputFile(target, force=force) as output:
        for part in page(report):
            count += output.write(part.encode())
    return count


def check_target(target: str | os.PathLike[str], *, force: bool = False) -> None:
    """The errors that writing would have, before any work is done. Pipes and devices are left alone."""
    path = Path(target)
    if path.is_file() or path.is_dir() or not path.exists():
        OutputFile(path, force=force).discard()


def page(report: Report) -> Iterator[str]:
    """The page in parts, a clip at a time; `report.clips` is gone through more than once."""
    names = Names(report)
    places = clips.anchors(report)
    yield _head(report.title)
    yield f"<body><header><h1>{breakable(report.title)}</h1><p>{_subtitle(report)}</p></header>"
    yield f"{_contents(report)}<main>"
    yield tables.notices(report, names)
    yield tables.summary(report, names)
    yield tables.rate_curves(report, names)
    yield clips.gallery(report, names, places)
    yield '<section aria-labelledby="h-clips"><h2 id="h-clips">Clips</h2>'
    yield tables.clip_plots(report, names)
    yield tables.clip_table(report, names, places)
    yield _which_clips(report, places)
    for i, (path, runs) in enumerate(clips.by_clip(report.clips)):
        yield clips.clip_section(path, runs, names, places[path], is_open=i == 0)
    yield "</section>"
    yield tables.method(report)
    rows = {"rows": report.rows, "dialects": report.dialects, "provenance": report.provenance}
    yield f'</main><script type="application/json" id="numbers">{data(rows)}</script>'
    yield f"<script>{_asset('page.js')}</script></body></html>\n"


def policy() -> str:
    """What the page may do, as its Content-Security-Policy says it."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_hash('page.css')}'; script-src '{_hash('page.js')}'; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def _asset(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _hash(name: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(_asset(name).encode()).digest()).decode()


def _head(title: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy()}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'
        f'<title>{text(title)}</title><link rel="icon" href="data:,"><style>{_asset("page.css")}</style></head>\n'
    )


def _subtitle(report: Report) -> str:
    videos = len({str(row["path"]) for row in report.clip_rows})
    runs = len(report.summaries)
    words = [_count(videos, "clip"), _count(runs, "run")]
    failed = len({str(row["path"]) for row in report.failures})
    return ", ".join([*words, *([f"{failed} failed"] if failed else [])])


def _contents(report: Report) -> str:
    """Links to the parts that are there."""
    links = [("h-summary", "Summary")] if report.summaries else []
    links += [("h-rate", "Rate and distortion")] if any(row.get("bpp") for row in report.summaries) else []
    links += [("h-worst", "Worst frames")] if any(detail.worst for detail in report.clips) else []
    links += [("h-clips", "Clips"), ("h-method", "How it was measured")]
    anchors = "".join(f'<a href="#{anchor}">{words}</a>' for anchor, words in links)
    return f'<nav aria-label="Parts of this page">{anchors}</nav>'


def _which_clips(report: Report, places: dict[str, str]) -> str:
    """How many of the clips are shown, and which."""
    videos = len({str(row["path"]) for row in report.clip_rows})
    if not places or videos <= len(places):
        return ""
    return f"<p>Below: {len(places)} of {videos} clips, the worst of those measured in this run, worst first.</p>"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
