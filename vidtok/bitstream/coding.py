"""Ids of a chunk to stored bytes and back, one stage at a time. The only place that knows entropy modes.

Each stage carries two checksums: of its stored bytes (so that `verify` needs no decoder) and of its ids
as little-endian numbers of 2, 4 or 8 bytes, the smallest that holds its vocabulary.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from vidtok.bitstream.bits import Ids, bits_for, pack, packed_bytes, unpack
from vidtok.bitstream.header import FREE_IDS, TokenHeader, id_bytes
from vidtok.bitstream.lz import expand, squeeze
from vidtok.bitstream.records import ChunkHead, Stage
from vidtok.errors import DamagedError, FormatError


class Mode(NamedTuple):
    """How the ids (t, h, w) of one stage become bytes, and back; `expand` raises FormatError."""

    squeeze: Callable[[Ids, int], bytes]  # ids, vocabulary
    expand: Callable[[bytes | memoryview, tuple[int, int, int], int, str], Ids]  # payload, shape, vocabulary, dtype


def _pack(part: Ids, vocabulary: int) -> bytes:
    return pack(part, bits_for(vocabulary))


def _unpack(payload: bytes | memoryview, shape: tuple[int, int, int], vocabulary: int, dtype: str) -> Ids:
    return unpack(payload, shape[0] * shape[1] * shape[2], bits_for(vocabulary), dtype).reshape(shape)


MODES = {"raw": Mode(_pack, _unpack), "lzma": Mode(squeeze, expand)}


def check_ids(ids: np.ndarray, vocabulary: int) -> None:
    """Raise unless all ids are in [0, vocabulary)."""
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
        raise FormatError(f"ids {int(ids.min())} to {int(ids.max())} are outside a vocabulary of {vocabulary}")


def encode_stages(ids: np.ndarray, header: TokenHeader) -> tuple[tuple[Stage, ...], list[bytes]]:
    """Checksums and stored bytes of each stage of ids (n, h, w[, K])."""
    stages, payloads = [], []
    for k, vocabulary in enumerate(header.vocabularies):
        part = ids[..., k] if header.codebooks else ids
        check_ids(part, vocabulary)
        part = np.ascontiguousarray(part, dtype=f"<u{id_bytes(vocabulary)}")
        payload = MODES[header.entropy].squeeze(part, vocabulary)
        stages.append(Stage(len(payload), zlib.crc32(payload), zlib.crc32(part.data)))
        payloads.append(payload)
    return tuple(stages), payloads


def decode_stages(payloads: Sequence[bytes | memoryview], head: ChunkHead, header: TokenHeader) -> Ids:
    """ids (n, h, w[, K]) of a chunk, uint16, 32 or 64; DamagedError if they are not those written."""
    shape = header.grid_shape(head.latents)
    ids = np.empty(shape, f"u{header.id_bytes}") if header.codebooks else None
    for k, (payload, stage, vocabulary) in enumerate(zip(payloads, head.stages, header.vocabularies, strict=True)):
        part = _decode_stage(payload, stage, head, header, vocabulary)
        if ids is None:
            return part
        ids[..., k] = part
    assert ids is not None
    return ids


def _decode_stage(
    payload: bytes | memoryview, stage: Stage, head: ChunkHead, header: TokenHeader, vocabulary: int
) -> Ids:
    if zlib.crc32(payload) != stage.payload_crc:
        raise DamagedError("its stored bytes are damaged: the checksum does not fit", [head.number])
    shape = (head.latents, header.grid_height, header.grid_width)
    try:
        part = MODES[header.entropy].expand(payload, shape, vocabulary, f"<u{id_bytes(vocabulary)}")
        check_ids(part, vocabulary)
    except FormatError as error:
        raise DamagedError(str(error), [head.number]) from None
    if zlib.crc32(part.data) != stage.ids_crc:
        raise DamagedError("its ids are not those that were written: the checksum does not fit", [head.number])
    return part


__all__ = ["FREE_IDS", "check_ids", "decode_stages", "encode_stages", "packed_bytes"]
