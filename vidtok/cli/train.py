"""`vidtok train`: a tokenizer, or a prior for its ids, from a config file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from vidtok.cli import options as opt
from vidtok.cli.output import Console, show

SHOWN = ("loss", "bits_per_id", "psnr", "ms_ssim", "quality", "usage", "clips_per_second", "skipped_steps", "reason")


@click.command("train", epilog=opt.epilog("vidtok train configs/tiny.toml --output runs/tiny"))
@click.argument("config", metavar="CONFIG", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE ...]")
@click.option("--output", metavar="FOLDER", type=click.Path(path_type=Path), help="Where model and log go [runs/NAME].")
@click.option("--resume", is_flag=True, help="Go on with the run in the output folder; start it where there is none.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", help="[auto]")
@opt.threads
@opt.reporting()
def train_command(console: Console, config: Path, overrides: tuple[str, ...], **options: Any) -> int:
    """Train from a complete TOML file; KEY=VALUE changes single keys, such as data.short_side=128.

    Ctrl-C or SIGTERM ends the run after the step at hand, and saves it; --resume goes on from there, or from the last
    checkpoint of a run that was killed. Several processes: torchrun --nproc-per-node N -m vidtok train CONFIG ...
    """
    for override in overrides:
        if "=" not in override:
            raise click.UsageError(f"{override!r} is not KEY=VALUE, such as data.short_side=128")
    from vidtok.training import is_first, run

    if not is_first():
        run(config, overrides, **options)
        return 0
    bar, close = console.progress(config.stem, unit=None)

    def progress(record: dict[str, Any], total: int) -> None:
        bar(record["step"], total)
        if record["kind"] == "train":
            console.note(state(record), line(record, total))
        else:
            console.say(line(record, total))

    try:
        model = run(config, overrides, progress=progress, warn=console.warn, **options)
    finally:
        close()
    console.result({"model": str(model)}, str(model))
    return 0


def state(record: Mapping[str, Any]) -> str:
    """What stands beside the bar: 'loss 0.4123, 21.30 dB, 8.10 clips/s, left 0:12:30'; '-' where a number is bad."""
    words = {"loss": "loss {}", "psnr": "{} dB", "bits_per_id": "{} bits/id", "clips_per_second": "{} clips/s"}
    found = [text.format(show(record[name])) for name, text in words.items() if name in record]
    return ", ".join([*found, f"left {duration(record['seconds_left'])}"])


def line(record: Mapping[str, Any], total: int) -> str:
    """A line of the log for people: 'train 20/600  loss 0.4123  psnr 21.30  clips_per_second 8.10  left 0:12:30'."""
    shown = {name: record[name] for name in SHOWN if record.get(name) is not None}
    words = [f"{record['kind']} {record['step']}/{total}", *(f"{name} {show(value)}" for name, value in shown.items())]
    if "seconds_left" in record:
        words.append(f"left {duration(record['seconds_left'])}")
    return "  ".join(words)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: '0:12:30'."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
