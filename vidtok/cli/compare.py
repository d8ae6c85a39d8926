"""`vidtok compare`: one video measured against another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vidtok.cli import options as opt
from vidtok.cli.eval import tell_missing
from vidtok.cli.output import Console, lines
from vidtok.cli.report import Page


@click.command("compare", epilog=opt.epilog("vidtok compare clip.mp4 back.mp4 --metric psnr,ssim"))
@click.argument("reference", metavar="A")
@click.argument("other", metavar="B")
@opt.metric
@opt.pixels
@click.option("--save", metavar="FILE", type=click.Path(path_type=Path), help="Write both side by side as a video.")
@click.option("--align", is_flag=True, help="Bring B to A's size and frame rate where they differ.")
@opt.report(many=False)
@opt.strict
@opt.max_pixels
@opt.force
@opt.reporting(csv=True)
def compare_command(
    console: Console,
    reference: str,
    other: str,
    metrics: tuple[str, ...],
    save: Path | None,
    align: bool,
    report: Path | None,
    report_frames: int,
    report_side: int,
    **options: Any,
) -> int:
    """Metrics of video B against video A, frame by frame. --resize, --fps and the like apply to both.

    Videos of other sizes or frame rates are refused, unless --align brings B to those of A.
    """
    from vidtok.codec import EncodeOptions
    from vidtok.compare import compare
    from vidtok.metrics import DIALECTS

    reading = EncodeOptions(**options)
    page = Page(report, frames=report_frames, side=report_side, force=reading.force)
    progress, close = console.progress("compare")
    try:
        row = compare(
            reference,
            other,
            metrics,
            reading=reading,
            align=align,
            save=save,
            recorder=page.recorder,
            progress=progress,
            warn=console.warn,
        )
    finally:
        close()
    dialects = {name: words for name, words in DIALECTS.items() if name in row}
    failed = tell_missing(console, row)
    console.result(row | {"dialects": dialects}, lines(row | {"dialects": dialects}))
    page.write(console, f"{Path(other).name} against {Path(reference).name}", dialects)
    return 1 if failed else 0
