"""`vidtok repack`: the same tokens, stored another way. Needs no model and no video."""

from __future__ import annotations

import sys
from typing import Any

import click

from vidtok.cli import options as opt
from vidtok.cli.info import source_of
from vidtok.cli.output import Console, naming


@click.command("repack", epilog=opt.epilog("vidtok repack clip.vtok -o small.vtok --entropy auto"))
@click.argument("file", metavar="FILE")
@click.option("-o", "--output", required=True, metavar="OUT", help="Where to write; '-' is stdout.")
@opt.entropy
@opt.quality
@opt.force
@opt.reporting()
def repack_command(console: Console, file: str, output: str, entropy: str, quality: int | None, force: bool) -> int:
    """Another entropy mode or fewer stages; the ids are those of encoding that way. FILE '-' is stdin.

    --quality is the most that a segment keeps; those with less stay as they are.
    """
    from vidtok.bitstream.repack import repack

    target: Any = output
    if output == "-":
        if console.json or sys.stdout.isatty():
            raise click.UsageError("-o - writes bytes to stdout; redirect it, and leave --json out")
        target = sys.stdout.buffer
    with naming(file):
        repack(source_of(file), target, entropy=entropy, quality=quality, force=force)
    row: dict[str, Any] = {"path": file, "output": output}
    console.result(row, () if console.quiet or output == "-" else f"{file} -> {output}")
    return 0
