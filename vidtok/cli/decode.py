"""`vidtok decode`: token files to videos, pictures or arrays."""

from __future__ import annotations

import dataclasses
import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vidtok.cli import options as opt
from vidtok.cli.encode import load_model, share_threads
from vidtok.cli.output import Console

if TYPE_CHECKING:
    from vidtok.batch import Job, Tell
    from vidtok.codec import DecodeOptions

SUFFIXES = (".mp4", ".mkv", ".png", ".npy")


@click.command(
    "decode",
    epilog=opt.epilog(
        "vidtok decode clip.vtok -o back.mp4",
        "vidtok decode clip.vtok --frames 0:17 -o start.npy",
        resources=True,
    ),
)
@click.argument("inputs", nargs=-1, metavar="FILE...")
@opt.output
@click.option(
    "--suffix", type=click.Choice(SUFFIXES), default=".mp4", show_default=True, help="Where OUT does not say."
)
@opt.folder_run
@opt.force
@click.option("--model", metavar="NAME|PATH", help="Built-in name, folder or file [the one the file names].")
@click.option("--frames", callback=opt.parsed(opt.parse_span), metavar="A:B", help="Only frames A to B, half open.")
@click.option("--skip-damaged", is_flag=True, help="Damaged chunks become gray instead of an error.")
@click.option(
    "--audio",
    type=click.Choice(["copy", "drop"]),
    default="copy",
    show_default=True,
    help="Write the file's audio?",
)
@click.option(
    "--crf",
    type=click.IntRange(0, 51),
    default=16,
    show_default=True,
    metavar="N",
    help="x264 quality, 0 best.",
)
@opt.compute
@opt.memory
@opt.workers
@opt.reporting(csv=True)
def decode_command(
    console: Console,
    inputs: tuple[str, ...],
    output: str | None,
    suffix: str,
    list_file: str | None,
    resume: bool,
    dry_run: bool,
    workers: int,
    **options: Any,
) -> int:
    """Token files ('-' is stdin) to .mp4, .mkv, .png (a sequence) or .npy, by the suffix of OUT.

    One input: OUT is a file. Several inputs or a folder: OUT is a folder, and --suffix says what to write.
    """
    from vidtok import batch
    from vidtok.cli import jobs

    names = jobs.gather(inputs, list_file)
    if "-" in names:
        return _from_stdin(console, names, output, options)
    plan = batch.plan(names, output, suffix=suffix, accept=batch.looks_like_tokens)
    for job in plan.jobs:
        check_suffix(job.target)
    if dry_run:
        return jobs.dry_run(console, plan, estimate_frames, force=options["force"], resume=resume)
    folder_run = jobs.FolderRun(
        console=console,
        complete=is_complete,
        exists=output_exists,
        describe=describe,
        prepare=functools.partial(load_model, options["model"], options, workers),
        workers=workers,
        force=options["force"],
        resume=resume,
    )
    return folder_run(
        plan, lambda force: functools.partial(decode_job, make_options(options | {"force": force}, workers))
    )


def check_suffix(target: Path) -> None:
    """Wrong usage if the output's suffix is none that can be written."""
    if target.suffix.lower() not in SUFFIXES:
        raise click.UsageError(
            f"{target}: cannot write {target.suffix or 'a name without suffix'}; use {', '.join(SUFFIXES)}"
        )


def make_options(options: dict[str, Any], workers: int = 1) -> DecodeOptions:
    """The options of the library; several workers share the CPU's threads."""
    from vidtok.codec import DecodeOptions

    return DecodeOptions(**(options | {"threads": share_threads(options["threads"], workers)}))


def decode_job(options: DecodeOptions, job: Job, tell: Tell) -> dict[str, Any]:
    """Decode one file; a plain function, so that a worker process can be given it."""
    from vidtok.codec import decode_file

    report = decode_file(
        job.source,
        job.target,
        options,
        progress=lambda done, total: tell("progress", (done, total)),
        warn=lambda text: tell("warn", text),
    )
    return dataclasses.asdict(report)


def _from_stdin(console: Console, names: list[str], output: str | None, options: dict[str, Any]) -> int:
    if len(names) != 1 or output is None:
        raise click.UsageError("stdin holds one token file and has no name; give '-' alone, with -o FILE")
    from vidtok.codec import decode_file

    check_suffix(Path(output))
    progress, close = console.progress("stdin")
    try:
        report = decode_file(
            sys.stdin.buffer,
            Path(output),
            make_options(options),
            progress=progress,
            warn=lambda text: console.warn(text, "stdin"),
        )
    finally:
        close()
    row = {"path": "-", "output": output} | dataclasses.asdict(report)
    console.result(row, () if console.quiet else describe(row))
    return 0


def describe(row: dict[str, Any]) -> str:
    """A report in a line: what was written and the speed."""
    speed = row["frames"] / row["seconds"] if row["seconds"] else 0.0
    what = f"{row['frames']} frames {row['width']}x{row['height']}, {speed:.1f} frames/s"
    damaged = row.get("damaged_chunks") or ()
    return f"{row['path']} -> {row['output']}: {what}" + (
        f", damaged chunks {', '.join(str(c) for c in damaged)} are gray" if damaged else ""
    )


def output_exists(job: Job) -> bool:
    """Whether the target is there, or the first picture of its sequence."""
    return job.target.exists() or (job.target.suffix == ".png" and _picture(job.target, 1).exists())


def is_complete(job: Job) -> bool:
    """Outputs are renamed into place when they are whole; of a sequence the last picture must be there."""
    return job.target.exists() or _picture(job.target, estimate_frames(job.source)["frames"]).exists()


def _picture(target: Path, number: int) -> Path:
    if "%" in target.name:
        return target.with_name(target.name % number)
    return target.with_name(f"{target.stem}_{number:05d}{target.suffix}")


def estimate_frames(source: Path) -> dict[str, Any]:
    """What a token file would become, as its header says."""
    from vidtok.bitstream.container import TokenReader

    with TokenReader(source) as reader:
        return {"frames": reader.frames, "width": reader.header.width, "height": reader.header.height}
