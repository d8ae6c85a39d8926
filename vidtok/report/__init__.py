"""The HTML page of an evaluation: self-contained, made of plain data; no torch, nothing from the network.

content.py   what a page shows: Report, ClipDetail, Preview, TokenMap
record.py    Recorder: watches a run and keeps what a page needs, in bounded space
series.py    values frame by frame, in bounded space
tokens.py    token usage over the grid
names.py     how runs and clips are called
escape.py    names and numbers as HTML
plot.py      curves as inline SVG
picture.py   data URIs and maps of numbers
tables.py    summary, curves over rate, all clips, how it was measured
clips.py     players, worst frames, plots and maps of a clip
page.py      the page, with page.css and page.js
"""

from __future__ import annotations

from vidtok.report.content import ClipDetail, Preview, Report, ReportOptions, TokenMap, run_label
from vidtok.report.page import check_target, page, write_report
from vidtok.report.record import ClipRecorder, Recorder

__all__ = [
    "ClipDetail",
    "ClipRecorder",
    "Preview",
    "Recorder",
    "Report",
    "ReportOptions",
    "TokenMap",
    "check_target",
    "page",
    "run_label",
    "write_report",
]
