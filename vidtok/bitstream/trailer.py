"""Trailer: the last record, with what is known only at the end, and the index of the chunks.

    ... | record T: head (payload length, payload crc32), payload | trailer length u32 | end mark 4

The last eight bytes of a file lead to the trailer, so that whoever can seek finds every chunk.
"""

from __future__ import annotations

import zlib
from array import array
from typing import NamedTuple

from vidtok.bitstream.header import TokenHeader
from vidtok.bitstream.layout import Layout
from vidtok.bitstream.records import MIN_RECORD_BYTES, TRAILER, frame_record
from vidtok.bitstream.wire import ZIGZAG_LIMIT, Cursor, varint, zigzag
from vidtok.errors import FormatError, UnsupportedError

END_MARK = b"\x89VTE"
FOOTER_BYTES = 8
ENTRY_BYTES = 1 + 1 + 4  # the smallest entry of the index
DAMAGED_SOURCE, STEADY, NOMINAL = 1, 2, 4


class Index:
    """Where chunk i stands: `starts[i]`, its record's bytes `lengths[i]` (0: lost), its head's `crcs[i]`."""

    def __init__(self) -> None:
        self.starts, self.lengths, self.crcs = array("Q"), array("Q"), array("Q")

    def __len__(self) -> int:
        return len(self.starts)

    def add(self, start: int, length: int, crc: int) -> None:
        """One more chunk."""
        self.starts.append(start)
        self.lengths.append(length)
        self.crcs.append(crc)


class Summary(NamedTuple):
    """What is known when everything has been written."""

    latents: int
    frames: int
    audio_bytes: int  # whole audio records
    first_pts: int = 0
    last_pts: int = 0
    last_duration: int = 0  # ticks the last frame stays
    damaged_source: bool = False
    steady: bool = False  # every pts is first_pts + i * frame_step
    nominal: bool = False  # every pts is within a tick of first_pts + i / (fps * time_base)


def write_trailer(
    summary: Summary, index: Index, header: TokenHeader, header_end: int, seed: int, position: int
) -> bytes:
    """Trailer and footer of a file whose other records end at `position`."""
    flags = DAMAGED_SOURCE * summary.damaged_source + STEADY * summary.steady + NOMINAL * summary.nominal
    out = bytearray(b"".join(map(varint, (flags, summary.latents, summary.audio_bytes))))
    if header.has_frames:
        out += varint(summary.frames)
        out += zigzag(summary.first_pts) + varint(summary.last_pts - summary.first_pts) + varint(summary.last_duration)
    last = header_end
    for start, length, crc in zip(index.starts, index.lengths, index.crcs, strict=True):
        out += varint(start - last) + varint(length) + crc.to_bytes(4, "little")
        last = start + length
    head = varint(len(out)) + zlib.crc32(out).to_bytes(4, "little")
    record = frame_record(TRAILER, head, seed)[0] + out
    return record + len(record).to_bytes(4, "little") + END_MARK


def parse_footer(footer: bytes) -> int:
    """Bytes of the trailer record before the last eight bytes `footer`."""
    if len(footer) != FOOTER_BYTES or footer[4:] != END_MARK:
        raise FormatError("no end mark")
    return int.from_bytes(footer[:4], "little")


def parse_trailer(data: bytes, header: TokenHeader, header_end: int, position: int) -> tuple[Summary, Index]:
    """Summary and index from the payload of a trailer record that starts at `position`."""
    cursor = Cursor(data, "the trailer")
    summary = _parse_summary(cursor, header)
    layout = Layout(header)
    if not layout.frames_fit(summary.latents, summary.frames):
        raise FormatError(f"the trailer counts {summary.frames} frames but {summary.latents} latent frames")
    chunks = layout.chunks(summary.latents)
    if chunks * ENTRY_BYTES > cursor.left:
        raise FormatError(f"the trailer promises {chunks} chunks; its {cursor.left} bytes cannot hold them")
    index, last = Index(), header_end
    for _ in range(chunks):
        start, length = last + cursor.varint(), cursor.varint()
        last = start + length
        if length < MIN_RECORD_BYTES or last >= 1 << 62:
            raise FormatError(f"the index says that chunk {len(index)} has {length} bytes at {start}")
        index.add(start, length, cursor.u32())
    cursor.end()
    return summary, index


def check_positions(summary: Summary, index: Index, header_end: int, position: int) -> None:
    """Raise unless index and audio fit between the header and the trailer at `position`."""
    end = index.starts[-1] + index.lengths[-1] if len(index) else header_end
    if end > position:
        raise FormatError("the index points outside the file: bytes have been lost or added")
    gaps = position - header_end - sum(index.lengths)
    if gaps < summary.audio_bytes:
        raise FormatError(f"the trailer counts {summary.audio_bytes} bytes of audio; only {gaps} are there")


def _parse_summary(cursor: Cursor, header: TokenHeader) -> Summary:
    flags, latents, audio_bytes = cursor.varint(), cursor.varint(), cursor.varint()
    if flags & ~(DAMAGED_SOURCE | STEADY | NOMINAL):
        raise UnsupportedError(f"trailer flags {flags:#x} are unknown; a newer vidtok may read them")
    frames = first = span = duration = 0
    if header.has_frames:
        frames, first, span, duration = cursor.varint(), cursor.zigzag(), cursor.varint(), cursor.varint()
    if first + span + duration >= ZIGZAG_LIMIT:
        raise FormatError("the trailer's timestamps are too large")
    if flags & STEADY and span != header.frame_step * max(frames - 1, 0):
        raise FormatError(f"the trailer says {frames} steady frames and a span of {span} ticks")
    return Summary(
        latents=latents, frames=frames, audio_bytes=audio_bytes, first_pts=first, last_pts=first + span,
        last_duration=duration, damaged_source=bool(flags & DAMAGED_SOURCE), steady=bool(flags & STEADY),
        nominal=bool(flags & NOMINAL),
    )  # fmt: skip
