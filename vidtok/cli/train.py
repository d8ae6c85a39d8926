"""`vidtok train`: a tokenizer from a config file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vidtok.cli import options as opt
from vidtok.cli.output import Console, show


@click.command("train", epilog=opt.epilog("vidtok train configs/tiny.toml --output runs/tiny"))
@click.argument("config", metavar="CONFIG", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE ...]")
@click.option("--output", metavar="FOLDER", type=click.Path(path_type=Path), help="Where model and log go [runs/NAME].")
@click.option("--resume", is_flag=True, help="Go on with the run that is in the output folder.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", help="[auto]")
@opt.threads
@opt.reporting()
def train_command(console: Console, config: Path, overrides: tuple[str, ...], **options: Any) -> int:
    """Train from a complete TOML file; KEY=VALUE changes single keys, such as data.short_side=128.

    Ctrl-C or SIGTERM ends the run after the step at hand, and saves it; --resume goes on from there.
    """
    for override in overrides:
        if "=" not in override:
            raise click.UsageError(f"{override!r} is not KEY=VALUE, such as data.short_side=128")
    from vidtok.training import run

    bar, close = console.progress(config.name, unit=" steps")

    def progress(record: dict[str, Any], total: int) -> None:
        bar(record["step"], total)
        console.say("  ".join(f"{key} {show(value)}" for key, value in record.items()))

    try:
        model = run(config, overrides, progress=progress, warn=console.warn, **options)
    finally:
        close()
    console.result({"model": str(model)}, str(model))
    return 0
