"""Numbers and strings on the wire: varints, zigzag, and a cursor that never reads past its bytes.

varint   7 bits a byte, lowest first, high bit set on all bytes but the last; at most 9 bytes, so
         values are below 2^63; the shortest form only (one value has one spelling)
zigzag   0, -1, 1, -2, 2 ... stored as the varints 0, 1, 2, 3, 4 ...
text     varint length, then UTF-8
"""

from __future__ import annotations

from vidtok.errors import FormatError

VARINT_LIMIT = 1 << 63
ZIGZAG_LIMIT = 1 << 62
VARINT_BYTES = 9


def varint(value: int) -> bytes:
    """`value` in 0 .. 2^63 - 1 as 1 to 9 bytes."""
    assert 0 <= value < VARINT_LIMIT, value
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def zigzag(value: int) -> bytes:
    """`value` in -2^62 .. 2^62 - 1 as a varint, small magnitudes short."""
    assert -ZIGZAG_LIMIT <= value < ZIGZAG_LIMIT, value
    return varint(value << 1 if value >= 0 else (-value << 1) - 1)


def text(value: str) -> bytes:
    """A string as its length in bytes and its UTF-8."""
    raw = value.encode("utf-8")
    return varint(len(raw)) + raw


class Cursor:
    """Reads values one after another from `data`; whatever does not fit raises FormatError."""

    def __init__(self, data: bytes, what: str) -> None:
        self.data = data
        self.what = what
        self.position = 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self.data) - self.position

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        if count > self.left:
            raise FormatError(f"{self.what} ends too early: {count} bytes wanted, {self.left} left")
        self.position += count
        return self.data[self.position - count : self.position]

    def varint(self) -> int:
        """The next varint, 0 .. 2^63 - 1."""
        value = shift = 0
        data, position, end = self.data, self.position, min(len(self.data), self.position + VARINT_BYTES)
        while position < end:
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0 and shift:
                    raise FormatError(f"{self.what} holds a number that is not in its shortest form")
                self.position = position
                return value
            shift += 7
        raise FormatError(f"{self.what} holds a number that has no end")

    def zigzag(self) -> int:
        """The next signed number, -2^62 .. 2^62 - 1."""
        value = self.varint()
        return value >> 1 if value & 1 == 0 else -((value + 1) >> 1)

    def u32(self) -> int:
        """The next four bytes as a little-endian number."""
        return int.from_bytes(self.take(4), "little")

    def text(self) -> str:
        """The next string."""
        try:
            return self.take(self.varint()).decode("utf-8")
        except UnicodeDecodeError:
            raise FormatError(f"{self.what} holds a text that is not UTF-8") from None

    def count(self, each: int) -> int:
        """The next varint, as a count of items of at least `each` bytes: what cannot be there is refused."""
        value = self.varint()
        if value * each > self.left:
            raise FormatError(f"{self.what} promises {value} items; {self.left} bytes cannot hold them")
        return value

    def end(self) -> None:
        """Raise if bytes are left over."""
        if self.left:
            raise FormatError(f"{self.what} has {self.left} bytes too many")
