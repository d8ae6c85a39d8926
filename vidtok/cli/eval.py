"""`vidtok eval`: encode, decode and measure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from vidtok.cli import options as opt
from vidtok.cli.output import Console, Progress, Row, table
from vidtok.cli.report import Page, videos

FIRST = ("path", "model", "codec", "quality", "frames", "width", "height", "bpp", "file_bytes")
PROTOCOLS = "mcl-jcv-256, tokenbench, ucf101-bsq-128, mcl-jcv-bsq-360, omnitokenizer-256, ucf101-larp-128"
LAST = ("usage", "perplexity", "entropy", "repeats", "encode_fps", "decode_fps")
DELTAS = ("anchor", "test", "metric", "bd_rate", "bd_quality", "overlap", "overlap_share", "clips_overlapping", "clips")


@click.command(
    "eval",
    epilog=opt.epilog(
        "vidtok eval clip.mp4",
        "vidtok eval videos/ --metric psnr,ms_ssim,tokens --resize 256 --json",
        "vidtok eval videos/ --codec x264:crf=18..40:preset=medium --frames 8 --metric psnr",
        resources=True,
    ),
)
@click.argument("inputs", nargs=-1, metavar="PATH...")
@click.option("--list", "list_file", metavar="FILE", help="Read more inputs from FILE, a path per line.")
@opt.metric
@click.option(
    "--model",
    "models",
    multiple=True,
    default=("default",),
    show_default=True,
    metavar="NAME|PATH",
    help="Built-in name, folder or file; may repeat.",
)
@opt.qualities
@click.option(
    "--codec",
    "codecs",
    multiple=True,
    metavar="SPEC",
    help="x264, x265, svtav1 or vp9 on the same frames: x264:crf=18..40:preset=medium; may repeat.",
)
@click.option("--no-model", is_flag=True, help="Only the codecs.")
@click.option("--anchor", default="", metavar="NAME", help="What BD-rates are against [first codec, or model].")
@click.option("--protocol", default="", metavar="NAME", help=f"A published way to evaluate: {PROTOCOLS}.")
@opt.entropy
@opt.pixels
@opt.segment_frames
@opt.refine
@click.option(
    "--save",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Keep videos of source and result side by side.",
)
@click.option(
    "-o",
    "--output",
    "results",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Every row as a line of JSON, written as it is ready, with what --resume needs.",
)
@click.option("--resume", is_flag=True, help="Go on from --output FILE: clips that are whole there are not done again.")
@opt.report(many=True)
@click.option("--strict", is_flag=True, help="Damage fails; a metric that cannot be had stops all at once.")
@opt.max_pixels
@opt.force
@opt.compute
@opt.memory
@opt.workers
@opt.reporting(csv=True)
def eval_command(
    console: Console,
    inputs: tuple[str, ...],
    list_file: str | None,
    metrics: tuple[str, ...],
    weights: str,
    fvd_samples: str,
    fvd_frames: int,
    models: tuple[str, ...],
    qualities: tuple[int, ...],
    no_model: bool,
    protocol: str,
    report: Path | None,
    report_clips: int,
    report_frames: int,
    report_side: int,
    **options: Any,
) -> int:
    """The whole loop over videos or folders: a row per clip, model and quality, and a summary of means.

    Quality is measured on RGB frames at the size that was encoded; bpp counts every byte of the token file.
    """
    from vidtok.cli.jobs import gather
    from vidtok.codec import EncodeOptions
    from vidtok.evaluate import EvalOptions, evaluate
    from vidtok.evaluation import protocols
    from vidtok.metrics.fvd import Sampling

    names = gather(inputs, list_file)
    source = click.get_current_context().get_parameter_source("metrics")
    if protocol and source == click.core.ParameterSource.DEFAULT:
        metrics = protocols.find(protocol).metrics
    ours = ("codecs", "anchor", "save", "results", "resume", "workers", "per_frame")
    choice = EvalOptions(
        metrics=metrics,
        models=() if no_model else models,
        qualities=qualities or (None,),
        protocol=protocol,
        fvd=Sampling(frames=fvd_frames, take=fvd_samples),
        weights=weights,
        offline=is_offline(),
        **{name: options.pop(name) for name in ours},
        encode=EncodeOptions(**options),
    )
    page = Page(report, clips=report_clips, frames=report_frames, side=report_side, force=choice.encode.force)
    failed, told = False, set[tuple[str, str]]()
    with fetching(console) as bars, _bar(console) as (progress, begin):
        rows = evaluate(
            names,
            choice,
            progress=progress,
            warn=console.warn,
            begin=begin,
            fetching=bars,
            recorder=page.recorder,
        )
        for row in rows:
            if not row.get("bd"):
                failed |= tell_missing(console, row, told)
            console.result(row | {"dialects": choice.settings["dialects"]} if row.get("summary") else row)
    if not console.json:
        _print(console.rows, choice.metrics, choice.settings["dialects"], len(models) > 1 or bool(choice.codecs))
    page.write(console, f"Evaluation of {videos(console.rows)}", choice.settings["dialects"])
    return 1 if failed else 0


def is_offline() -> bool:
    """Whether --offline was given."""
    return bool(click.get_current_context().ensure_object(dict).get("offline"))


def tell_missing(console: Console, row: Row, told: set[tuple[str, str]] | None = None) -> bool:
    """A line on stderr for what a row lacks, each reason once; whether it lacks anything."""
    told = set() if told is None else told
    if "error" in row:
        if (row["path"], row["error"]) not in told:
            told.add((row["path"], row["error"]))
            console.error(row["error"] if row["path"] in row["error"] else f"{row['path']}: {row['error']}")
        return True
    missing = [(key.removesuffix("_missing"), why) for key, why in row.items() if key.endswith("_missing")]
    for name, why in missing:
        if (name, why.partition("clips: ")[2] or why) not in told:
            told.add((name, why))
            console.error(f"{row.get('path', 'summary')}: no {name}: {why}")
    return bool(missing)


@contextmanager
def fetching(console: Console) -> Iterator[Callable[[str], Progress]]:
    """What gives a bar in bytes for each file that is fetched."""
    closers: list[Callable[[], None]] = []

    def open_bar(label: str) -> Progress:
        close_all()
        console.say(label)
        progress, close = console.progress(label, " bytes")
        closers.append(close)
        return progress

    def close_all() -> None:
        while closers:
            closers.pop()()

    try:
        yield open_bar
    finally:
        close_all()


@contextmanager
def _bar(console: Console) -> Iterator[tuple[Progress, Callable[[int, int, str], None]]]:
    """(progress, begin) on one bar that opens with the first frame."""
    opened: list[tuple[Progress, Callable[[], None]]] = []

    def update(done: int, total: int | None) -> None:
        if not opened:
            opened.append(console.progress("eval"))
        opened[0][0](done, total)

    def begin(number: int, total: int, name: str) -> None:
        update(0, None)
        if total > 1:
            console.beside(f"{number}/{total} {name}")

    try:
        yield update, begin
    finally:
        for _, close in opened:
            close()


def _print(rows: Sequence[Row], metrics: Sequence[str], dialects: Row, several: bool) -> None:
    hidden = () if several else ("model",)
    measured = [name for name in metrics if name != "tokens"]
    columns = [*(name for name in FIRST if name not in hidden), *measured, *LAST]
    named = [{**row, **({"path": "mean"} if row.get("summary") else {})} for row in rows if not row.get("bd")]
    print(table([row for row in named if "error" not in row], columns))
    if deltas := [row for row in rows if row.get("bd")]:
        print()
        print(table(deltas, DELTAS))
        for delta in deltas:
            for key in ("bd_rate", "bd_quality"):
                if delta[key] is None:
                    print(f"no {key} of {delta['metric']}: {delta[f'{key}_missing']}")
    print("\n".join(f"{name}: {words}" for name, words in dialects.items()))
