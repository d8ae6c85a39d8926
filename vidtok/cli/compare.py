"""`vidtok compare`: one video measured against another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vidtok.cli import options as opt
from vidtok.cli.eval import fetching, is_offline, tell_missing
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
@opt.compute
@opt.reporting(csv=True)
def compare_command(
    console: Console,
    reference: str,
    other: str,
    metrics: tuple[str, ...],
    weights: str,
    fvd_samples: str,
    fvd_frames: int,
    per_frame: bool,
    save: Path | None,
    device: str,
    precision: str,
    threads: int | None,
    align: bool,
    report: Path | None,
    report_frames: int,
    report_side: int,
    **options: Any,
) -> int:
    """Metrics of video B against video A, frame by frame. --resize, --fps and the like apply to both.

    Videos of other sizes or frame rates are refused, unless --align brings B to those of A.

    --device and --threads are for the networks of metrics, which compute in fp32.
    """
    from vidtok.codec import EncodeOptions
    from vidtok.codec.options import set_threads
    from vidtok.compare import compare
    from vidtok.metrics import DIALECTS
    from vidtok.metrics.fvd import Sampling
    from vidtok.metrics.networks import Networks

    set_threads(threads)
    reading = EncodeOptions(**options)
    page = Page(report, frames=report_frames, side=report_side, force=reading.force)
    with fetching(console) as bars:
        networks = Networks(device=device, weights=weights, offline=is_offline(), progress=bars)
        progress, close = console.progress("compare")
        try:
            row = compare(
                reference,
                other,
                metrics,
                reading=reading,
                save=save,
                progress=progress,
                warn=console.warn,
                networks=networks,
                sampling=Sampling(frames=fvd_frames, take=fvd_samples),
                per_frame=per_frame,
                align=align,
                recorder=page.recorder,
            )
        finally:
            close()
    row |= {"weights": networks.files} if networks.files else {}
    dialects = {name: words for name, words in DIALECTS.items() if name in row}
    failed = tell_missing(console, row)
    shown = {key: value for key, value in row.items() if key != "per_frame"}
    console.result(row | {"dialects": dialects}, lines(shown | {"dialects": dialects}))
    page.write(console, f"{Path(other).name} against {Path(reference).name}", dialects)
    return 1 if failed else 0
