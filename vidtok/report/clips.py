"""The parts of a page that show a clip: players, worst frames, values frame by frame, token usage over the grid."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby

from vidtok.report.content import DIFFERENCE_GAIN, ClipDetail, Preview, Report, lower_is_better
from vidtok.report.escape import data, number, text
from vidtok.report.names import Names
from vidtok.report.picture import colour_scale, data_uri, heat_map
from vidtok.report.plot import Axis, Curve, legend, line_plot
from vidtok.report.tables import axis_label

GALLERY = 6  # frames of the gallery of worst frames
GALLERY_PER_CLIP = 2
ASSUMED_RATE = 25.0  # frames per second where the video does not say
SPEEDS = ((0.125, "⅛"), (0.25, "¼"), (0.5, "½"), (1, "1"), (2, "2"), (4, "4"))
ZOOMS = ((0, "fit"), (1, "1 ×"), (2, "2 ×"), (4, "4 ×"), (8, "8 ×"))


def by_clip(details: Iterable[ClipDetail]) -> Iterable[tuple[str, list[ClipDetail]]]:
    """(path, its runs), runs of a clip being neighbours."""
    for path, runs in groupby(details, key=lambda detail: detail.path):
        yield path, list(runs)


def anchors(report: Report) -> dict[str, str]:
    """path -> id of the part that shows it."""
    return {path: f"clip-{i}" for i, (path, _) in enumerate(by_clip(report.clips), 1)}


def gallery(report: Report, names: Names, places: dict[str, str]) -> str:
    """The worst frames of all clips that are kept, at most GALLERY_PER_CLIP of a clip."""
    found: list[tuple[float, ClipDetail, Preview]] = []
    for detail in report.clips:
        slim = replace(detail, series={}, previews=(), worst=(), maps=())
        found = _worst_of([*found, *((_badness(frame, detail), slim, frame) for frame in detail.worst)])
    if not found:
        return ""
    metric = found[0][1].worst_by
    figures = [_worst_figure(frame, detail, names, places.get(detail.path)) for _, detail, frame in found]
    return (
        '<section aria-labelledby="h-worst"><h2 id="h-worst">Worst frames</h2>'
        f"<p>By {text(metric)}, at most {GALLERY_PER_CLIP} of a clip: {', '.join(label for _, label in names.panes)} "
        f'({DIFFERENCE_GAIN} × around gray).</p><div class="worst">{"".join(figures)}</div></section>'
    )


def clip_section(path: str, runs: Sequence[ClipDetail], names: Names, anchor: str, *, is_open: bool) -> str:
    """A clip with all its runs, folded unless `is_open`."""
    first = runs[0]
    size = f"{first.frames} frames, {first.width} × {first.height}"
    rate = f", {first.rate:.5g} frames/s" if first.rate else ""
    parts = [
        f'<details class="clip" id="{anchor}"{" open" if is_open else ""}>',
        f"<summary><h3>{names.clip_html(path)}</h3> <small>{size}{rate}</small></summary>",
        _player(runs, names, anchor),
        _frame_plots(runs, names),
        _worst_of_clip(runs, names),
        _token_maps(runs, names),
        "</details>",
    ]
    return "".join(parts)


# --- player -------------------------------------------------------------------------------------


def _player(runs: Sequence[ClipDetail], names: Names, anchor: str) -> str:
    """Three canvases and their controls; a script fills them. The pictures are in a block of JSON."""
    shown = [run for run in runs if run.previews]
    if not shown:
        return ""
    count = max(len(run.previews) for run in shown)
    names_of_runs = [(i, names.run(run.run)) for i, run in enumerate(shown)]
    panes = "".join(
        f'<figure><figcaption>{label}</figcaption><div class="pane" tabindex="0" role="group" aria-label="{label}">'
        f'<canvas data-pane="{pane}" role="img" aria-label="{label}" width="{shown[0].preview_width}" '
        f'height="{shown[0].preview_height}"></canvas></div></figure>'
        for pane, label in names.panes
    )
    buttons = "".join(
        f'<button type="button" data-do="{do}" aria-label="{label}">{sign}</button>'
        for do, label, sign in (("back", "Frame back", "‹"), ("play", "Play", "▶"), ("next", "Frame on", "›"))
    )
    selects = _select(anchor, "run", "Run", names_of_runs, 0) if len(shown) > 1 else ""
    selects += _select(anchor, "speed", "Speed", SPEEDS, 1) + _select(anchor, "zoom", "Zoom", ZOOMS, 0)
    gains = [(gain, f"{gain} ×") for gain in (1, 2, DIFFERENCE_GAIN, 2 * DIFFERENCE_GAIN, 4 * DIFFERENCE_GAIN)]
    selects += _select(anchor, "gain", "Difference", gains, DIFFERENCE_GAIN)
    return (
        f'<div class="player" role="group" aria-label="Player of {text(names.clip(runs[0].path))}" tabindex="0" hidden>'
        f'<div class="panes">{panes}</div>'
        f'<div class="bar main">{buttons}<input type="range" min="0" max="{count - 1}" value="0" step="1" '
        f'aria-label="Frame"></div><div class="bar">{selects}</div>'
        f'<p class="state"><output></output></p><p class="keys">{_about_previews(shown[0])} '
        "Keys: <kbd>←</kbd> <kbd>→</kbd> frame, <kbd>Space</kbd> play, <kbd>Home</kbd> <kbd>End</kbd>, "
        "<kbd>+</kbd> <kbd>−</kbd> zoom, <kbd>&lt;</kbd> <kbd>&gt;</kbd> speed.</p>"
        f'<script type="application/json">{data(_player_data(shown, names))}</script></div>'
        '<noscript><p>The player needs JavaScript; the worst frames below do not.</p></noscript>'
    )


def _player_data(runs: Sequence[ClipDetail], names: Names) -> dict[str, object]:
    """Every picture once, and for each run which of them are its frames."""
    places: dict[bytes, int] = {}

    def place(picture: bytes) -> int:
        return places.setdefault(picture, len(places))

    listed = []
    for run in runs:
        metrics = [name for name in run.series if any(name in preview.values for preview in run.previews)]
        listed.append({
            "name": names.run(run.run),
            "frames": [preview.frame for preview in run.previews],
            "source": [place(preview.source) for preview in run.previews],
            "result": [place(preview.result) for preview in run.previews],
            "difference": [place(preview.difference) for preview in run.previews],
            "values": {name: [_rounded(preview.values.get(name)) for preview in run.previews] for name in metrics},
        })
    first = runs[0]
    return {
        "rate": first.rate or ASSUMED_RATE,
        "total": first.frames,
        "gain": DIFFERENCE_GAIN,
        "width": first.preview_width,
        "height": first.preview_height,
        "runs": listed,
        "pictures": [base64.b64encode(picture).decode() for picture in places],
    }


def _about_previews(run: ClipDetail) -> str:
    """What the pictures of the player are, honestly."""
    numbers = [preview.frame for preview in run.previews]
    step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
    which = "Every frame" if len(numbers) == run.frames else f"Every {_ordinal(step)} frame"
    smaller = run.preview_width < run.width or run.preview_height < run.height
    size = f", shrunk to {run.preview_width} × {run.preview_height}" if smaller else ""
    return f"{which}{size}, as JPEG; all numbers are from the whole, uncompressed frames."


def _select(anchor: str, key: str, label: str, choices: Sequence[tuple[float, str]], chosen: float) -> str:
    """A labelled choice; the values are numbers."""
    options = "".join(
        f'<option value="{value}"{" selected" if value == chosen else ""}>{text(words)}</option>'
        for value, words in choices
    )
    return (f'<label for="{anchor}-{key}">{label}<select id="{anchor}-{key}" data-set="{key}">{options}</select>'
            "</label>")


# --- plots, worst frames, maps ------------------------------------------------------------------


def _frame_plots(runs: Sequence[ClipDetail], names: Names) -> str:
    figures = []
    for metric in dict.fromkeys(metric for run in runs for metric in run.series):
        own = [(i, run, run.series[metric]) for i, run in enumerate(runs) if metric in run.series]
        curves = [Curve(name=names.run(run.run), x=s.centres, y=s.mean, low=s.low, high=s.high) for _, run, s in own]
        span = max(s.span for _, _, s in own)
        words = f" <small>· mean and range of {span} frames</small>" if span > 1 else ""
        title = f"{metric} frame by frame: " + "; ".join(
            f"{names.run(run.run)} from {number(min(s.low))} to {number(max(s.high))}" for _, run, s in own
        )
        frames = Axis(label="frame", whole=True, include=(0, max(run.frames for run in runs) - 1))
        plot = line_plot(curves, frames, Axis(label=metric), title=title, cursor=True)
        figures.append(f"<figure><figcaption>{text(axis_label(metric))}{words}</figcaption>{plot}</figure>")
    if not figures:
        return ""
    labels = legend([names.run(run.run) for run in runs])
    return f'<h4>Frame by frame</h4>{labels}<div class="plots">{"".join(figures)}</div>'


def _worst_of_clip(runs: Sequence[ClipDetail], names: Names) -> str:
    figures = [_worst_figure(frame, run, names, None) for run in runs for frame in run.worst]
    return f'<h4>Worst frames</h4><div class="worst">{"".join(figures)}</div>' if figures else ""


def _worst_figure(frame: Preview, detail: ClipDetail, names: Names, anchor: str | None) -> str:
    clip, run = names.clip(detail.path), names.run(detail.run)
    pictures = "".join(
        f'<img src="{data_uri(getattr(frame, pane))}" loading="lazy" width="{detail.preview_width}" '
        f'height="{detail.preview_height}" alt="{label}, frame {frame.frame} of {text(clip)}, {text(run)}">'
        for pane, label in names.panes
    )
    values = ", ".join(f"{text(key)} {number(value)}" for key, value in frame.values.items())
    where = f'<a href="#{anchor}">{names.clip_html(detail.path)}</a>, ' if anchor else ""
    seconds = f" ({frame.frame / detail.rate:.2f} s)" if detail.rate else ""
    caption = f"{where}{names.run_html(detail.run)}, frame {frame.frame}{seconds}: {values}"
    return f'<figure><div class="three">{pictures}</div><figcaption>{caption}</figcaption></figure>'


def _token_maps(runs: Sequence[ClipDetail], names: Names) -> str:
    """Maps of each run and stage, with what they mean and a scale of colours."""
    words = {"changes": "how often the id changes", "entropy": "entropy of the digits, bits per id"}
    figures = []
    for run in runs:
        several = len({item.stage for item in run.maps}) > 1
        for item in run.maps:
            low, high, mean = (number(float(f())) for f in (item.values.min, item.values.max, item.values.mean))
            stage = f", stage {item.stage + 1}" if several else ""
            said = f"{stage}: {words[item.name]}, {low} to {high}, mean {mean}"
            height, width = item.values.shape
            figures.append(
                f'<figure><img class="map" src="{data_uri(heat_map(item.values, item.most), "png")}" width="{width}" '
                f'height="{height}" alt="{text(names.run(run.run))}{said}"><div class="scale"><span>0</span><img '
                f'src="{data_uri(colour_scale(), "png")}" alt="" width="256" height="1">'
                f"<span>{number(item.most)}</span></div><figcaption>{names.run_html(run.run)}{said}</figcaption></figure>"
            )
    if not figures:
        return ""
    return f'<h4>Token usage over the grid</h4><div class="maps">{"".join(figures)}</div>'


# --- small things -------------------------------------------------------------------------------


def _badness(frame: Preview, detail: ClipDetail) -> float:
    assert detail.worst_by is not None
    value = frame.values[detail.worst_by]
    return value if lower_is_better(detail.worst_by) else -value


def _worst_of(found: list[tuple[float, ClipDetail, Preview]]) -> list[tuple[float, ClipDetail, Preview]]:
    """The GALLERY worst, at most GALLERY_PER_CLIP of a clip."""
    kept: list[tuple[float, ClipDetail, Preview]] = []
    for item in sorted(found, key=lambda item: (-item[0], item[1].path, item[2].frame)):
        if sum(other.path == item[1].path for _, other, _ in kept) < GALLERY_PER_CLIP and len(kept) < GALLERY:
            kept.append(item)
    return kept


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _ordinal(step: int) -> str:
    last = {1: "st", 2: "nd", 3: "rd"}.get(step % 10, "th") if step % 100 not in (11, 12, 13) else "th"
    return f"{step}{last}"
