"""The header as bytes: sections of a number, a length and contents.

    magic 8 | version 1 | length u32 | sections ... | crc32 of all before

Sections stand in ascending order, each `varint(2 * number + critical) varint(length) contents`. A reader
refuses unknown critical sections and passes over unknown optional ones.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from fractions import Fraction

from vidtok.bitstream.header import ENTROPY, MAGIC, Audio, Colour, TokenHeader, digit_groups
from vidtok.bitstream.wire import Cursor, text, varint
from vidtok.errors import DamagedError, FormatError, TruncatedError, UnsupportedError

VERSION = 1
PREAMBLE_BYTES = len(MAGIC) + 1 + 4
MAX_HEADER_BYTES = 1 << 20

Fields = dict[str, object]


def _write_grid(header: TokenHeader) -> bytes:
    own = header.vocabularies if not isinstance(header.vocabulary, int) else (header.vocabulary,)
    plain = isinstance(header.vocabulary, int)
    return b"".join(
        map(varint, (header.grid_height, header.grid_width, header.codebooks, 0 if plain else len(own), *own))
    )


def _read_grid(cursor: Cursor) -> Fields:
    height, width, codebooks, own = cursor.varint(), cursor.varint(), cursor.varint(), cursor.count(1)
    vocabulary: object = tuple(cursor.varint() for _ in range(own)) if own else cursor.varint()
    return {"grid_height": height, "grid_width": width, "codebooks": codebooks, "vocabulary": vocabulary}


CAUSAL = 0


def _write_layout(header: TokenHeader) -> bytes:
    values = (
        CAUSAL,
        header.time_stride,
        header.space_stride,
        header.chunk_latents,
        header.segment_frames,
        header.look_back,
    )
    return b"".join(map(varint, values))


def _read_layout(cursor: Cursor) -> Fields:
    kind = cursor.varint()
    if kind != CAUSAL:
        raise UnsupportedError(f"frames are laid out by rule {kind}; this version knows rule {CAUSAL} (causal) only")
    names = ("time_stride", "space_stride", "chunk_latents", "segment_frames", "look_back")
    return {name: cursor.varint() for name in names}


def _write_coding(header: TokenHeader) -> bytes:
    return varint(ENTROPY[header.entropy]) + bytes.fromhex(header.prior_id or "")


def _read_coding(cursor: Cursor) -> Fields:
    mode = cursor.varint()
    name = next((name for name, number in ENTROPY.items() if number == mode), None)
    if name is None:
        raise UnsupportedError(f"entropy mode {mode} is unknown; a newer vidtok may read it")
    return {"entropy": name, "prior_id": cursor.take(32).hex() if cursor.left else None}


def _write_picture(header: TokenHeader) -> bytes | None:
    if header.width is None or header.height is None:
        return None
    return varint(header.width) + varint(header.height)


def _read_picture(cursor: Cursor) -> Fields:
    return {"width": cursor.varint(), "height": cursor.varint()}


def _ratio(value: Fraction | None) -> bytes:
    return varint(value.numerator) + varint(value.denominator) if value else varint(0)


def _read_ratio(cursor: Cursor) -> Fraction | None:
    top = cursor.varint()
    if not top:
        return None
    bottom = cursor.varint()
    value = Fraction(top, bottom) if bottom else Fraction(0)
    if value.numerator != top:
        raise FormatError(f"{cursor.what} holds the ratio {top}/{bottom}, which is not in lowest terms")
    return value


def _write_clock(header: TokenHeader) -> bytes | None:
    if header.time_base is None:
        return None
    return _ratio(header.time_base) + varint(header.frame_step) + _ratio(header.fps)


def _read_clock(cursor: Cursor) -> Fields:
    base = _read_ratio(cursor)
    if base is None:
        raise FormatError("the time base is 0")
    return {"time_base": base, "frame_step": cursor.varint(), "fps": _read_ratio(cursor)}


def _write_model(header: TokenHeader) -> bytes | None:
    if not header.model_name and header.model_id is None:
        return None
    return text(header.model_name) + bytes.fromhex(header.model_id or "")


def _read_model(cursor: Cursor) -> Fields:
    return {"model_name": cursor.text(), "model_id": cursor.take(32).hex() if cursor.left else None}


def _write_digits(header: TokenHeader) -> bytes | None:
    groups = digit_groups(header)
    if not groups:
        return None
    shared = bool(header.digits) and isinstance(header.digits[0], int)
    out = varint(0 if shared else len(groups))
    return out + b"".join(varint(len(levels)) + b"".join(map(varint, levels)) for levels in groups)


def _read_digits(cursor: Cursor) -> Fields:
    own = cursor.count(1)
    groups = tuple(tuple(cursor.varint() for _ in range(cursor.count(1))) for _ in range(own or 1))
    return {"digits": groups if own else groups[0]}


def _write_encoder(header: TokenHeader) -> bytes | None:
    if header.quality is None and not header.device and not header.precision:
        return None
    return varint(header.quality or 0) + text(header.device) + text(header.precision)


def _read_encoder(cursor: Cursor) -> Fields:
    return {"quality": cursor.varint() or None, "device": cursor.text(), "precision": cursor.text()}


MIRRORED, ALPHA = 1, 2


def _write_source(header: TokenHeader) -> bytes | None:
    flags = MIRRORED * header.mirrored + ALPHA * header.alpha_composited
    size = (header.source_width or 0, header.source_height or 0)
    values = (*size, header.rotation, flags, header.bit_depth, *header.sample_aspect)
    if values == (0, 0, 0, 0, 8, 1, 1) and not header.source_format:
        return None
    return b"".join(map(varint, values)) + text(header.source_format)


def _read_source(cursor: Cursor) -> Fields:
    width, height, rotation, flags, depth, top, bottom = (cursor.varint() for _ in range(7))
    if flags & ~(MIRRORED | ALPHA):
        raise UnsupportedError(f"source flags {flags:#x} are unknown; a newer vidtok may read them")
    return {
        "source_width": width or None,
        "source_height": height or None,
        "rotation": rotation,
        "mirrored": bool(flags & MIRRORED),
        "alpha_composited": bool(flags & ALPHA),
        "bit_depth": depth,
        "sample_aspect": (top, bottom),
        "source_format": cursor.text(),
    }


def _write_colour(header: TokenHeader) -> bytes | None:
    return None if header.colour is None else bytes(header.colour)


def _read_colour(cursor: Cursor) -> Fields:
    matrix, full, primaries, transfer, guessed = cursor.take(5)
    if guessed > 1:
        raise FormatError(f"the colour's guessed mark is {guessed}; it must be 0 or 1")
    return {"colour": Colour(matrix, full, primaries, transfer, bool(guessed))}


def _write_audio(header: TokenHeader) -> bytes | None:
    return None if header.audio is None else text(header.audio.format) + text(header.audio.description)


def _read_audio(cursor: Cursor) -> Fields:
    return {"audio": Audio(cursor.text(), cursor.text())}


BY_SEGMENT = 1


def _write_stages(header: TokenHeader) -> bytes | None:
    return varint(BY_SEGMENT) if header.varying else None


def _read_stages(cursor: Cursor) -> Fields:
    rule = cursor.varint()
    if rule != BY_SEGMENT:
        raise UnsupportedError(f"stages are stored by rule {rule}; this version knows rule {BY_SEGMENT} only")
    return {"varying": True}


Section = tuple[bool, str, Callable[[TokenHeader], bytes | None], Callable[[Cursor], Fields]]
SECTIONS: dict[int, Section] = {  # number: critical, name, write, read
    1: (True, "grid", _write_grid, _read_grid),
    2: (True, "layout", _write_layout, _read_layout),
    3: (True, "coding", _write_coding, _read_coding),
    4: (True, "picture", _write_picture, _read_picture),
    5: (True, "clock", _write_clock, _read_clock),
    6: (False, "model", _write_model, _read_model),
    7: (False, "digits", _write_digits, _read_digits),
    8: (False, "encoder", _write_encoder, _read_encoder),
    9: (False, "source", _write_source, _read_source),
    10: (False, "colour", _write_colour, _read_colour),
    11: (False, "audio", _write_audio, _read_audio),
    12: (True, "stages", _write_stages, _read_stages),
}
REQUIRED = (1, 2, 3)


def write_header(header: TokenHeader) -> bytes:
    """Magic, version, sections and checksum; FormatError if they are too long."""
    body = b"".join(
        varint(2 * number + critical) + varint(len(data)) + data
        for number, (critical, _, write, _) in SECTIONS.items()
        if (data := write(header)) is not None
    )
    if len(body) > MAX_HEADER_BYTES:
        raise FormatError(f"the header has {len(body)} bytes; at most {MAX_HEADER_BYTES} are allowed")
    head = MAGIC + bytes([VERSION]) + len(body).to_bytes(4, "little") + body
    return head + zlib.crc32(head).to_bytes(4, "little")


def header_bytes(preamble: bytes) -> int:
    """Length of sections and checksum after the 13 bytes of `preamble`; says so if this is no token file."""
    if preamble[: len(MAGIC)] != MAGIC[: len(preamble)] or not preamble:
        raise FormatError(f"not a token file: it starts with {preamble[:8].hex(' ') or 'nothing'}")
    if len(preamble) < PREAMBLE_BYTES:
        raise TruncatedError(f"the file ends after {len(preamble)} bytes, inside its header")
    if preamble[len(MAGIC)] != VERSION:
        raise UnsupportedError(f"token file version {preamble[len(MAGIC)]}; this vidtok reads version {VERSION}")
    length = int.from_bytes(preamble[-4:], "little")
    if length > MAX_HEADER_BYTES:
        raise FormatError(f"the header says it has {length} bytes; at most {MAX_HEADER_BYTES} are allowed")
    return length + 4


def parse_header(preamble: bytes, rest: bytes) -> tuple[TokenHeader, int]:
    """The header of `preamble` (13 bytes) and `rest` (sections, checksum), and its checksum."""
    wanted = header_bytes(preamble)
    if len(rest) < wanted:
        raise TruncatedError(f"the file ends after {len(preamble) + len(rest)} bytes, inside its header")
    crc = int.from_bytes(rest[wanted - 4 :], "little")
    if zlib.crc32(rest[:-4], zlib.crc32(preamble)) != crc:
        raise DamagedError("the header is damaged: its checksum does not fit")
    values: Fields = {}
    for number, data in _split(Cursor(rest[:-4], "the header")):
        _, name, _, read = SECTIONS[number]
        cursor = Cursor(data, f"header section {name!r}")
        values |= read(cursor)
        cursor.end()
    header = TokenHeader(**values)  # type: ignore[arg-type]  # __post_init__ checks ranges, readers types
    return header, crc


def _split(cursor: Cursor) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    last = 0
    while cursor.left:
        number, critical = divmod(cursor.varint(), 2)
        data = cursor.take(cursor.varint())
        if number <= last:
            raise FormatError(f"header section {number} stands after section {last}")
        last = number
        if number in SECTIONS:
            if SECTIONS[number][0] != bool(critical):
                raise FormatError(f"header section {SECTIONS[number][1]!r} has the wrong critical mark")
            found.append((number, data))
        elif critical:
            raise UnsupportedError(f"header section {number} is unknown and needed; a newer vidtok may read it")
    for number in REQUIRED:
        if all(number != have for have, _ in found):
            raise FormatError(f"header section {SECTIONS[number][1]!r} is missing")
    return found
