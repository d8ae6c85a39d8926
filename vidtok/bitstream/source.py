"""Source: bytes of a token file, from disk or a pipe, record by record; the search through damaged ones."""

from __future__ import annotations

import io
import os
import re
import zlib
from typing import BinaryIO, NamedTuple

from vidtok.bitstream.header import TokenHeader
from vidtok.bitstream.records import FRONT_BYTES, KNOWN, MARK, MIN_RECORD_BYTES, check_kind, front_lengths
from vidtok.bitstream.sections import PREAMBLE_BYTES, header_bytes, parse_header
from vidtok.bitstream.wire import Cursor
from vidtok.errors import DamagedError, FormatError, SourceError, TruncatedError, UnsupportedError

PIECE = 1 << 20
KNOWN_START = re.compile(bytes([MARK]) + b"[" + b"".join(KNOWN) + b"]")
TRY_COST = 256  # bytes of checksum that one attempt to read a record costs, at least


class Source:
    """A file to read. `size` is None where it cannot be known (a pipe), and then nothing can be sought."""

    def __init__(self, source: str | os.PathLike[str] | BinaryIO) -> None:
        self.owned = isinstance(source, (str, os.PathLike))
        self.name = str(source if self.owned else getattr(source, "name", "stream"))
        try:
            self.file = _open(source)
            self.size = self._measure()
        except OSError as error:
            raise SourceError(f"cannot read {self.name}: {error.strerror or error}") from error
        self.base = self.file.tell() if self.size is not None else 0
        self.size = None if self.size is None else self.size - self.base
        self.position = 0

    def _measure(self) -> int | None:
        if not getattr(self.file, "seekable", lambda: False)():
            return None
        here = self.file.tell()
        size = self.file.seek(0, io.SEEK_END)
        self.file.seek(here)
        return size

    def seek(self, position: int) -> None:
        """Go to `position`, counted from the magic."""
        assert self.size is not None
        self.file.seek(self.base + position)
        self.position = position

    def some(self, count: int) -> bytes:
        """Up to `count` bytes: fewer only at the end. Memory grows with what is there, not with `count`."""
        if self.size is not None:
            count = min(count, max(self.size - self.position, 0))
        pieces, left = [], count
        while left > 0:
            try:
                piece = self.file.read(min(left, PIECE))
            except OSError as error:
                raise SourceError(f"cannot read {self.name}: {error.strerror or error}") from error
            if not piece:
                break
            pieces.append(piece)
            left -= len(piece)
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self.position += len(data)
        return data

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes, or TruncatedError."""
        if self.size is not None and count > self.size - self.position:
            raise TruncatedError(f"the file ends after {self.size} bytes; {self.position + count} are needed")
        data = self.some(count)
        if len(data) < count:
            raise TruncatedError(f"the file ends after {self.position} bytes; {count - len(data)} more are needed")
        return data

    def skip(self, count: int) -> None:
        """Pass over `count` bytes."""
        if self.size is not None:
            if count > self.size - self.position:
                raise TruncatedError(f"the file ends after {self.size} bytes; {self.position + count} are needed")
            self.seek(self.position + count)
            return
        while count > 0:
            count -= len(self.read(min(count, PIECE)))

    def close(self) -> None:
        """Close what we opened."""
        if self.owned:
            self.file.close()


def _open(source: str | os.PathLike[str] | BinaryIO) -> BinaryIO:
    return open(source, "rb") if isinstance(source, (str, os.PathLike)) else source


def read_header(source: Source) -> tuple[TokenHeader, int]:
    """The header at the start of `source`, and its checksum."""
    preamble = source.some(PREAMBLE_BYTES)
    return parse_header(preamble, source.some(header_bytes(preamble)))


class Front(NamedTuple):
    """A record up to its payload: where it starts, its head, its checksum, what its payload takes."""

    kind: bytes
    start: int
    head: bytes
    crc: int
    payload_bytes: int
    payload_start: int

    @property
    def record_bytes(self) -> int:
        """Bytes of the whole record."""
        return self.payload_start + self.payload_bytes - self.start


def read_front(source: Source, seed: int) -> Front:
    """The record that starts here, up to its payload; its checksum is right."""
    start = source.position
    front = source.read(FRONT_BYTES)
    kind, before, length = front_lengths(front)
    data = front + source.read(before + length + 4 - FRONT_BYTES)
    crc = zlib.crc32(data[:-4], seed)
    if crc != int.from_bytes(data[-4:], "little"):
        raise DamagedError(f"the record at byte {start} is damaged: its checksum does not fit")
    check_kind(kind)
    head = data[before:-4]
    payload = Cursor(head, "the head of a record").varint()
    return Front(kind, start, head, crc, payload, source.position)


def search_fronts(source: Source, seed: int, start: int) -> list[Front]:
    """Every record found from `start` on whose head is whole, passing over whatever is not one.

    Work is bounded: attempts that turn out wrong may cost four times the file's size in checksums.
    """
    assert source.size is not None
    found: list[Front] = []
    position, budget = start, 4 * source.size + (1 << 20)
    while position + MIN_RECORD_BYTES <= source.size and budget > 0:
        source.seek(position)
        try:
            front = read_front(source, seed)
        except UnsupportedError:
            raise
        except FormatError:
            budget -= max(source.position - position, TRY_COST)
            position = _next_mark(source, position + 1)
            continue
        found.append(front)
        whole = front.payload_start + front.payload_bytes <= source.size
        position = front.payload_start + front.payload_bytes if whole else front.payload_start
    return found


def _next_mark(source: Source, position: int) -> int:
    """The first place at or after `position` that looks like the start of a known record, or the end."""
    assert source.size is not None
    while position < source.size:
        source.seek(position)
        piece = source.some(1 << 16)
        if found := KNOWN_START.search(piece):
            return position + found.start()
        position += max(len(piece) - 1, 1)  # the mark may be the last byte, its kind the next
    return source.size
