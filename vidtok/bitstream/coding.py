"""Ids of a chunk to stored bytes and back, one stage at a time. The only place that knows entropy modes.

Each stage carries two checksums: of its stored bytes (so that `verify` needs no decoder) and of its ids
as little-endian numbers of 2, 4 or 8 bytes, the smallest that holds its vocabulary.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from vidtok.bitstream import adaptive, lz, prior
from vidtok.bitstream.bits import Ids, bits_for, pack, packed_bytes, unpack
from vidtok.bitstream.header import FREE_IDS, TokenHeader, digit_groups, id_bytes
from vidtok.bitstream.layout import Layout
from vidtok.bitstream.records import ChunkHead, Stage
from vidtok.errors import DamagedError, FormatError

Kind = tuple[int, tuple[int, ...]]  # vocabulary and digits of a stage


class Part(NamedTuple):
    """What is known of a stage before its ids."""

    shape: tuple[int, int, int]  # (t, h, w)
    vocabulary: int
    digits: tuple[int, ...]  # () where they are unknown
    below: Ids | None  # ids of the stage below, where it has the same digits
    course: prior.Course | None  # the chunk so far, in mode prior

    @property
    def dtype(self) -> str:
        return f"<u{id_bytes(self.vocabulary)}"

    @property
    def learned(self) -> prior.Course:
        assert self.course
        return self.course


class Mode(NamedTuple):
    """How the ids (t, h, w) of one stage become bytes, and back; `expand` raises FormatError."""

    squeeze: Callable[[Ids, Part], bytes]
    expand: Callable[[bytes | memoryview, Part], Ids]


def _pack(ids: Ids, part: Part) -> bytes:
    return pack(ids, bits_for(part.vocabulary))


def _unpack(payload: bytes | memoryview, part: Part) -> Ids:
    return unpack(payload, math.prod(part.shape), bits_for(part.vocabulary), part.dtype).reshape(part.shape)


MODES = {
    "raw": Mode(_pack, _unpack),
    "lzma": Mode(
        lambda ids, part: lz.squeeze(ids, part.vocabulary),
        lambda payload, part: lz.expand(payload, part.shape, part.vocabulary, part.dtype),
    ),
    "adaptive": Mode(
        lambda ids, part: adaptive.squeeze(ids, part.vocabulary, part.digits, part.below),
        lambda payload, part: adaptive.expand(
            payload, part.shape, part.vocabulary, part.dtype, part.digits, part.below
        ),
    ),
    "prior": Mode(
        lambda ids, part: prior.squeeze(ids, part.learned),
        lambda payload, part: prior.expand(payload, part.shape, part.dtype, part.learned),
    ),
}


def check_ids(ids: np.ndarray, vocabulary: int) -> None:
    """Raise unless all ids are in [0, vocabulary)."""
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
        raise FormatError(f"ids {int(ids.min())} to {int(ids.max())} are outside a vocabulary of {vocabulary}")


def stored_stages(ids: np.ndarray, header: TokenHeader) -> int:
    """How many stages ids (n, h, w[, K]) hold, n above 0: those of the rest are -1. FormatError if only some are."""
    if not header.varying:
        return header.stages
    count = int(np.count_nonzero(ids[0, 0, 0] >= 0))
    if not count or int(ids[..., :count].min()) < 0 or (ids[..., count:] != -1).any():
        raise FormatError("ids are -1 in all cells of the last stages of a segment, and nowhere else")
    return count


def encode_stages(ids: np.ndarray, number: int, header: TokenHeader) -> tuple[tuple[Stage, ...], list[bytes]]:
    """Checksums and stored bytes of each stage of ids (n, h, w[, K]), those of chunk `number`."""
    kinds = _kinds(header)
    course = _course(number, header, kinds)
    stages, payloads = [], []
    below: list[Ids] = []
    for k, (vocabulary, _) in enumerate(kinds[: stored_stages(ids, header)]):
        own = ids[..., k] if header.codebooks else ids
        check_ids(own, vocabulary)
        own = np.ascontiguousarray(own, dtype=f"<u{id_bytes(vocabulary)}")
        payload = MODES[header.entropy].squeeze(own, _part(header, kinds, own.shape[0], below, course))
        stages.append(Stage(len(payload), zlib.crc32(payload), zlib.crc32(own.data)))
        payloads.append(payload)
        below.append(own)
    return tuple(stages), payloads


def decode_stages(payloads: Sequence[bytes | memoryview], head: ChunkHead, header: TokenHeader) -> Ids:
    """ids (n, h, w[, K]) of a chunk, of `header.id_type`; DamagedError if they are not those written."""
    kinds = _kinds(header)
    course = _course(head.number, header, kinds)
    found: list[Ids] = []
    for payload, stage in zip(payloads, head.stages, strict=True):
        part = _part(header, kinds, head.latents, found, course)
        found.append(_decode_stage(payload, stage, head, header, part))
    if not header.codebooks:
        return found[0]
    ids = np.full(header.grid_shape(head.latents), -1 if header.varying else 0, header.id_type)
    for k, own in enumerate(found):
        ids[..., k] = own
    return ids


def _kinds(header: TokenHeader) -> list[Kind]:
    """Those of all stages."""
    groups = digit_groups(header) or [()]
    return [(vocabulary, groups[k % len(groups)]) for k, vocabulary in enumerate(header.vocabularies)]


def _course(number: int, header: TokenHeader, kinds: Sequence[Kind]) -> prior.Course | None:
    """What mode prior keeps through the stages of chunk `number`; FormatError if the prior is for other ids."""
    if header.entropy != "prior":
        return None
    from vidtok.bitstream import priors

    assert header.prior_id
    network = priors.load(header.prior_id)
    config = network.config
    if set(kinds) != {(config.vocabulary, config.digits)} or header.stages > config.stages:
        raise FormatError(
            f"prior {header.prior_id[:12]} is for up to {config.stages} stages of digits {list(config.digits)}; "
            f"these ids are others"
        )
    return prior.Course(network, Layout(header).latents_before(number), header.stages)


def _part(
    header: TokenHeader, kinds: Sequence[Kind], latents: int, below: Sequence[Ids], course: prior.Course | None
) -> Part:
    """The stage after those that are known."""
    stage, shape = len(below), (latents, header.grid_height, header.grid_width)
    same = stage and kinds[stage - 1] == kinds[stage]
    return Part(shape, *kinds[stage], below[-1] if same else None, course)


def _decode_stage(
    payload: bytes | memoryview, stage: Stage, head: ChunkHead, header: TokenHeader, part: Part
) -> Ids:
    if zlib.crc32(payload) != stage.payload_crc:
        raise DamagedError("its stored bytes are damaged: the checksum does not fit", [head.number])
    try:
        ids = MODES[header.entropy].expand(payload, part)
        check_ids(ids, part.vocabulary)
    except FormatError as error:
        raise DamagedError(str(error), [head.number]) from None
    if zlib.crc32(ids.data) != stage.ids_crc:
        raise DamagedError("its ids are not those that were written: the checksum does not fit", [head.number])
    return ids


__all__ = ["FREE_IDS", "check_ids", "decode_stages", "encode_stages", "packed_bytes", "stored_stages"]
