"""`vidtok eval`: encode, decode and measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vidtok.cli import options as opt
from vidtok.cli.output import Console, Row, table
from vidtok.cli.report import Page, videos

FIRST = ("path", "model", "quality", "frames", "width", "height", "bpp", "file_bytes")
LAST = ("usage", "perplexity", "entropy", "repeats", "encode_fps", "decode_fps")


@click.command(
    "eval",
    epilog=opt.epilog(
        "vidtok eval clip.mp4",
        "vidtok eval videos/ --metric psnr,ms_ssim,tokens --resize 256 --json",
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
@opt.entropy
@opt.pixels
@opt.segment_frames
@click.option(
    "--save",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Keep videos of source and result side by side.",
)
@opt.report(many=True)
@click.option("--strict", is_flag=True, help="Damage fails; a metric that cannot be had stops all at once.")
@opt.max_pixels
@opt.force
@opt.compute
@opt.memory
@opt.reporting(csv=True)
def eval_command(
    console: Console,
    inputs: tuple[str, ...],
    list_file: str | None,
    metrics: tuple[str, ...],
    models: tuple[str, ...],
    qualities: tuple[int, ...],
    save: Path | None,
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
    from vidtok.metrics import DIALECTS

    names = gather(inputs, list_file)
    choice = EvalOptions(
        metrics=metrics,
        models=models,
        qualities=qualities or (None,),
        encode=EncodeOptions(**options),
        save=save,
    )
    dialects = {name: DIALECTS[name] for name in choice.metrics if name in DIALECTS}
    page = Page(report, clips=report_clips, frames=report_frames, side=report_side, force=choice.encode.force)
    failed = False
    progress, close = console.progress("eval")
    try:
        for row in evaluate(names, choice, progress=progress, warn=console.warn, recorder=page.recorder):
            failed |= tell_missing(console, row)
            console.result(row | {"dialects": dialects} if row.get("summary") else row)
    finally:
        close()
    if not console.json:
        hidden = () if len(models) > 1 else ("model",)
        columns = (
            [name for name in FIRST if name not in hidden]
            + [name for name in choice.metrics if name != "tokens"]
            + list(LAST)
        )
        named = [row | ({"path": "mean"} if row.get("summary") else {}) for row in console.rows]
        print(table([row for row in named if "error" not in row], columns))
        print("\n".join(f"{name}: {words}" for name, words in dialects.items()))
    page.write(console, f"Evaluation of {videos(console.rows)}", dialects)
    return 1 if failed else 0


def tell_missing(console: Console, row: Row) -> bool:
    """A line on stderr for what a row lacks; whether it lacks anything."""
    if "error" in row:
        console.error(row["error"] if row["path"] in row["error"] else f"{row['path']}: {row['error']}")
        return True
    missing = [(key.removesuffix("_missing"), why) for key, why in row.items() if key.endswith("_missing")]
    if not row.get("summary"):
        for name, why in missing:
            console.error(f"{row['path']}: no {name}: {why}")
    return bool(missing)
