#!/usr/bin/env python3
"""docs/results.md and its plots, from the rows that scripts/results.sh has measured.

    python scripts/results.py OUTPUT [--page docs/results.md] [--note TEXT]

Every number and sentence of the page is made of the rows, so that the page of another model is one command away and
nobody writes in it. A note is kept beside the rows, and so is there again next time; an empty one takes it away.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from vidtok.checkpoint import find_model
from vidtok.evaluation.curves import coder_of, curves_of, deltas
from vidtok.evaluation.results import read_results
from vidtok.metrics import DIALECTS
from vidtok.report.escape import text
from vidtok.report.plot import HEIGHT, LEFT, TOP, WIDTH, Axis, Curve, legend, line_plot
from vidtok.report.tables import axis_label

Row = dict[str, Any]
ROOT = Path(__file__).resolve().parent.parent
METRICS = {"psnr": "PSNR", "psnr:y": "PSNR of luma", "ssim": "SSIM", "ms_ssim": "MS-SSIM", "xpsnr": "XPSNR"}
PLOTTED = ("psnr", "ms_ssim", "ssim", "xpsnr")
MODES = ("raw", "lzma", "adaptive", "prior")
NAMES = {"x264": "x264", "x265": "x265", "svtav1": "SVT-AV1", "vp9": "VP9"}
NOTE = "note.txt"
LEGEND_ROW = 20
STYLES = (".plot text", ".grid", ".axis", ".line", ".whisker", ".mark", ".c0", ".c4", ".plot .mark")


@dataclass(frozen=True)
class Measured:
    """Rows of clips and of runs; `modes`: for every entropy mode that was measured, all its rows; `speed`: of runs;
    `note`: what was different when they were measured."""

    clips: list[Row]
    runs: list[Row]
    modes: dict[str, list[Row]]
    speed: list[Row]
    note: str


def load(folder: Path) -> Measured:
    clips: list[Row] = []
    runs: list[Row] = []
    for name in ("model", "codecs"):
        rows = read(folder / f"{name}.jsonl")
        clips += [row for row in rows if "path" in row and "error" not in row]
        runs += [row for row in rows if row.get("summary")]
    modes = {mode: read(path) for mode in MODES if (path := folder / f"mode-{mode}.jsonl").is_file()}
    modes = {mode: rows for mode, rows in modes.items() if any(row.get("summary") for row in rows)}
    mine = auto(clips)
    modes = {mode: modes.get(mode) or [*clips, *runs] for mode in MODES if mode in modes or mode == mine}
    path = folder / "speed.jsonl"
    speed = [row for row in read(path) if row.get("summary")] if path.is_file() else []
    note = folder / NOTE
    return Measured(clips, runs, modes, speed or runs, note.read_text(encoding="utf-8") if note.is_file() else "")


def read(path: Path) -> list[Row]:
    """Rows with the short names of codecs and the full name of the model."""
    names = {"codec": short, "model": lambda name: find_model(name)[0]}
    rows = read_results(path)
    return [row | {key: name(row[key]) for key, name in names.items() if row.get(key)} for row in rows]


def with_modes(measured: Measured) -> Measured:
    """The model's rows once for every mode but raw, under names that say the mode."""
    clips: list[Row] = []
    runs: list[Row] = []
    for rows, into in ((measured.clips, clips), (measured.runs, runs)):
        into += [row for row in rows if row.get("codec")]
        for mode, found in measured.modes.items():
            if mode == "raw":
                continue
            own = (row for row in found if row.get("bpp") and row.get("model"))
            bpp = {(row.get("path"), row["quality"]): row["bpp"] for row in own}
            for row in rows:
                if row.get("model"):
                    at = bpp[row.get("path"), row["quality"]]
                    into.append(row | {"model": f"{row['model']} {mode}", "bpp": at})
    return replace(measured, clips=clips, runs=runs)


def short(codec: str) -> str:
    """'x264:preset=medium' -> 'x264 medium'."""
    name, *words = codec.split(":")
    words = [word.removeprefix("preset=") for word in words]
    return " ".join([NAMES.get(name, name), *(f"preset {word}" if word.isdecimal() else word for word in words)])


# --- plots --------------------------------------------------------------------------------------


def drawing(measured: Measured, metric: str) -> str:
    """A metric over bits per pixel as an SVG file of its own, with its legend, for light and dark."""
    found = curves_of(measured.runs)
    curves = [
        Curve(
            name=name,
            x=[row["bpp"] for row in rows],
            y=[row[metric] for row in rows],
            words=[f"{name} {row['quality']:g}: {row['bpp']:.4f} bpp, {row[metric]:.4g}" for row in rows],
        )
        for name, rows in found.items()
    ]
    title = f"{METRICS[metric]} over bits per pixel"
    plot = line_plot(curves, Axis(label="bits per pixel, logarithmic", log=True), Axis(label=metric), title=title)
    inside = plot[plot.index(">") + 1 : plot.rindex("</svg>")]
    height = HEIGHT + LEGEND_ROW * -(-len(curves) // 2) + 6
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="plot" viewBox="0 0 {WIDTH} {height}" width="{2 * WIDTH}" '
        f'height="{2 * height}" role="img" aria-label="{text(title)}"><style>{style()}</style>'
        f'<rect class="paper" width="{WIDTH}" height="{height}"/>{inside}'
        f'<text x="{LEFT + 8}" y="{TOP + 12}">{text(axis_label(metric))}</text>{keys([c.name for c in curves])}</svg>\n'
    )


def keys(names: Sequence[str]) -> str:
    """The legend in two columns under the plot, drawn with the keys of the page's legend."""
    parts = []
    pieces = legend([*names, ""]).split("<li>")[1 : len(names) + 1]
    for i, (name, piece) in enumerate(zip(names, pieces, strict=True)):
        x, y = 12 + i % 2 * WIDTH // 2, HEIGHT + LEGEND_ROW * (i // 2)
        key = piece[piece.index(">") + 1 : piece.index("</svg>")]
        parts.append(f'<g transform="translate({x} {y})">{key}<text x="42" y="11">{text(name)}</text></g>')
    return "".join(parts)


def style() -> str:
    """Of the page's style sheet, the colours and what is about plots."""
    sheet = (ROOT / "vidtok" / "report" / "page.css").read_text(encoding="utf-8")
    colours = sheet[: sheet.index("* {")]
    rules = [line for line in sheet.splitlines() if line.startswith(STYLES)]
    more = ".paper{fill:var(--paper)} text{font-family:sans-serif} g>line:not(.grid){stroke-width:2}"
    return "".join([colours, *rules, more])


# --- tables -------------------------------------------------------------------------------------


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *body)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def number(value: float | None, metric: str = "") -> str:
    if value is None:
        return "–"
    places = 2 if "psnr" in metric or metric == "fps" else 4 if metric in ("bpp", "ms_ssim", "ssim") else 1
    return f"{value:.{places}f}"


def run_table(measured: Measured) -> str:
    body = []
    for name, rows in curves_of(measured.runs).items():
        for row in rows:
            rate = f"crf {row['quality']:g}" if row.get("codec") else f"quality {row['quality']}"
            worst = f"{number(row['psnr_worst'], 'psnr')} ({Path(row['psnr_worst_path']).stem})"
            low, high = row.get("psnr_interval") or (None, None)
            interval = f"{number(low, 'psnr')} to {number(high, 'psnr')}"
            values = [number(row[metric], metric) for metric in METRICS]
            body.append([name, rate, number(row["bpp"], "bpp"), *values, interval, worst])
    return table(["coder", "setting", "bpp", *METRICS.values(), "PSNR, 95 %", "worst clip, PSNR"], body)


def delta_table(measured: Measured, anchor: str) -> str:
    body = []
    for row in deltas(measured.clips, measured.runs, list(METRICS), anchor):
        rate = row["bd_rate_missing"] if row["bd_rate"] is None else f"{row['bd_rate']:+.0f} %"
        both = row.get("overlap")
        span = f"{number(both[0], row['metric'])} to {number(both[1], row['metric'])}" if both else "none"
        share = f" ({100 * row['overlap_share']:.0f} %)" if both else ""
        places = 2 if "psnr" in row["metric"] else 4
        quality = row["bd_quality_missing"] if row["bd_quality"] is None else f"{row['bd_quality']:+.{places}f}"
        rates = row.get("rate_overlap")
        rated = f"{rates[0]:.3f} to {rates[1]:.3f} ({100 * row['rate_overlap_share']:.0f} %)" if rates else "none"
        mean = "–" if row.get("bd_rate_clips") is None else f"{row['bd_rate_clips']:+.0f} %"
        clips = f"{mean} ({row['clips_overlapping']} of {row['clips']})"
        body.append([row["test"], METRICS[row["metric"]], rate, f"{span}{share}", clips, quality, rated])
    head = ["coder", "metric", "BD-rate", "over the quality", "mean of clips' BD-rates", "BD-quality", "over bpp"]
    return table(head, body)


def at_rate(rows: Sequence[Row], bpp: float, metric: str) -> float | None:
    """A clip's metric at a rate, on straight lines over the logarithm of the rate: of the highest rate where that is
    lower, None where the lowest is higher."""
    points = sorted((row["bpp"], row[metric]) for row in rows)
    if not points or bpp < points[0][0]:
        return None
    return float(np.interp(np.log(bpp), [np.log(x) for x, _ in points], [y for _, y in points]))


def clip_table(measured: Measured, model: str) -> tuple[str, list[str]]:
    """Clip by clip at the model's lowest and highest quality, what codecs reach in as many bytes; and sentences, the
    first of them about all together."""
    names = [name for name in curves_of(measured.runs) if name in {r.get("codec") for r in measured.runs}]
    own = [row for row in measured.clips if row.get("model") == model]
    ends = [end(row["quality"] for row in own) for end in (min, max)]
    body: list[list[str]] = []
    gaps: dict[tuple[int, str], list[tuple[str, float]]] = {}
    for row in sorted(own, key=lambda row: (row["path"], row["quality"])):
        if row["quality"] not in ends:
            continue
        cells = [Path(row["path"]).stem, str(row["quality"]), number(row["bpp"], "bpp"), number(row["psnr"], "psnr")]
        for metric in ("psnr", "ms_ssim"):
            for name in names:
                rows = [r for r in measured.clips if r.get("codec") == name and r["path"] == row["path"]]
                there = at_rate(rows, row["bpp"], metric)
                above = there is not None and bpp_above(rows, row["bpp"])
                cells.append(f"{'> ' if above else ''}{number(there, metric)}")
                if there is not None and metric == "psnr":
                    gaps.setdefault((row["quality"], name), []).append((cells[0], row["psnr"] - there))
        cells.insert(4 + len(names), number(row["ms_ssim"], "ms_ssim"))
        body.append(cells)
    head = ["clip", "quality", "bpp", "PSNR", *names, "MS-SSIM", *names]
    sentences = [sentence(quality, name, found) for (quality, name), found in gaps.items()]
    return table(head, body), [verdict([gap for found in gaps.values() for _, gap in found]), *sentences]


def bpp_above(rows: Sequence[Row], bpp: float) -> bool:
    return bpp > max(row["bpp"] for row in rows)


def verdict(gaps: Sequence[float]) -> str:
    """Who is ahead, of the model's gaps to codecs in dB."""
    codecs = sum(gap < 0 for gap in gaps)
    return f"Ordinary codecs are ahead in {codecs} of {len(gaps)} comparisons of a clip at as many bytes, by PSNR."


def sentence(quality: int, name: str, gaps: Sequence[tuple[str, float]]) -> str:
    mean = fmean(gap for _, gap in gaps)
    ahead = [f"{clip} by {gap:.1f}" for clip, gap in gaps if gap > 0]
    worst, best = min(gaps, key=lambda gap: gap[1]), max(gaps, key=lambda gap: gap[1])
    words = (
        f"- Quality {quality} against {name} in as many bytes: {mean:+.2f} dB PSNR in the mean of {len(gaps)} clips, "
        f"from {worst[1]:+.1f} on {worst[0]} to {best[1]:+.1f} on {best[0]}"
    )
    return f"{words}; the model is ahead on {', '.join(ahead)} dB." if ahead else f"{words}; {name} is always ahead."


def mode_table(measured: Measured) -> str:
    rows_of = {mode: [r for r in rows if r.get("summary") and r.get("model")] for mode, rows in measured.modes.items()}
    first = {row["quality"]: row["bpp"] for row in rows_of.get("lzma", [])}
    body = []
    for mode, rows in rows_of.items():
        for row in rows:
            against = f"{100 * (row['bpp'] / first[row['quality']] - 1):+.1f} %" if first else "–"
            fps = [number(row[key], "fps") for key in ("encode_fps", "decode_fps")]
            body.append([mode, str(row["quality"]), number(row["bpp"], "bpp"), against, *fps])
    return table(["mode", "quality", "bpp", "against lzma", "encode, frames/s", "decode, frames/s"], body)


def speed_table(measured: Measured) -> str:
    body = []
    for row in measured.speed:
        rate = f"crf {row['quality']:g}" if row.get("codec") else f"quality {row['quality']}"
        fps = [number(row[key], "fps") for key in ("encode_fps", "decode_fps")]
        body.append([coder_of(row), rate, number(row["bpp"], "bpp"), number(row["psnr"], "psnr"), *fps])
    return table(["coder", "setting", "bpp", "PSNR", "encode, frames/s", "decode, frames/s"], body)


# --- the page -----------------------------------------------------------------------------------


def machine() -> str:
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores{f' ({names[0]})' if names else ''}"


def page(folder: Path, pictures: Path, place: str) -> str:
    raw = load(folder)
    measured, model = with_modes(raw), next(row["model"] for row in raw.runs if row.get("model"))
    shown = f"{model} {next(mode for mode in reversed(MODES) if mode in raw.modes)}"
    anchor = next(name for name in curves_of(measured.runs) if name.startswith("x264"))
    pictures.mkdir(parents=True, exist_ok=True)
    for metric in PLOTTED:
        (pictures / f"{metric}.svg").write_text(drawing(measured, metric), encoding="utf-8")
    said = raw.runs[0]
    versions = ", ".join(f"{name} {value}" for name, value in said["versions"].items())
    model_id = next(row["model_id"] for row in raw.clips if row.get("model"))
    clips = sorted({Path(row["path"]).name for row in raw.clips})
    by_clip, (first, *sentences) = clip_table(measured, shown)
    qualities = len({row["quality"] for row in raw.runs if row.get("model")})
    images = "\n".join(f"![{METRICS[metric]} over bits per pixel]({place}/{metric}.svg)\n" for metric in PLOTTED)
    dialects = "\n".join(f"- {METRICS[metric]} (`{metric}`): {DIALECTS[metric]}." for metric in METRICS)
    commands = (ROOT / "scripts" / "results.sh").read_text(encoding="utf-8").split("\n", 1)[1].strip()
    return f"""# Results

{model} ({model_id[:12]}) in {qualities} qualities beside x264, x265 and SVT-AV1, on {len(clips)} clips: the first
{most(raw)} frames, short side 256. Every number is a mean over clips of what [`vidtok eval`](evaluation.md) says; of a
token file all bytes count, of the codecs the packets alone. The page is made by `scripts/results.sh` and
`scripts/results.py` (below).

**{first}**
They predict motion, choose block by block how to spend bits, and are tuned to make the error small. The tokenizer
makes ids on a fixed grid, for models that learn from them; how small they can be stored is a by-product. Whoever
wants to store or send video should take one of the codecs.

{chr(10).join(sentences)}

(Codecs between the rates that were measured: on straight lines over the logarithm of the rate. A clip that takes more
bytes than a codec at its finest setting here is compared with that setting, which favours the model; one that takes
fewer than at the coarsest is left out.)

## Rate and distortion

{images}
`{model} MODE` are the same ids, and so the same pictures, stored in another entropy mode (`--entropy MODE`).

{run_table(measured)}

## Bjontegaard deltas against {anchor}

BD-rate: percent of rate more for the same quality; BD-quality: quality more at the same rate. Each is taken over the
range that both curves cover (in brackets: its share of what either covers), and not given where there is none. A small
share makes any delta shaky. In the fifth column is the mean over the clips of each one's own BD-rate, where it has one.

{delta_table(measured, anchor)}

## Clip by clip

{shown} at its lowest and highest quality, and what the codecs reach on the same clip in as many bytes ("–": they never
take so few here; ">": they never take so many).

{by_clip}

## Entropy modes

Whole files. Lower qualities are cut from the highest, so that only that one has a speed of encoding; both speeds
include the entropy coder, with two clips at a time on {os.cpu_count()} cores. {about_modes(raw)}

{mode_table(measured)}

## Speed

From file to file, {alone(raw)} on {machine()}: reading, decoding and resizing the source count for
encoding; decoding runs beside the measuring of PSNR. The codecs encode with four threads and decode with one.
{raw.note}

{speed_table(measured)}

## What was measured

{dialects}

Clips: {", ".join(clips)}. Versions: {versions}.

```sh
{commands}
```
"""


def most(measured: Measured) -> int:
    return max(int(row["frames"]) for row in measured.clips)


def auto(clips: Sequence[Row]) -> str:
    """The mode that ids of the model are stored in in the main rows."""
    return str(next(row["entropy_mode"] for row in clips if row.get("model")))


def about_modes(measured: Measured) -> str:
    asked = next(row for row in measured.runs if row.get("model"))["settings"]["reading"]["entropy"]
    words = [f"`auto` takes `{auto(measured.clips)}` here."] if asked == "auto" else []
    if not {"lzma", "adaptive"} <= measured.modes.keys():
        words.append("Sizes in other modes are in [coding.md](coding.md).")
    return " ".join(words)


def alone(measured: Measured) -> str:
    """How the speeds were measured."""
    return "one clip at a time" if measured.speed is not measured.runs else "two clips at a time"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="OUTPUT")
    parser.add_argument("--note", help=f"what was different when the rows were measured; kept in OUTPUT/{NOTE}")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "results.md")
    args = parser.parse_args()
    if args.note is not None:
        (args.folder / NOTE).write_text(args.note.strip(), encoding="utf-8")
    pictures = args.page.with_suffix("")
    args.page.write_text(page(args.folder, pictures, pictures.name), encoding="utf-8")
    print(args.page)


if __name__ == "__main__":
    main()
