"""parts: what each part of a token file costs, to the byte. Reads the heads of chunks, one at a time; no ids, no numpy.

header       what stands before the first record
ids          stored ids, those of each stage (of each quality, in files of a model with several) by themselves too
timestamps   of frames, in the heads of chunks
framing      all else in the heads of chunks: marks, lengths, counts, checksums
audio        audio records, heads included
index        the trailer with the chunks' places, and the footer
other        records that this version passes over, and chunks whose heads are damaged
"""

from __future__ import annotations

from typing import Any

from vidtok.bitstream.reader import TokenReader
from vidtok.bitstream.records import CHUNK, TIMES, ChunkHead, pack_times, parse_chunk
from vidtok.bitstream.source import Front, read_front
from vidtok.bitstream.wire import Cursor, varint, zigzag
from vidtok.errors import DamagedError, FormatError

NAMES = ("header", "ids", "timestamps", "framing", "audio", "index", "other")


def parts(reader: TokenReader) -> dict[str, Any]:
    """By part: bytes, bits per pixel of all frames (None where ids were imported), per cent; they add up to the file.

    ids also has bits_per_id, and the same of each stage as the list `stages`.
    """
    head, index = reader.header, reader.index
    spent = dict.fromkeys(NAMES, 0)
    stages, cells = [0] * head.stages, [0] * head.stages
    for number in range(len(index)):
        try:
            front, chunk = _chunk(reader, number)
        except FormatError:
            continue  # its bytes are left over in the end
        times = _time_bytes(front, chunk, reader)
        spent["timestamps"] += times
        spent["framing"] += front.payload_start - front.start - times
        for k, stage in enumerate(chunk.stages):
            stages[k] += stage.payload_bytes
            cells[k] += chunk.latents * head.grid_height * head.grid_width
    gaps = reader.trailer_start - reader.header_end - sum(spent.values()) - sum(stages)
    spent["header"], spent["ids"] = reader.header_end, sum(stages)
    spent["audio"] = min(reader.audio_bytes, gaps)  # what a damaged file claims may not be there
    spent["index"] = reader.file_bytes - reader.trailer_start
    spent["other"] = reader.file_bytes - sum(spent.values())
    found = {name: _costs(count, reader) for name, count in spent.items()}
    each = [_costs(own, reader, ids) for own, ids in zip(stages, cells, strict=True)]
    found["ids"] = _costs(spent["ids"], reader, sum(cells)) | {"stages": each}
    return found


def _chunk(reader: TokenReader, number: int) -> tuple[Front, ChunkHead]:
    """A chunk up to its payload; FormatError unless it is the one that the index knows."""
    index = reader.index
    if not index.lengths[number]:
        raise DamagedError("it has been lost")
    reader.source.seek(index.starts[number])
    front = read_front(reader.source, reader.seed)
    if (front.kind, front.record_bytes, front.crc) != (CHUNK, index.lengths[number], index.crcs[number]):
        raise DamagedError("the index knows another chunk in its place")
    if front.start + front.record_bytes > reader.trailer_start:
        raise DamagedError("it stands behind the trailer")
    return front, parse_chunk(front.head, reader.header, reader.layout)


def _time_bytes(front: Front, chunk: ChunkHead, reader: TokenReader) -> int:
    """What number and timestamps of a chunk's frames take; every number has one spelling."""
    if not reader.header.has_frames:
        return 0
    cursor = Cursor(front.head, "the head of a chunk")
    flags = [cursor.varint() for _ in range(3)][-1]  # after the payload's length and the chunk's number
    listed = pack_times(chunk.pts, reader.header.frame_step) if flags & TIMES else b""
    return len(varint(chunk.frames)) + len(zigzag(chunk.pts[0])) + len(listed)


def _costs(count: int, reader: TokenReader, ids: int | None = None) -> dict[str, Any]:
    head = reader.header
    pixels = reader.frames * (head.width or 0) * (head.height or 0)
    found = {"bytes": count, "bpp": count * 8 / pixels if pixels else None, "percent": 100 * count / reader.file_bytes}
    return found if ids is None else found | {"bits_per_id": count * 8 / ids if ids else None}
