"""The parts of a page that are about numbers: summary, curves, all clips, and how it was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vidtok.report.content import Report, Row, lower_is_better, run_label, series_label
from vidtok.report.escape import name, number, text
from vidtok.report.names import Names
from vidtok.report.plot import Axis, Curve, legend, line_plot

SPEEDS = {"encode_fps": "encode fps", "decode_fps": "decode fps"}
TOKENS = {"usage": "usage", "perplexity": "perplexity", "entropy": "entropy, bits", "repeats": "repeats"}
SAID = ("dialects", "settings", "versions", "weights")  # what the page says of all runs together
NAMED = ' class="name"'
NAMES = ("clip", "run", "B", "curve", "against")  # heads of columns of names
MOST_MARKED = 200  # clips up to which each has a marker of its own


def notices(report: Report, names: Names) -> str:
    """What a reader has to know before the numbers: alignment, what was left out, failed or missing."""
    lines = []
    for row in report.clip_rows:
        where, other = names.clip_html(row["path"]), names.run_html(run_label(row))
        lines += [f"{other} was aligned to {where}: {text(words)}" for words in row.get("aligned") or ()]
        if row.get("frames_left_out"):
            lines.append(f"{where}: {row['frames_left_out']} frames of the longer video were left out")
    lines += _missing(report, names)
    for row in report.failures:
        lines.append(f"{names.clip_html(row['path'])} failed: {text(row['error'])}")
    shown = list(dict.fromkeys(lines))
    if not shown:
        return ""
    return f'<section class="notice" aria-labelledby="h-notes"><h2 id="h-notes">To note</h2>{items(shown)}</section>'


def summary(report: Report, names: Names) -> str:
    """A row per run: means over clips, with their intervals, and the worst clip by each metric."""
    rows, metrics = report.summaries, report.metrics
    if not rows:
        return ""
    first = "B" if report.compared else "run"
    plain = [(key, key) for key in ("clips", "failed", "frames") if _any(rows, key)]
    plain += [("bpp", "bpp")] if _any(rows, "bpp") else []
    tail = [(key, words) for key, words in (TOKENS | SPEEDS).items() if _any(rows, key)]
    head = [first, *(words for _, words in plain), *(_heading(m) for m in metrics), *(words for _, words in tail)]
    body = []
    for row in rows:
        cells = [f"{number(row.get(key))}{_interval(row, key)}" for key, _ in plain]
        cells += [f"{number(row.get(m))}{_interval(row, m)}{_worst(row, m, names)}" for m in metrics]
        cells += [number(row.get(key)) for key, _ in tail]
        body.append([names.run_html(run_label(row)), *cells])
    return (
        '<section aria-labelledby="h-summary"><h2 id="h-summary">Summary</h2>'
        + table("Video B against video A" if report.compared else "Means over clips", head, body)
        + "</section>"
    )


def rate_curves(report: Report, names: Names) -> str:
    """Every metric over bits per pixel, a curve per model or codec, a point per quality or setting."""
    rows = [row for row in report.summaries if row.get("bpp")]
    figures = [figure for metric in report.metrics if (figure := _rate_curve(rows, metric, names))]
    if not figures:
        return ""
    labels = [names.series.get(label, label) for label in dict.fromkeys(series_label(row) for row in rows)]
    return (
        '<section aria-labelledby="h-rate"><h2 id="h-rate">Rate and distortion</h2><p>Means over clips; '
        f'bars are intervals where they are known.</p>{legend(labels)}<div class="plots">{"".join(figures)}</div>'
        f"{_delta_table(report, names)}</section>"
    )


def clip_plots(report: Report, names: Names) -> str:
    """Every metric clip by clip, clips sorted by the first run; "" where there is one clip."""
    rows = report.clip_rows
    paths = list(dict.fromkeys(str(row["path"]) for row in rows))
    if len(paths) < 2:
        return ""
    labels = list(dict.fromkeys(run_label(row) for row in rows))
    by_place = {(str(row["path"]), run_label(row)): row for row in rows}
    figures = []
    for metric in [m for m in ("bpp", *report.metrics) if _any(rows, m)]:
        order = sorted(paths, key=lambda path: _value(by_place.get((path, labels[0])), metric, -math.inf))
        curves = [_clip_curve(label, order, by_place, metric, names) for label in labels]
        figures.append(_figure(metric, line_plot(
            curves, Axis(label="clips, sorted by the first run", whole=True), Axis(label=metric),
            title=f"{metric} of each clip",
        )))
    legends = legend([names.run(label) for label in labels])
    return f'<h3>Clip by clip</h3>{legends}<div class="plots">{"".join(figures)}</div>'


def clip_table(report: Report, names: Names, anchors: Mapping[str, str]) -> str:
    """A row per clip and run; `anchors`: path -> id of what shows the clip. "" where the summary has it all."""
    rows, metrics = report.clip_rows, report.metrics
    if not rows or report.compared:
        return ""
    tail = [(key, words) for key, words in SPEEDS.items() if _any(rows, key)]
    rate = _any(rows, "bpp")
    head = ["clip", "run", "frames", "size", *(["bpp"] if rate else []), *map(_heading, metrics), *(w for _, w in tail)]
    body = []
    for row in rows:
        clip = names.clip_html(row["path"])
        anchor = anchors.get(str(row["path"]))
        cells = [f'<a href="#{anchor}">{clip}</a>' if anchor else clip, names.run_html(run_label(row))]
        cells += [number(row.get("frames")), f"{row.get('width', '–')} × {row.get('height', '–')}"]
        cells += [number(row.get("bpp"))] if rate else []
        cells += [number(row.get(metric)) for metric in metrics] + [number(row.get(key)) for key, _ in tail]
        body.append(cells)
    return table("All clips", head, body)


def method(report: Report) -> str:
    """Dialects, provenance, and every value of the summary rows."""
    parts = ['<section aria-labelledby="h-method"><h2 id="h-method">How it was measured</h2>']
    shown = {key: words for key, words in report.dialects.items() if any(key in row for row in report.rows)}
    parts.append(_definitions({**shown, **{k: w for k, w in report.dialects.items() if k == "tokens"}}))
    parts.append(f"<h3>To run it again</h3>{_definitions(report.provenance)}")
    parts.append(
        '<p><button type="button" id="save" hidden>Save all numbers as JSON</button></p>'
        "<details><summary>Every value of the summary</summary>"
        + "".join(_definitions({k: v for k, v in row.items() if k not in SAID}) for row in report.summaries)
        + "</details></section>"
    )
    return "".join(parts)


def items(lines: Iterable[str]) -> str:
    """A list; the lines are HTML already."""
    return f"<ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul>"


def table(caption: str, head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table that scrolls sideways where it is too wide; cells are HTML, the first of a row is its header."""
    columns = "".join(f'<th scope="col"{NAMED if cell in NAMES else ""}>{cell}</th>' for cell in head)
    lines = []
    for cells in body:
        rest = "".join(_cell(cell) for cell in cells[1:])
        lines.append(f'<tr><th scope="row">{cells[0]}</th>{rest}</tr>')
    return (
        f'<div class="wide" role="region" aria-label="{text(caption)}" tabindex="0"><table>'
        f"<caption>{text(caption)}</caption><thead><tr>{columns}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(cell: str) -> str:
    """A cell of a table: names to the left, numbers to the right."""
    return f"<td{NAMED if cell.startswith('<bdi') else ''}>{cell}</td>"


def unit(metric: str) -> str:
    return "dB" if metric.startswith(("psnr", "xpsnr")) else ""


def axis_label(metric: str) -> str:
    return f"{metric}, {unit(metric)}" if unit(metric) else metric


def _missing(report: Report, names: Names) -> list[str]:
    """A line for each metric and reason, with the runs that lack it."""
    lacking: dict[tuple[str, str], list[str]] = {}
    for row in report.summaries:
        for key, why in row.items():
            if key.endswith("_missing"):
                lacking.setdefault((key.removesuffix("_missing"), str(why)), []).append(names.run_html(run_label(row)))
    lines = []
    for (metric, why), runs in lacking.items():
        of_whom = "" if len(runs) == len(report.summaries) else f" of {', '.join(runs)}"
        lines.append(f"no {text(metric)}{of_whom}: {text(why)}")
    return lines


def _delta_table(report: Report, names: Names) -> str:
    """Bjontegaard deltas, a row for each metric of each curve; why there is none where the curves share nothing."""
    body = []
    for row in report.deltas:
        pair = [name(names.series.get(str(row[key]), row[key])) for key in ("test", "anchor")]
        cells = [*pair, text(row["metric"])]
        clips = f"{number(row.get('bd_rate_clips'))}{_interval(row, 'bd_rate_clips')}"
        overlap = "–"
        if row.get("overlap"):
            low, high = map(number, row["overlap"])
            overlap = f'{low} to {high}<span class="more">{100 * row["overlap_share"]:.0f} % of both</span>'
        body.append([*cells, _delta_cell(row, "bd_rate"), _delta_cell(row, "bd_quality"), clips, overlap])
    if not body:
        return ""
    head = ["curve", "against", "metric", "BD-rate, %", "BD-quality", "BD-rate of clips, %", "range of the metric"]
    return "<p>BD-rate below 0: fewer bits for the same quality.</p>" + table("Bjontegaard deltas", head, body)


def _delta_cell(row: Row, key: str) -> str:
    """The delta, or why there is none."""
    if row.get(key) is not None:
        return number(row[key])
    return f'<span class="more">{text(row.get(f"{key}_missing", "no common range"))}</span>'


def _figure(metric: str, plot: str) -> str:
    words = "lower is better" if lower_is_better(metric) else "higher is better"
    better = "" if metric == "bpp" else f" <small>· {words}</small>"
    return f"<figure><figcaption>{text(axis_label(metric))}{better}</figcaption>{plot}</figure>" if plot else ""


def _rate_curve(rows: Sequence[Row], metric: str, names: Names) -> str:
    curves = []
    for label in dict.fromkeys(series_label(row) for row in rows):
        own = [row for row in rows if series_label(row) == label and row.get(metric) is not None]
        own.sort(key=lambda row: float(row["bpp"]))
        bounds = [row.get(f"{metric}_interval") or (None, None) for row in own]
        words = [f"{names.run(run_label(row))}: {number(row['bpp'])} bpp, {number(row[metric])}" for row in own]
        curves.append(Curve(
            name=names.series.get(label, label), x=[float(row["bpp"]) for row in own],
            y=[float(row[metric]) for row in own], low=[b[0] for b in bounds], high=[b[1] for b in bounds],
            words=words, whiskers=True,
        ))
    rates = [x for curve in curves for x in curve.x]
    log = bool(rates) and max(rates) > 4 * min(rates)
    label = "bits per pixel, logarithmic" if log else "bits per pixel"
    return _figure(metric, line_plot(
        curves, Axis(label=label, log=log), Axis(label=metric), title=f"{metric} over bits per pixel",
    ))


def _clip_curve(
    label: str, order: Sequence[str], by_place: Mapping[tuple[str, str], Row], metric: str, names: Names
) -> Curve:
    have = [(i, path, by_place.get((path, label))) for i, path in enumerate(order, 1)]
    points = [(i, path, row) for i, path, row in have if row is not None and row.get(metric) is not None]
    return Curve(
        name=label, x=[i for i, _, _ in points], y=[float(row[metric]) for _, _, row in points],
        words=[f"{names.clip(path)}, {names.run(label)}: {number(row[metric])}" for _, path, row in points],
        joined=len(order) > MOST_MARKED,
    )


def _heading(metric: str) -> str:
    """The head of a column: the metric, its unit, and an arrow to where it is better."""
    better, arrow = ("lower is better", "↓") if lower_is_better(metric) else ("higher is better", "↑")
    return f'{text(axis_label(metric))} <abbr title="{better}">{arrow}</abbr>'


def _interval(row: Row, key: str) -> str:
    bounds = row.get(f"{key}_interval")
    if not bounds:
        return ""
    return f'<span class="more">{number(bounds[0])} to {number(bounds[1])}</span>'


def _worst(row: Row, metric: str, names: Names) -> str:
    if row.get(f"{metric}_worst") is None or row.get("clips") == 1:
        return ""
    worst = number(row[f"{metric}_worst"])
    return f'<span class="more">worst {worst}, {names.clip_html(str(row[f"{metric}_worst_path"]))}</span>'


def _definitions(values: Mapping[str, Any]) -> str:
    parts = []
    for key, value in values.items():
        inner = _definitions(value) if isinstance(value, Mapping) else _words(value)
        parts.append(f"<div><dt>{name(key)}</dt><dd>{inner}</dd></div>")
    return f"<dl>{''.join(parts)}</dl>" if parts else ""


def _words(value: Any) -> str:
    if isinstance(value, list | tuple):
        return name(", ".join(map(number, value)))
    return name(value if isinstance(value, str) else number(value))


def _any(rows: Sequence[Row], key: str) -> bool:
    return any(row.get(key) is not None for row in rows)


def _value(row: Row | None, key: str, otherwise: float) -> float:
    return otherwise if row is None or row.get(key) is None else float(row[key])
