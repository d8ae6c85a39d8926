"""`vidtok info`: what a token file holds, without torch, numpy or the model."""

from __future__ import annotations

import sys
from typing import Any

import click

from vidtok.cli import options as opt
from vidtok.cli.output import Console, Row, lines, naming, show, size


@click.command("info", epilog=opt.epilog("vidtok info clip.vtok", "vidtok info clip.vtok --json --tokens"))
@click.argument("file", metavar="FILE")
@click.option("--tokens", is_flag=True, help="Read the ids too: usage, perplexity, entropy, repeats.")
@opt.reporting()
def info_command(console: Console, file: str, tokens: bool) -> int:
    """All that a token file says of itself ('-' is stdin), and what each of its parts costs. Needs no model."""
    from vidtok.bitstream.container import TokenReader
    from vidtok.bitstream.describe import describe

    with naming(file), TokenReader(source_of(file)) as reader:
        row: dict[str, Any] = describe(reader)
        if tokens:
            row["tokens"] = token_statistics(reader)
    hidden = {"parts"} if len(row.get("qualities") or ()) > 1 else {"parts", "qualities"}
    rest = {key: value for key, value in row.items() if key not in hidden}
    console.result(row, [*lines(rest), *part_lines(row["parts"])])
    return 0


def part_lines(parts: Row) -> list[str]:
    """What each part costs, for people: a line each, one for each stage where there are several."""
    out = [f"{'parts':<20} {'bytes':>12} {'':>9} {'bpp':>8} {'per cent':>8} {'bits/id':>8}"]
    for name, costs in parts.items():
        stages = costs.get("stages", [])
        named = [(f"  {name}", costs)]
        named += [(f"    stage {k}", stage) for k, stage in enumerate(stages, 1) if len(stages) > 1]
        for label, cost in named if costs["bytes"] or name in ("header", "ids") else ():
            bits = show(cost["bits_per_id"]) if "bits_per_id" in cost else ""
            out.append(
                f"{label:<20} {cost['bytes']:>12} {size(cost['bytes']):>9} {show(cost['bpp']):>8} "
                f"{cost['percent']:>8.2f} {bits:>8}".rstrip()
            )
    return out


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
