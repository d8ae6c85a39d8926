"""Options that several commands share, each declared once with its meaning."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import click

from vidtok.cli.output import Console, write_csv

Command = Callable[..., Any]
MAX_PIXELS = 2**28


def parse_seconds(value: str) -> float:
    """A finite number of seconds, not negative."""
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise click.BadParameter(f"{value!r} is not a time; give seconds from 0 on, such as 2.5")
    return seconds


def parse_rate(value: str) -> str:
    """A positive rational or decimal number, kept as text: '24', '23.976', '30000/1001'."""
    try:
        good = 0 < Fraction(value) <= 100_000
    except (ValueError, ZeroDivisionError):
        good = False
    if not good:
        raise click.BadParameter(f"{value!r} is not a frame rate; give 24, 23.976 or 30000/1001")
    return value


def parse_size(value: str) -> str:
    """'256' (short side), '640x360' (width x height) or '256x256:crop' (its centre), kept as text."""
    size, colon, crop = value.lower().partition(":")
    sides = size.split("x")
    good = all(re.fullmatch(r"[0-9]{1,5}", side) and 1 <= int(side) <= 65535 for side in sides)
    if len(sides) > 2 or not good or (colon and (crop != "crop" or len(sides) != 2)):
        raise click.BadParameter(f"{value!r} is not a size; give 256 (short side), 640x360 or 256x256:crop, to 65535")
    return "x".join(sides) + colon + crop


def parse_span(value: str) -> tuple[int | None, int | None]:
    """'A:B', 'A:' or ':B': frames A to B, half open."""
    match = re.fullmatch(r"([0-9]{0,18}):([0-9]{0,18})", value)
    if match is None:
        raise click.BadParameter(f"{value!r} is not a span of frames; give A:B, A: or :B, as in 10:20")
    first, end = (int(side) if side else None for side in match.groups())
    if end is not None and (first or 0) >= end:
        raise click.BadParameter(f"{value!r} holds no frame; A:B is half open, so A must be below B")
    return first, end


def parsed(parse: Callable[[str], Any]) -> Any:
    """The click callback that runs `parse` on a value that was given."""
    return lambda ctx, param, value: None if value is None else parse(value)


def together(*parts: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in the order given."""

    def decorate(command: Command) -> Command:
        return functools.reduce(lambda inner, part: part(inner), reversed(parts), command)

    return decorate


def reporting(*, csv: bool = False) -> Callable[[Command], Command]:
    """--json, --quiet, --debug (and --csv, for the rows of `console.result`); the command gets `console`."""

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def call(json: bool, quiet: bool, csv_path: Path | None = None, **arguments: Any) -> Any:
            context = click.get_current_context()
            debug = bool(context.ensure_object(dict).get("debug"))
            if csv_path is not None and csv_path.exists() and not context.params.get("force"):
                raise click.UsageError(f"{csv_path} exists already; --force overwrites it")
            console = Console(json=json, quiet=quiet, debug=debug)
            code = command(console=console, **arguments)
            console.repeated_warnings()
            if csv_path is not None:
                write_csv(csv_path, console.rows, force=bool(context.params.get("force")))
            return code

        return together(*_REPORTING, *([_CSV] if csv else []))(call)

    return decorate


def _set_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(dict)["debug"] = True


_CSV = click.option(
    "--csv",
    "csv_path",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Write the rows to a table too.",
)
_REPORTING = (
    click.option("--json", is_flag=True, help="Results as JSON lines on stdout."),
    click.option("--quiet", "-q", is_flag=True, help="No words and no bar, only results and errors."),
    click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_set_debug,
        help="Show tracebacks.",
    ),
)

model = click.option(
    "--model",
    default="default",
    show_default=True,
    metavar="NAME|PATH",
    help="Built-in name, folder or file.",
)
quality = click.option(
    "--quality",
    type=click.IntRange(min=1),
    metavar="N",
    help="Stages of a multi-rate model; 1 = fewest bits [its default].",
)
target = together(
    click.option(
        "--target-bpp",
        type=click.FloatRange(min=0, min_open=True),
        metavar="X",
        help="Instead of --quality: the best of each segment, the file at most X bits per pixel (audio left out).",
    ),
    click.option(
        "--target-psnr",
        type=click.FloatRange(min=0, min_open=True),
        metavar="Y",
        help="Instead of --quality: the lowest of each segment that reaches Y dB, else the highest.",
    ),
)
refine = click.option(
    "--refine",
    type=click.IntRange(0, 10_000),
    default=0,
    show_default=True,
    metavar="N",
    help="Search for better ids in N steps, each some 3 times the encoding; with a target, where it pays.",
)
qualities = click.option(
    "--quality",
    "qualities",
    multiple=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Stages of a multi-rate model [its default]; may repeat.",
)
threads = click.option("--threads", type=click.IntRange(1, 4096), metavar="N", help="CPU threads [all].")
compute = together(
    click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda", "mps"]),
        default="auto",
        help="Where to compute [auto].",
    ),
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
        default="auto",
        help="Arithmetic of the network [auto].",
    ),
    threads,
    click.option(
        "--offline",
        is_flag=True,
        expose_value=False,
        callback=lambda ctx, param, value: ctx.ensure_object(dict).update(offline=value),
        help="Never use the network; only weights of metrics are ever fetched.",
    ),
)
memory = together(
    click.option("--chunk-frames", type=click.IntRange(min=1), metavar="N", help="Frames in memory at a time. *"),
    click.option("--tile", type=click.IntRange(min=1), metavar="N", help="Core of a spatial tile in pixels. *"),
    click.option(
        "--batch",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        metavar="N",
        help="Tiles at a time. *",
    ),
)
workers = click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    metavar="N",
    help="Processes, one file each. *",
)
entropy = click.option(
    "--entropy",
    type=click.Choice(["raw", "lzma", "adaptive", "prior", "auto"]),
    default="auto",
    show_default=True,
    help="How ids are stored; auto: prior where the model has one, else lzma. adaptive is slow, less so with numba.",
)
pixels = together(
    click.option(
        "--resize",
        callback=parsed(parse_size),
        metavar="N|WxH",
        help="N = short side, aspect kept, never enlarges; WxH:crop = the centre.",
    ),
    click.option("--enlarge", is_flag=True, help="Let --resize enlarge too."),
    click.option("--fps", callback=parsed(parse_rate), metavar="F", help="Resample in time: 24, 23.976, 30000/1001."),
    click.option(
        "--start",
        default="0",
        callback=parsed(parse_seconds),
        metavar="SECONDS",
        help="Begin that far into the video.",
    ),
    click.option("--frames", type=click.IntRange(min=1), metavar="N", help="Stop after N frames."),
)
metric = together(
    click.option(
        "--metric",
        "metrics",
        multiple=True,
        default=("psnr,ssim,ms_ssim",),
        show_default=True,
        metavar="LIST",
        help="psnr, ssim, ms_ssim (each also :y), psnr:video, psnr:worst, flicker, lpips:vgg, lpips:alex, "
        "fvd:styleganv, fvd:larp, fvd:i3d400-stretch, fvd:i3d400-crop, fid, xpsnr, vif, vmaf, tokens; "
        "comma-separated, may repeat.",
    ),
    click.option(
        "--metric-weights",
        "weights",
        default="",
        metavar="PATH",
        help="File or folder with weights of lpips, fvd, fid [variables, cache, then fetched].",
    ),
    click.option(
        "--fvd-samples",
        type=click.Choice(["all", "first", "whole"]),
        default="all",
        show_default=True,
        help="FVD samples of a clip: all pieces, the first, or the whole clip.",
    ),
    click.option(
        "--fvd-frames",
        type=click.IntRange(min=9),
        default=16,
        show_default=True,
        metavar="N",
        help="Frames of such a sample.",
    ),
    click.option("--per-frame", is_flag=True, help="Rows hold the values of all frames too."),
)
segment_frames = click.option(
    "--segment-frames",
    type=click.IntRange(min=0),
    metavar="N",
    help="Independent parts of N frames; 0: one [0; with a target what the model remembers, vidtok-2: 125].",
)
max_pixels = click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    default=MAX_PIXELS,
    metavar="N",
    help="Refuse larger frames [2^28].",
)
strict = click.option("--strict", is_flag=True, help="A damaged or truncated source fails.")
force = click.option("--force", is_flag=True, help="Overwrite what exists.")
output = click.option("-o", "--output", metavar="OUT", help="Where to write; see above.")
folder_run = together(
    click.option("--list", "list_file", metavar="FILE", help="Read more inputs from FILE, a path per line."),
    click.option("--resume", is_flag=True, help="Skip inputs whose output is complete."),
    click.option("--dry-run", is_flag=True, help="Say what would be done, with sizes."),
)

RESOURCES = "\b\n* Resources only: the result never depends on these."


def report(*, many: bool) -> Callable[[Command], Command]:
    """--report and how much of the clips the page carries; `many`: there may be more clips than one."""
    clips = click.option(
        "--report-clips",
        type=click.IntRange(0, 10_000),
        default=12,
        show_default=True,
        metavar="N",
        help="Clips that the page shows, the worst ones; its tables have all.",
    )
    return together(_REPORT, *([clips] if many else []), _REPORT_FRAMES, _REPORT_SIDE)


_REPORT = click.option(
    "--report",
    metavar="PAGE.html",
    type=click.Path(path_type=Path),
    help="Write one self-contained page: tables, curves, players, worst frames.",
)
_REPORT_FRAMES = click.option(
    "--report-frames",
    type=click.IntRange(0, 10_000),
    default=48,
    show_default=True,
    metavar="N",
    help="Frames of a clip in the page's players; 0: no pictures.",
)
_REPORT_SIDE = click.option(
    "--report-side",
    type=click.IntRange(16, 4096),
    default=480,
    show_default=True,
    metavar="N",
    help="Longer side of the page's pictures, pixels; never enlarged.",
)


def epilog(*lines: str, resources: bool = False) -> str:
    """The end of a help text: an example that runs, one command a line."""
    example = "\n".join(["\b", "Example:", *(f"  {line}" for line in lines)])
    return f"{RESOURCES}\n\n{example}" if resources else example
