"""`vidtok verify`: are token files whole? Needs no model."""

from __future__ import annotations

from typing import Any

import click

from vidtok.cli import options as opt
from vidtok.cli.info import source_of
from vidtok.cli.output import Console
from vidtok.errors import FormatError


@click.command("verify", epilog=opt.epilog("vidtok verify clip.vtok", "vidtok verify tokens/ --deep"))
@click.argument("inputs", nargs=-1, metavar="FILE...")
@click.option("--list", "list_file", metavar="FILE", help="Read more inputs from FILE, a path per line.")
@click.option("--deep", is_flag=True, help="Decode the ids too and check their checksums.")
@opt.reporting()
def verify_command(console: Console, inputs: tuple[str, ...], list_file: str | None, deep: bool) -> int:
    """Check the checksums of token files, globs or folders of them, and name the damaged chunks (exit 1)."""
    from vidtok.cli.jobs import gather

    bad = 0
    files = list(_files(gather(inputs, list_file), console))
    for file in files:
        row = check(file, deep) if isinstance(file, str) else file
        bad += not row["ok"]
        text = f"{row['path']}: whole, {row['chunks']} chunks, {row['frames']} frames" if row["ok"] else ()
        console.result(row, () if console.quiet else text)
        for problem in row["problems"]:
            console.error(f"{row['path']}: {problem}")
    if len(files) > 1:
        console.say(f"{len(files) - bad} whole, {bad} damaged or unreadable")
    return 1 if bad else 0


def check(file: str, deep: bool) -> dict[str, Any]:
    """A row about one file: ok, counts, damaged chunks, and a line per problem."""
    from vidtok.bitstream.container import TokenReader

    row: dict[str, Any] = {
        "path": file,
        "ok": False,
        "chunks": None,
        "frames": None,
        "damaged": [],
        "problems": [],
    }
    try:
        with TokenReader(source_of(file), recover=True) as reader:
            found = reader.verify(deep=deep)
            row |= {"ok": not found, "chunks": len(reader.chunks), "frames": reader.frames}
            row["damaged"] = [chunk for chunk, _ in found if chunk is not None]
            row["problems"] = [
                str(problem) if chunk is None else f"chunk {chunk}: {problem}" for chunk, problem in found
            ]
    except (FormatError, OSError) as exc:
        row["problems"] = [str(exc)]
    return row


def _files(names: list[str], console: Console) -> list[str | dict[str, Any]]:
    """Paths to check, and a row already for what is not there."""
    from vidtok import batch

    if "-" in names:
        return list(names)
    plan = batch.plan(names, None, suffix=".", accept=batch.looks_like_tokens)
    missing: list[str | dict[str, Any]] = [
        {"path": name, "ok": False, "chunks": None, "frames": None, "damaged": [], "problems": [reason]}
        for name, reason in plan.problems
    ]
    return [*(str(job.source) for job in plan.jobs), *missing]
