"""`vidtok models`: which tokenizers there are, and what one of them is."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click

from vidtok.cli import options as opt
from vidtok.cli.output import Console, lines, size


@click.group("models", epilog=opt.epilog("vidtok models list", "vidtok models show default"))
def models_command() -> None:
    """The models that can be used: those in the package, and any folder or .safetensors file."""


@models_command.command("list", epilog=opt.epilog("vidtok models list --json"))
@opt.reporting(csv=True)
def list_command(console: Console) -> int:
    """The built-in models, their aliases, content ids and sizes."""
    from vidtok.checkpoint import list_models

    for entry in list_models():
        aliases = f" ({', '.join(entry.aliases)})" if entry.aliases else ""
        text = f"{entry.name}{aliases}  {entry.model_id[:12]}  {size(entry.file_bytes)}  {entry.description}"
        console.result(dataclasses.asdict(entry), text)
    return 0


@models_command.command("show", epilog=opt.epilog("vidtok models show default"))
@click.argument("name", metavar="NAME|PATH")
@opt.reporting()
def show_command(console: Console, name: str) -> int:
    """All that a model file says of itself: content id, strides, quantizer, network."""
    from vidtok.checkpoint import describe, read_metadata

    entry = describe(name)
    row: dict[str, Any] = dataclasses.asdict(entry)
    row["config"] = json.loads(read_metadata(entry.path).get("config", "{}"))
    console.result(row, lines(row))
    return 0
