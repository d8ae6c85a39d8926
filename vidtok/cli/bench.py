"""`vidtok bench`: how fast this machine encodes and decodes."""

from __future__ import annotations

from typing import Any

import click

from vidtok.cli import options as opt
from vidtok.cli.output import Console, Row, size


@click.command("bench", epilog=opt.epilog("vidtok bench", "vidtok bench --model default --size 640x360 --json"))
@click.option(
    "--model",
    "models",
    multiple=True,
    default=("default",),
    show_default=True,
    metavar="NAME|PATH",
    help="May repeat; runs of all models alternate.",
)
@opt.qualities
@click.option(
    "--size",
    "clip_size",
    default="256x256",
    show_default=True,
    metavar="WxH",
    callback=opt.parsed(opt.parse_size),
    help="Of the frames.",
)
@click.option("--frames", type=click.IntRange(min=1), default=17, show_default=True, help="Of the clip, model only.")
@click.option("--file-frames", type=click.IntRange(min=1), default=65, show_default=True, help="Of the video file.")
@click.option("--runs", type=click.IntRange(min=1), default=5, show_default=True, help="The median counts.")
@click.option("--files/--no-files", default=True, help="From file to file too? [yes]")
@click.option("--memory/--no-memory", default=True, help="Peak memory, in a process of its own? [yes]")
@opt.compute
@opt.reporting(csv=True)
def bench_command(
    console: Console, models: tuple[str, ...], qualities: tuple[int, ...], clip_size: str, **options: Any
) -> int:
    """Frames a second of the model alone and from file to file, FLOPs, and peak memory.

    Beside them stands what a plain convolution reaches on this machine in the same minute, and the share of it.
    """
    width, _, height = clip_size.partition("x")
    from vidtok.bench import BenchOptions, bench

    progress, close = console.progress("bench", unit=" runs")
    try:
        choice = BenchOptions(qualities=qualities or (None,), width=int(width), height=int(height or width), **options)
        rows = bench(models, choice, progress=progress)
    finally:
        close()
    for row in rows:
        console.result(row, describe(row))
    return 0


def describe(row: Row) -> list[str]:
    """A row for people: a line for encode and for decode, one for memory and machine."""
    model = row["model"] if row["quality"] is None else f"{row['model']} quality {row['quality']}"
    text = [f"{model} on {row['device']}, {row['threads']} threads, median of {row['runs']} runs"]
    for name in ("encode", "decode"):
        files = f", file to file {row[f'{name}_file_fps']:.1f}" if f"{name}_file_fps" in row else ""
        clip = f"{row['frames']}x{row['width']}x{row['height']}"
        work = f"{row[f'{name}_flops'] / 1e9:.2f} GFLOP a frame"
        share = f"{100 * row[f'{name}_share']:.0f} % of the convolution rate"
        text.append(f"  {name}: {row[f'{name}_fps']:.1f} frames/s at {clip}{files}; {work}, {share}")
    memory = size(row["peak_memory_bytes"]) if row["peak_memory_bytes"] else "unknown"
    text.append(f"  peak memory {memory}; a plain 3x3 convolution here: {row['conv_flops'] / 1e9:.0f} GFLOP/s")
    return text
