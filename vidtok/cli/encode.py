"""`vidtok encode`: videos and images to token files."""

from __future__ import annotations

import dataclasses
import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vidtok.cli import options as opt
from vidtok.cli.output import Console, size

if TYPE_CHECKING:
    from vidtok.batch import Job, Tell
    from vidtok.codec import EncodeOptions

AUDIO_DROPPED = "audio is dropped; --audio copy keeps it"


@click.command(
    "encode",
    epilog=opt.epilog(
        "vidtok encode clip.mp4 -o clip.vtok", "vidtok encode videos/ -o tokens/ --resume", resources=True
    ),
)
@click.argument("inputs", nargs=-1, metavar="INPUT...")
@opt.output
@opt.folder_run
@opt.force
@opt.model
@opt.quality
@opt.target
@opt.refine
@opt.entropy
@opt.pixels
@opt.segment_frames
@click.option(
    "--audio",
    type=click.Choice(["copy", "drop"]),
    default="drop",
    show_default=True,
    help="Keep the audio packets?",
)
@opt.strict
@opt.max_pixels
@opt.compute
@opt.memory
@opt.workers
@opt.reporting(csv=True)
def encode_command(
    console: Console,
    inputs: tuple[str, ...],
    output: str | None,
    list_file: str | None,
    resume: bool,
    dry_run: bool,
    workers: int,
    **options: Any,
) -> int:
    """Videos, images, globs and folders to token files.

    One input: OUT is a file ('-' is stdout). Several inputs or a folder: OUT is a folder, trees are mirrored.
    Without -o each file lies beside its source, as its stem + .vtok.
    """
    from vidtok import batch
    from vidtok.cli import jobs

    names = jobs.gather(inputs, list_file)
    if "-" in names:
        raise click.UsageError("'-' is for token files; a video must be a file (./- is a file of that name)")
    if output == "-":
        return _to_stdout(console, names, options)
    plan = batch.plan(names, output, suffix=".vtok")
    if dry_run:
        estimate = functools.partial(estimate_tokens, options=options)
        return jobs.dry_run(console, plan, estimate, force=options["force"], resume=resume)
    folder_run = jobs.FolderRun(
        console=console,
        complete=is_complete,
        describe=describe,
        prepare=functools.partial(load_model, options["model"], options, workers),
        workers=workers,
        force=options["force"],
        resume=resume,
    )
    return folder_run(
        plan, lambda force: functools.partial(encode_job, make_options(options | {"force": force}, workers))
    )


def make_options(options: dict[str, Any], workers: int = 1) -> EncodeOptions:
    """The options of the library; several workers share the CPU's threads."""
    from vidtok.codec import EncodeOptions

    return EncodeOptions(**(options | {"threads": share_threads(options["threads"], workers)}))


def load_model(name: str | None, options: dict[str, Any], workers: int) -> None:
    """Fail before the first file if model or quality cannot be had; this process keeps a model it works with."""
    from vidtok import checkpoint

    asked = [options.get(key) for key in ("quality", "target_bpp", "target_psnr")]
    if name is not None and (options.get("refine") or any(value is not None for value in asked)):
        from vidtok.codec.options import EncodeOptions, highest_quality

        _, path = checkpoint.find_model(name)
        config = checkpoint.model_config(path, checkpoint.read_metadata(path))
        highest_quality(EncodeOptions(quality=asked[0], target_bpp=asked[1], target_psnr=asked[2]), config)
        config.check_refine(options.get("refine") or 0)
    if name is not None and workers == 1:
        checkpoint.load(name, device=options["device"], precision=options["precision"])
    elif name is not None:
        checkpoint.find_model(name)


def share_threads(threads: int | None, workers: int) -> int | None:
    """Threads for each of `workers` processes, so that together they use what one would."""
    import os

    if workers == 1:
        return threads
    return max(1, (threads or len(os.sched_getaffinity(0))) // workers)


def encode_job(options: EncodeOptions, job: Job, tell: Tell) -> dict[str, Any]:
    """Encode one file; a plain function, so that a worker process can be given it."""
    from vidtok.codec import encode_file

    report = encode_file(
        job.source,
        job.target,
        options,
        progress=lambda done, total: tell("progress", (done, total)),
        warn=lambda text: tell("warn", text),
    )
    if report.dropped_audio:
        tell("warn", AUDIO_DROPPED)
    return dataclasses.asdict(report)


def _to_stdout(console: Console, names: list[str], options: dict[str, Any]) -> int:
    if len(names) != 1 or Path(names[0]).is_dir():
        raise click.UsageError("stdout takes the tokens of one video; give one file, or a folder as -o")
    if console.json:
        raise click.UsageError("--json and -o - both want stdout; leave one out")
    if sys.stdout.isatty():
        raise click.UsageError("tokens are bytes and stdout is a terminal; redirect it or give -o FILE")
    from vidtok.codec import encode_file

    console.results_on_stderr = True
    progress, close = console.progress(Path(names[0]).name)
    try:
        report = encode_file(
            Path(names[0]),
            sys.stdout.buffer,
            make_options(options),
            progress=progress,
            warn=lambda text: console.warn(text, names[0]),
        )
    finally:
        close()
    if report.dropped_audio:
        console.warn(AUDIO_DROPPED, names[0])
    sys.stdout.buffer.flush()
    row = {"path": names[0], "output": "-"} | dataclasses.asdict(report)
    console.result(row, () if console.quiet else describe(row))
    return 0


def describe(row: dict[str, Any]) -> str:
    """A report in a line: what was written, its rate, and the speed."""
    audio = f" + {size(row['audio_bytes'])} of audio" if row.get("audio_bytes") else ""
    speed = row["frames"] / row["seconds"] if row["seconds"] else 0.0
    quality = "" if row["quality"] is None else f"quality {row['quality']}, "
    if row.get("qualities"):
        quality = "quality " + ", ".join(f"{q} ({count} segments)" for q, count in row["qualities"].items()) + ", "
        quality += "" if row.get("refined") is None else f"{row['refined']} refined, "
    psnr = "" if row.get("psnr") is None else f"{row['psnr']:.2f} dB, "
    return (
        f"{row['path']} -> {row['output']}: {row['frames']} frames {row['width']}x{row['height']}, {quality}"
        f"{size(row['file_bytes'] - (row.get('audio_bytes') or 0))}{audio}, "
        f"{row['bpp']:.4f} bits per pixel, {psnr}{speed:.1f} frames/s"
    )


def is_complete(job: Job) -> bool:
    """Whether the target is a token file with its end; OutputExistsError if it is something else."""
    from vidtok.batch import looks_like_tokens
    from vidtok.bitstream.container import TokenReader
    from vidtok.errors import FormatError, OutputExistsError

    if not looks_like_tokens(job.target):
        raise OutputExistsError(f"{job.target} exists and is not a token file; --force overwrites it")
    try:
        TokenReader(job.target).close()
    except FormatError:
        return False
    return True


def estimate_tokens(source: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Frames, size and the bytes of raw ids to expect; keys are missing where the source does not say."""
    from vidtok.codec import estimate_file

    return estimate_file(source, make_options(options))
