"""`vidtok export` and `vidtok import`: ids as plain arrays, and back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from vidtok.cli import options as opt
from vidtok.cli.info import source_of
from vidtok.cli.output import Console, naming

SUFFIXES = (".npy", ".bin")


@click.command("export", epilog=opt.epilog("vidtok export clip.vtok -o ids.npy"))
@click.argument("inputs", nargs=-1, metavar="FILE...")
@opt.output
@click.option(
    "--suffix", type=click.Choice(SUFFIXES), default=".npy", show_default=True, help="Where OUT does not say."
)
@click.option("--list", "list_file", metavar="FILE", help="Read more inputs from FILE, a path per line.")
@click.option("--resume", is_flag=True, help="Skip inputs whose output is complete.")
@opt.force
@opt.reporting()
def export_command(
    console: Console,
    inputs: tuple[str, ...],
    output: str | None,
    suffix: str,
    list_file: str | None,
    resume: bool,
    force: bool,
) -> int:
    """Ids of token files ('-' is stdin) to .npy (t, h, w[, K]) or .bin (flat little-endian uint16 or uint32).

    One input: OUT is a file. Several inputs or a folder: OUT is a folder, and --suffix says what to write.
    Of files whose segments hold unequal numbers of stages, types are signed, and ids that are not stored -1.
    """
    from vidtok import batch
    from vidtok.cli import jobs

    names = jobs.gather(inputs, list_file)
    if "-" in names:
        if len(names) != 1 or output is None:
            raise click.UsageError("stdin holds one token file and has no name; give '-' alone, with -o FILE")
        _check_suffix(Path(output))
        console.result({"path": "-", "output": output} | _export(source_of("-"), Path(output), force))
        return 0
    plan = batch.plan(names, output, suffix=suffix, accept=batch.looks_like_tokens)
    for job in plan.jobs:
        _check_suffix(job.target)
    folder_run = jobs.FolderRun(
        console=console, complete=lambda job: True, describe=_describe, force=force, resume=resume
    )
    return folder_run(plan, lambda force: lambda job, tell: _export(job.source, job.target, force))


def _export(source: Any, target: Path, force: bool) -> dict[str, Any]:
    from vidtok.bitstream.container import TokenReader
    from vidtok.bitstream.exchange import export_ids

    with TokenReader(source) as reader:
        export_ids(reader, target, force=force)
        header = reader.header
        row: dict[str, Any] = {
            "latents": reader.latents,
            "grid": [header.grid_height, header.grid_width],
            "codebooks": header.codebooks,
        }
    return row | {"bytes": target.stat().st_size}


def _describe(row: dict[str, Any]) -> str:
    shape = [row["latents"], *row["grid"], *([row["codebooks"]] if row["codebooks"] else [])]
    return f"{row['path']} -> {row['output']}: ids {' x '.join(map(str, shape))}"


def _check_suffix(target: Path) -> None:
    if target.suffix.lower() not in SUFFIXES:
        raise click.UsageError(f"{target}: cannot write {target.suffix or 'a name without suffix'}; use .npy or .bin")


@click.command("import", epilog=opt.epilog("vidtok import ids.npy -o ids.vtok --vocabulary 4202500000"))
@click.argument("file", metavar="IDS.npy")
@click.option("-o", "--output", required=True, metavar="OUT", help="Token file to write.")
@click.option(
    "--vocabulary", required=True, metavar="N[,N...]", help="Ids per codebook; a list where codebooks differ."
)
@opt.force
@opt.reporting()
def import_command(console: Console, file: str, output: str, vocabulary: str, force: bool) -> int:
    """Ids of any tokenizer, (t, h, w) or (t, h, w, K), to a token file for `info`, `repack` and readers.

    It holds no pixels: its width, height and frames are null, and it cannot be decoded here.
    """
    from vidtok.bitstream.exchange import import_ids

    with naming(file):
        import_ids(Path(file), Path(output), parse_vocabulary(vocabulary), force=force)
    console.result({"path": file, "output": output}, () if console.quiet else f"{file} -> {output}")
    return 0


def parse_vocabulary(text: str) -> int | tuple[int, ...]:
    """'65536' or '1024,512': ids per codebook."""
    if not re.fullmatch(r"[0-9]{1,19}(,[0-9]{1,19})*", text) or any(int(part) < 1 for part in text.split(",")):
        raise click.UsageError(f"--vocabulary {text!r} is not a number of ids; give 65536, or 1024,512 per codebook")
    sizes = tuple(int(part) for part in text.split(","))
    return sizes[0] if len(sizes) == 1 else sizes
