"""repack: the same ids, stored another way: another entropy mode, or fewer stages. No video, no tokenizer."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, BinaryIO

from vidtok.bitstream.header import TokenHeader
from vidtok.bitstream.reader import TokenReader
from vidtok.bitstream.writer import TokenWriter
from vidtok.errors import UsageError

AUTO = "lzma"  # what `auto` means for ids of a model without a prior: quick, and needs nothing


def choose_entropy(wanted: str, model_id: str | None, model_name: str = "") -> tuple[str, str | None]:
    """(mode, id of the prior or None) for ids of a model; UsageError where `wanted` is prior and none is known."""
    if wanted not in ("auto", "prior"):
        return wanted, None
    from vidtok.bitstream import priors

    prior_id = priors.of_model(model_id)
    if prior_id:
        return "prior", prior_id
    if wanted == "auto":
        return AUTO, None
    raise UsageError(
        f"--entropy prior: no prior for ids of model {model_name!r} is known; ${priors.FOLDERS} can name a folder "
        f"that holds one"
    )


def repack(
    source: str | os.PathLike[str] | BinaryIO | TokenReader,
    target: str | os.PathLike[str] | BinaryIO,
    *,
    entropy: str = "auto",
    quality: int | None = None,
    force: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
) -> TokenHeader:
    """Write `source` to `target` with entropy mode `entropy` and at most `quality` stages (None: all there are).

    The bytes are those that encoding that way would have written. Returns the new header.
    `progress` is called with the latent frames done and those in all (None on a pipe).
    """
    reader = source if isinstance(source, TokenReader) else TokenReader(source)
    try:
        header = repacked_header(reader.header, entropy, quality)
        total = reader.latents if reader.seekable else None
        with TokenWriter(target, header, force=force) as sink:
            for chunk in reader.iter_chunks(on_audio=sink.write_audio):
                assert chunk.ids is not None
                ids = chunk.ids[..., : header.codebooks] if header.codebooks else chunk.ids
                sink.write(ids, chunk.pts or ())
                if progress:
                    progress(sink.latents, total)
            sink.finish(damaged_source=reader.damaged_source, last_duration=reader.last_duration)
    finally:
        if reader is not source:
            reader.close()
    return header


def repacked_header(header: TokenHeader, entropy: str, quality: int | None) -> TokenHeader:
    """The header of the new file; UsageError if it cannot have that quality or entropy mode."""
    mode, prior_id = choose_entropy(entropy, header.model_id, header.model_name)
    header = replace(header, entropy=mode, prior_id=prior_id)
    if quality is None or quality == header.quality:
        return header
    if header.quality is None:
        raise UsageError(f"quality {quality}: the model of this file has one rate only; leave --quality out")
    if not 1 <= quality <= header.quality or header.quality != header.codebooks:
        raise UsageError(f"quality {quality}: this file holds qualities 1 to {header.quality}; encode anew for more")
    return of_quality(header, quality)


def of_quality(header: TokenHeader, quality: int) -> TokenHeader:
    """The header of a file that holds only the first `quality` stages of what `header` describes."""
    shared = isinstance(header.vocabulary, int)
    own_digits = len(header.digits) == header.stages and isinstance(header.digits[0], tuple)
    changed: dict[str, Any] = {
        "codebooks": quality,
        "quality": quality,
        "vocabulary": header.vocabulary if shared else header.vocabularies[:quality],
        "digits": header.digits[:quality] if own_digits else header.digits,
        "varying": header.varying and quality > 1,
    }
    return replace(header, **changed)
