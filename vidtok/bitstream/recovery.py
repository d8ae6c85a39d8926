"""What can still be read of a file that has been cut off or damaged: the search for whole chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vidtok.bitstream.records import CHUNK, TRAILER, ChunkHead, parse_chunk
from vidtok.bitstream.source import Front, search_fronts
from vidtok.bitstream.trailer import Index, Summary
from vidtok.errors import FormatError, TruncatedError, UnsupportedError

if TYPE_CHECKING:
    from vidtok.bitstream.reader import TokenReader

Found = dict[int, tuple[Front, ChunkHead]]
SPARE_CHUNKS = 65536  # numbers beyond those that a file's bytes could hold


def search(reader: TokenReader, reason: FormatError) -> tuple[Summary, Index, int]:
    """Summary, index (lost chunks have 0 bytes) and end of the records, from whatever can be found."""
    end = reader.file_bytes
    fronts = search_fronts(reader.source, reader.seed, reader.header_end)
    summary, expected = None, None
    for front in fronts:
        if front.kind == TRAILER:
            try:
                summary, expected = reader.parse_trailer(front)
                end = front.start
            except FormatError as error:
                reader.problems.append(f"trailer at byte {front.start}: {error}")
    heads = _chunks(reader, fronts, expected)
    count = len(expected) if expected is not None else max(heads, default=-1) + 1
    index, last = Index(), reader.header_end
    for number in range(count):
        if number in heads:
            front = heads[number][0]
            index.add(front.start, front.record_bytes, front.crc)
            last = front.start + front.record_bytes
        else:
            index.add(last, 0, 0)
    if summary is None and isinstance(reason, TruncatedError):
        reader.problems[0] += f"; {len(heads)} whole chunks can be read"
    return summary or _summary(reader, heads), index, end


def _chunks(reader: TokenReader, fronts: list[Front], expected: Index | None) -> Found:
    """Chunks by number: in rising order, and only those the trailer knows if there is one."""
    found: Found = {}
    size, last = reader.file_bytes, -1
    most = len(expected) if expected is not None else size // 8 + SPARE_CHUNKS
    for front in fronts:
        if front.kind != CHUNK or front.payload_start + front.payload_bytes > size:
            continue
        try:
            head = parse_chunk(front.head, reader.header, reader.layout)
        except UnsupportedError:
            raise
        except FormatError:
            continue
        known = head.number < most and (expected is None or expected.crcs[head.number] == front.crc)
        if head.number > last and known:
            found[head.number] = front, head
            last = head.number
    return found


def _summary(reader: TokenReader, heads: Found) -> Summary:
    """Counts up to the last chunk found."""
    if not heads:
        return Summary(latents=0, frames=0, audio_bytes=0)
    number = max(heads)
    place, head = reader.layout.place(number), heads[number][1]
    first = heads[min(heads)][1].pts
    return Summary(
        latents=place.first_latent + head.latents,
        frames=place.first_frame + head.frames,
        audio_bytes=0,
        first_pts=first[0] if first else 0,
        last_pts=head.pts[-1] if head.pts else 0,
        last_duration=reader.header.frame_step,
    )


def fill_times(known: list[int | None], step: int) -> list[int]:
    """Rising timestamps, unknown ones filled in: evenly between neighbours, `step` apart at the ends."""
    places = [i for i, value in enumerate(known) if value is not None]
    if len(places) == len(known):
        return [value for value in known if value is not None]
    if not places:
        return [i * step for i in range(len(known))]
    out: list[int] = []
    after = 0
    for i, value in enumerate(known):
        while after < len(places) and places[after] < i:
            after += 1
        if value is not None:
            out.append(value)
            continue
        right = places[after] if after < len(places) else None
        if right is None:
            out.append(out[-1] + step)
        elif after == 0:
            out.append((known[right] or 0) - (right - i) * step)
        else:
            left = places[after - 1]
            low, high = known[left] or 0, known[right] or 0
            out.append(low + (high - low) * (i - left) // (right - left))
    return out
