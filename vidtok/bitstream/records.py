"""Records: what stands between the header and the end of a file.

    F5 kind | varint length of head | head | crc32 of all before | payload

`C` chunk, `a` a piece of audio, `T` trailer. A reader refuses unknown capital kinds and passes over
unknown small ones. Every head starts with the length of its payload. The crc32 continues from that of
the header, so that no record of a file with another header is ever taken for one of this.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from vidtok.bitstream.header import FREE_IDS, TokenHeader
from vidtok.bitstream.layout import Layout
from vidtok.bitstream.wire import ZIGZAG_LIMIT, Cursor, varint, zigzag
from vidtok.errors import DamagedError, FormatError, UnsupportedError

MARK = 0xF5
CHUNK, AUDIO, TRAILER = b"C", b"a", b"T"
KNOWN = (CHUNK, AUDIO, TRAILER)
MAX_HEAD_BYTES = 1 << 24
MIN_RECORD_BYTES = 2 + 1 + 1 + 4  # mark, kind, length, a head of one byte, checksum
FRONT_BYTES = 2 + 4  # mark, kind, and a length of at most four bytes
TIMES = 1  # chunk flag: distances between timestamps are listed


def frame_record(kind: bytes, head: bytes, seed: int) -> tuple[bytes, int]:
    """A record up to its payload, and its checksum; `seed` is the header's checksum."""
    front = bytes([MARK]) + kind + varint(len(head)) + head
    crc = zlib.crc32(front, seed)
    return front + crc.to_bytes(4, "little"), crc


def front_lengths(front: bytes) -> tuple[bytes, int, int]:
    """(kind, bytes before the head, bytes of the head) from the first six bytes of a record."""
    if front[:1] != bytes([MARK]):
        raise DamagedError(f"no record starts with byte {front[:1].hex() or '(none)'}")
    cursor = Cursor(front, "the length of a record")
    cursor.take(2)
    length = cursor.varint()
    if not 1 <= length <= MAX_HEAD_BYTES:
        raise DamagedError(f"a record's head of {length} bytes; 1 to {MAX_HEAD_BYTES} are allowed")
    return front[1:2], cursor.position, length


def check_kind(kind: bytes) -> None:
    """Refuse records this version must understand and does not."""
    if kind not in KNOWN and not 0x61 <= kind[0] <= 0x7A:
        raise UnsupportedError(f"record kind {kind.hex()} is unknown and needed; a newer vidtok may read it")


class Stage(NamedTuple):
    """One codebook's part of a chunk: stored bytes, their checksum, and that of the ids."""

    payload_bytes: int
    payload_crc: int
    ids_crc: int


class ChunkHead(NamedTuple):
    """Everything about a chunk but its ids: `pts` of its frames, in ticks, and its stages, from the lowest on."""

    number: int
    latents: int
    pts: tuple[int, ...] | range
    stages: tuple[Stage, ...]

    @property
    def frames(self) -> int:
        """Frames that start in this chunk."""
        return len(self.pts)

    @property
    def payload_bytes(self) -> int:
        """Stored bytes of all stages."""
        return sum(stage.payload_bytes for stage in self.stages)

    def to_bytes(self, header: TokenHeader) -> bytes:
        """The head as stored."""
        steady = is_steady(self.pts, header.frame_step)
        out = [self.payload_bytes, self.number, 0 if steady else TIMES, self.latents]
        if header.varying:
            out.append(len(self.stages))
        data = b"".join(map(varint, out))
        for stage in self.stages:
            data += varint(stage.payload_bytes) + stage.payload_crc.to_bytes(4, "little")
            data += stage.ids_crc.to_bytes(4, "little")
        if header.has_frames:
            data += varint(self.frames) + zigzag(self.pts[0])
        return data if steady else data + pack_times(self.pts, header.frame_step)


def is_steady(pts: Sequence[int], step: int) -> bool:
    """Whether timestamps are exactly `step` > 0 ticks apart (one or none always are)."""
    if len(pts) < 2:
        return True
    return step > 0 and (isinstance(pts, range) or all(b - a == step for a, b in itertools.pairwise(pts)))


def pack_times(pts: Sequence[int], step: int) -> bytes:
    """Distances between timestamps, each the zigzag of its change from the last (at first `step`)."""
    out = bytearray()
    for before, after in itertools.pairwise(pts):
        out += zigzag(after - before - step)
        step = after - before
    return bytes(out)


def parse_chunk(data: bytes, header: TokenHeader, layout: Layout) -> ChunkHead:
    """The head of a chunk; every count is checked against the header's rules."""
    cursor = Cursor(data, "the head of a chunk")
    payload, number, flags, latents = (cursor.varint() for _ in range(4))
    if flags & ~TIMES:
        raise UnsupportedError(f"chunk flags {flags:#x} are unknown; a newer vidtok may read them")
    count = cursor.varint() if header.varying else header.stages
    if not 1 <= count <= header.stages:
        raise FormatError(f"chunk {number} has {count} stages; this file has 1 to {header.stages}")
    stages = tuple(Stage(cursor.varint(), cursor.u32(), cursor.u32()) for _ in range(count))
    pts: tuple[int, ...] | range = ()
    if header.has_frames:
        pts = _parse_times(cursor, header, bool(flags & TIMES))
    elif flags:
        raise FormatError("a chunk lists timestamps but the header has no clock")
    cursor.end()
    head = ChunkHead(number, latents, pts, stages)
    if head.payload_bytes != payload:
        raise FormatError(f"chunk {number} has {payload} bytes, its stages {head.payload_bytes}")
    if not layout.chunk_fits(number, latents, head.frames):
        raise FormatError(f"chunk {number} cannot hold {latents} latent frames and {head.frames} frames")
    return head


def _parse_times(cursor: Cursor, header: TokenHeader, listed: bool) -> tuple[int, ...] | range:
    frames = cursor.varint()
    if frames < 1 or (listed and not 1 <= frames - 1 <= cursor.left):
        raise FormatError(f"a chunk promises {frames} timestamps; {cursor.left} bytes cannot hold them")
    step, now = header.frame_step, cursor.zigzag()
    if not listed:
        if frames > 1 and not step:
            raise FormatError("a chunk lists no timestamps and the header has no frame step")
        if now + step * (frames - 1) >= ZIGZAG_LIMIT:
            raise FormatError("a chunk's timestamps are too large")
        return range(now, now + step * frames, step) if step else range(now, now + 1)
    pts = [now]
    for _ in range(frames - 1):
        step += cursor.zigzag()
        now += step
        if step <= 0 or now >= ZIGZAG_LIMIT:
            raise FormatError(f"a chunk's timestamps go from {pts[-1]} to {now}; they must rise, below 2^62")
        pts.append(now)
    return tuple(pts)


def audio_head(data: bytes) -> bytes:
    """The head of an audio record: payload length and checksum."""
    return varint(len(data)) + zlib.crc32(data).to_bytes(4, "little")


def parse_audio(data: bytes) -> tuple[int, int]:
    """(payload bytes, payload checksum) of an audio record's head."""
    cursor = Cursor(data, "the head of an audio record")
    length, crc = cursor.varint(), cursor.u32()
    cursor.end()
    return length, crc


# ids that a byte of payload can stand for at most, by entropy mode: LZMA reaches some 7000 bytes a byte
IDS_PER_BYTE = {"raw": 8, "lzma": 8192, "adaptive": 8192, "prior": 8192}


def check_chunk_size(head: ChunkHead, header: TokenHeader) -> None:
    """Raise if a chunk holds more ids than its bytes can account for (ids of vocabulary 1 cost nothing).

    Ids that are not stored count too: they take memory when they are read.
    """
    ids = head.latents * header.grid_height * header.grid_width * header.stages
    if ids > FREE_IDS + IDS_PER_BYTE[header.entropy] * head.payload_bytes:
        raise FormatError(f"chunk {head.number} has {ids} ids in {head.payload_bytes} bytes; make chunks shorter")


def check_sizes(head: ChunkHead, header: TokenHeader) -> None:
    """Raise unless the stages' bytes are what so many ids take; nothing has been allocated before.

    Raw sizes are exactly known; in the other modes a stage takes at most a byte more than raw, and at least one.
    """
    check_chunk_size(head, header)
    count = head.latents * header.grid_height * header.grid_width
    for stage, vocabulary in zip(head.stages, header.vocabularies[: len(head.stages)], strict=True):
        raw = (count * (vocabulary - 1).bit_length() + 7) // 8
        least, most = (raw, raw) if header.entropy == "raw" else (1, raw + 1)
        if not least <= stage.payload_bytes <= most:
            raise FormatError(
                f"{count} ids of a vocabulary of {vocabulary} take {f'{least} to ' if least < most else ''}{most} "
                f"bytes, not {stage.payload_bytes}"
            )


def check_volume(latents: int, header: TokenHeader, file_bytes: int) -> None:
    """Raise if the ids of a file are more than its bytes can account for."""
    ids = latents * header.grid_height * header.grid_width * header.stages
    if ids > FREE_IDS + IDS_PER_BYTE[header.entropy] * file_bytes:
        raise FormatError(f"the trailer promises {ids} ids; {file_bytes} bytes cannot hold them")
