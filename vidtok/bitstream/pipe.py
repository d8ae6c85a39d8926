"""Reading a token file from front to back, as it comes out of a pipe, without its index."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from zlib import crc32

from vidtok.bitstream.records import AUDIO, CHUNK, TRAILER, check_sizes, parse_audio, parse_chunk
from vidtok.bitstream.source import Front, read_front
from vidtok.bitstream.trailer import FOOTER_BYTES, Index, Summary, check_positions, parse_footer, parse_trailer
from vidtok.errors import DamagedError, FormatError, TruncatedError, UnsupportedError

if TYPE_CHECKING:
    from vidtok.bitstream.reader import TokenReader
    from vidtok.bitstream.views import Chunk

OnAudio = Callable[[bytes], None] | None


def iter_pipe(reader: TokenReader, skip_damaged: bool, on_audio: OnAudio) -> Iterator[Chunk]:
    """The chunks of a pipe; at the end they are compared with the trailer.

    A pipe cannot be searched: where it is cut off or a head is damaged the chunks end, with an error, or
    with a line in `reader.problems` if damage is skipped.
    """
    seen, latents, frames = Index(), 0, 0
    try:
        while (front := read_front(reader.source, reader.seed)).kind != TRAILER:
            if front.kind == CHUNK:
                chunk = _read_chunk(reader, front, len(seen), skip_damaged)
                seen.add(front.start, front.record_bytes, front.crc)
                latents, frames = latents + chunk.info.latents, frames + chunk.info.frames
                yield chunk
            elif front.kind == AUDIO:
                _hear(reader, front, on_audio, skip_damaged)
            else:
                reader.source.skip(front.payload_bytes)
        _finish(reader, front, seen)
    except UnsupportedError:
        raise
    except FormatError as error:
        if isinstance(error, TruncatedError):
            error = TruncatedError(f"the stream is cut off after {len(seen)} whole chunks: {error}")
        if not skip_damaged:
            raise error from None
        reader.problems.append(str(error))
        reader.finish_pipe(Summary(latents=latents, frames=frames, audio_bytes=0), seen)


def _read_chunk(reader: TokenReader, front: Front, due: int, skip_damaged: bool) -> Chunk:
    from vidtok.bitstream.coding import decode_stages
    from vidtok.bitstream.views import Chunk, ChunkInfo

    head = parse_chunk(front.head, reader.header, reader.layout)
    if head.number != due:
        raise DamagedError(f"chunk {head.number} follows where chunk {due} was due", [due])
    place = reader.layout.place(due)
    info = ChunkInfo(
        number=head.number,
        segment=place.segment,
        first_latent=place.first_latent,
        latents=head.latents,
        first_frame=place.first_frame,
        frames=head.frames,
        offset=front.start,
        bytes=front.record_bytes,
    )
    reader.check_stages(place.segment, head)
    check_sizes(head, reader.header)
    payloads = [reader.source.read(stage.payload_bytes) for stage in head.stages]
    try:
        return Chunk(info, decode_stages(payloads, head, reader.header), head.pts)
    except DamagedError as error:
        message = f"chunk {head.number}: {error}"
        if not skip_damaged:
            raise DamagedError(message, [head.number]) from None
        return Chunk(info, None, head.pts, message)


def _hear(reader: TokenReader, front: Front, on_audio: OnAudio, skip_damaged: bool) -> None:
    length, crc = parse_audio(front.head)
    data = reader.source.read(length)
    if crc32(data) == crc:
        if on_audio:
            on_audio(data)
        return
    if not skip_damaged:
        raise DamagedError(f"the audio record at byte {front.start} is damaged: its checksum does not fit")
    reader.problems.append(f"the audio record at byte {front.start} is damaged")


def _finish(reader: TokenReader, front: Front, seen: Index) -> None:
    """Compare what was seen with what the trailer says, and look that nothing follows."""
    length, crc = parse_audio(front.head)
    data = reader.source.read(length)
    if crc32(data) != crc:
        raise DamagedError("the trailer is damaged: its checksum does not fit")
    summary, index = parse_trailer(data, reader.header, reader.header_end, front.start)
    check_positions(summary, index, reader.header_end, front.start)
    if len(index) != len(seen):
        raise DamagedError(f"the trailer knows {len(index)} chunks, {len(seen)} came")
    wrong = [i for i in range(len(seen)) if (seen.starts[i], seen.crcs[i]) != (index.starts[i], index.crcs[i])]
    if wrong:
        raise DamagedError(f"the trailer knows other chunks {', '.join(map(str, wrong[:9]))}", wrong)
    if parse_footer(reader.source.read(FOOTER_BYTES)) != front.record_bytes:
        raise DamagedError("the end of the stream is damaged: its length of the trailer is wrong")
    if reader.source.some(1):
        raise FormatError("bytes follow the end of the token file")
    reader.finish_pipe(summary, index)
