"""`vidtok info`: what a token file holds, without torch, numpy or the model."""

from __future__ import annotations

import sys
from typing import Any

import click

from vidtok.cli import options as opt
from vidtok.cli.output import Console, lines, naming


@click.command("info", epilog=opt.epilog("vidtok info clip.vtok", "vidtok info clip.vtok --json --tokens"))
@click.argument("file", metavar="FILE")
@click.option("--tokens", is_flag=True, help="Read the ids too: usage, perplexity, entropy, repeats.")
@opt.reporting()
def info_command(console: Console, file: str, tokens: bool) -> int:
    """All that the header of a token file says ('-' is stdin), and its sizes. Needs no model."""
    from vidtok.bitstream.container import TokenReader
    from vidtok.bitstream.describe import describe

    with naming(file), TokenReader(source_of(file)) as reader:
        row: dict[str, Any] = describe(reader)
        if tokens:
            row["tokens"] = token_statistics(reader)
    console.result(row, lines(row))
    return 0


def source_of(file: str) -> Any:
    """A path, or stdin's bytes for '-': kept in a temporary file, since the index stands at their end."""
    if file != "-":
        return file
    if sys.stdin.isatty():
        raise click.UsageError("'-' reads a token file from stdin, which is a terminal; redirect it")
    import shutil
    import tempfile

    spool = tempfile.TemporaryFile()  # noqa: SIM115 - the system removes it when the process ends
    shutil.copyfileobj(sys.stdin.buffer, spool)
    spool.seek(0)
    return spool


def token_statistics(reader: Any) -> dict[str, Any]:
    """Usage, perplexity, entropy and repeats of all ids, chunk by chunk."""
    from vidtok.metrics import TokenStatistics

    header = reader.header
    statistics = TokenStatistics(header.vocabulary, header.digits, header.codebooks)
    for chunk in reader.iter_chunks():
        statistics.update(chunk.ids)
    return dict(statistics.result())
