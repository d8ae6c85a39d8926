"""Ids out of token files as .npy or .bin, and ids of any tokenizer back in; in constant memory."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vidtok.bitstream.header import FREE_IDS, MAX_CHUNK_LATENTS, TokenHeader
from vidtok.bitstream.output import OutputFile
from vidtok.bitstream.reader import TokenReader
from vidtok.bitstream.writer import TokenWriter
from vidtok.errors import FormatError, OutputError, SourceError, TruncatedError, UsageError

SUFFIXES = (".npy", ".bin")
CHUNK_IDS = 1 << 16  # ids of a chunk of imported ids, about


def export_ids(reader: TokenReader, target: str | os.PathLike[str], *, force: bool = False) -> int:
    """Write all ids of `reader` to `target` by its suffix; returns the bytes written.

    .npy (t, h, w[, K]) uint16, uint32 or uint64; .bin the same numbers, flat, little-endian, without header.
    Where segments hold fewer stages than others they are int16, int32 or int64, and ids that are not stored -1.
    """
    suffix = Path(target).suffix.lower()
    if suffix not in SUFFIXES:
        raise OutputError(f"cannot export to {target}: the name must end in {' or '.join(SUFFIXES)}")
    kind = f"<{reader.header.id_type}"
    with OutputFile(target, force=force) as sink:
        written = sink.write(npy_header(reader.ids.shape, kind)) if suffix == ".npy" else 0
        for chunk in reader.iter_chunks():
            assert chunk.ids is not None
            written += sink.write(memoryview(chunk.ids.astype(kind, copy=False).tobytes()))
    return written


def npy_header(shape: tuple[int, ...], kind: str) -> bytes:
    """The start of a .npy file (version 1) of that shape and type, C order."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": kind, "fortran_order": False, "shape": shape})
    return out.getvalue()


def import_ids(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    vocabulary: int | tuple[int, ...],
    *,
    chunk_latents: int | None = None,
    name: str = "",
    force: bool = False,
) -> TokenHeader:
    """Write the ids of the .npy file `source`, integers (t, h, w) or (t, h, w, K), as a token file.

    They come without pixels and timestamps: frames, width and height are None. Returns the header.
    """
    ids = _open_npy(source)
    grid = ids.shape[1] * ids.shape[2] * (ids.shape[3] if ids.ndim == 4 else 1)
    length = chunk_latents or min(max(CHUNK_IDS // max(grid, 1), 1), MAX_CHUNK_LATENTS)
    header = TokenHeader(
        grid_height=ids.shape[1],
        grid_width=ids.shape[2],
        codebooks=ids.shape[3] if ids.ndim == 4 else 0,
        vocabulary=vocabulary,
        chunk_latents=length,
        model_name=name,
    )
    if grid * length > FREE_IDS and max(header.vocabularies) == 1:
        raise UsageError(f"{grid} ids of vocabulary 1 in a latent frame are too many")
    with TokenWriter(target, header, force=force) as sink:
        for part in _pieces(ids, length):
            try:
                sink.write(part)
            except FormatError as error:
                raise type(error)(f"{source}: {error}") from None
    return header


def _open_npy(source: str | os.PathLike[str]) -> npt.NDArray[np.integer[Any]]:
    """The array of a .npy file, mapped and not loaded, of integers and 3 or 4 axes."""
    try:
        ids: np.ndarray[Any, Any] = np.load(source, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise SourceError(f"cannot read {source}: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise FormatError(f"{source} is not a .npy file of integers: {str(error).splitlines()[0]}") from error
    if not isinstance(ids, np.ndarray) or ids.dtype.kind not in "ui":
        raise FormatError(f"{source} does not hold integers but {getattr(ids, 'dtype', 'several arrays')}")
    if ids.ndim not in (3, 4) or 0 in ids.shape[1:]:
        raise FormatError(f"{source} has shape {ids.shape}; ids are (t, h, w) or (t, h, w, K)")
    return ids


def _pieces(ids: npt.NDArray[np.integer[Any]], length: int) -> Iterator[npt.NDArray[np.integer[Any]]]:
    for start in range(0, len(ids), length):
        part = np.array(ids[start : start + length])
        if len(part) != min(length, len(ids) - start):
            raise TruncatedError("the .npy file ends too early")
        yield part
