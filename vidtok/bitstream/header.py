"""TokenHeader: what a token file says about itself before the first id.

On the wire (docs/format.md has it byte by byte):

    magic 8 | version 1 | length u32 | sections ... | crc32 of all before

Sections stand in ascending order, each `varint(2 * number + critical) varint(length) bytes`. A reader
refuses unknown critical sections and passes over unknown optional ones.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import NamedTuple

from vidtok.bitstream.wire import Cursor, text, varint
from vidtok.errors import DamagedError, FormatError, TruncatedError, UnsupportedError
from vidtok.geometry import Geometry

MAGIC = b"\x89VTK\r\n\x1a\n"
VERSION = 0
PREAMBLE_BYTES = len(MAGIC) + 1 + 4
MAX_HEADER_BYTES = 1 << 20
MAX_SIDE = 65535
MAX_CODEBOOKS = 1024
MAX_STRIDE = 65535
MAX_CHUNK_LATENTS = 65535
MAX_VOCABULARY = 1 << 62
FREE_IDS = 1 << 24  # ids a chunk may hold beyond eight per payload byte (they cost nothing: vocabulary 1)

ENTROPY = {"raw": 0, "lzma": 1, "adaptive": 2, "prior": 3}
ENTROPY_BUILT = ("raw",)


class Colour(NamedTuple):
    """How the source says (or was taken) to be coloured: H.273 code points; range 1 limited, 2 full."""

    matrix: int = 2
    range: int = 0
    primaries: int = 2
    transfer: int = 2
    guessed: bool = False


class Audio(NamedTuple):
    """What the audio records hold: one byte stream in `format` ("nut"), described in words."""

    format: str
    description: str = ""


@dataclass(frozen=True, kw_only=True)
class TokenHeader:
    """Everything known before the first id. Checked when made: FormatError names value and rule."""

    grid_height: int  # cells, 1 .. 65535
    grid_width: int
    vocabulary: int | tuple[int, ...]  # ids per codebook: one number, or one per codebook
    codebooks: int = 0  # K; 0: ids are (t, h, w) without a last axis
    model_name: str = ""
    model_id: str | None = None  # 64 hex digits, None for ids of some other tokenizer
    time_stride: int = 1  # frames per latent frame after the first of a segment
    space_stride: int = 1  # pixels per cell, both ways
    width: int | None = None  # decoded frames, pixels; None: nothing known but ids
    height: int | None = None
    digits: tuple[int, ...] | tuple[tuple[int, ...], ...] = ()  # levels of an id's digits, fastest first
    quality: int | None = None  # stages kept of a multi-rate model; None: the model has one rate
    chunk_latents: int = 16  # latent frames per chunk
    segment_frames: int = 0  # frames after which tokenizer state starts anew; 0: never
    look_back: int = 0  # latent frames a decoder needs before the ones wanted
    entropy: str = "raw"
    prior_id: str | None = None  # 64 hex digits
    device: str = ""
    precision: str = ""
    source_width: int | None = None  # upright, before resizing
    source_height: int | None = None
    rotation: int = 0  # degrees clockwise that were applied to the source, 0 .. 359
    mirrored: bool = False
    sample_aspect: tuple[int, int] = (1, 1)
    colour: Colour | None = None
    source_format: str = ""  # FFmpeg's name of the pixel format
    bit_depth: int = 8
    alpha_composited: bool = False
    time_base: Fraction | None = None  # seconds per tick of all timestamps; None: no timestamps
    frame_step: int = 0  # ticks between frames where constant, else 0
    fps: Fraction | None = None  # nominal
    audio: Audio | None = None

    def __post_init__(self) -> None:
        if isinstance(self.sample_aspect, Fraction):
            object.__setattr__(
                self, "sample_aspect", (self.sample_aspect.numerator, self.sample_aspect.denominator)
            )
        _check(self)

    @property
    def stages(self) -> int:
        """Separately stored parts of a chunk: one per codebook, one where there is no codebook axis."""
        return max(self.codebooks, 1)

    @property
    def vocabularies(self) -> tuple[int, ...]:
        """Ids per stage, one number for each."""
        return (self.vocabulary,) * self.stages if isinstance(self.vocabulary, int) else self.vocabulary

    @property
    def has_frames(self) -> bool:
        """Whether latents stand for frames with timestamps (False for imported ids)."""
        return self.time_base is not None

    @property
    def geometry(self) -> Geometry:
        """The strides as a Geometry."""
        return Geometry(time=self.time_stride, space=self.space_stride)

    @property
    def id_bytes(self) -> int:
        """Bytes of the smallest unsigned type that holds any id: 2, 4 or 8."""
        return id_bytes(max(self.vocabularies))

    def grid_shape(self, latents: int) -> tuple[int, ...]:
        """Shape (t, h, w) or (t, h, w, K) of the ids of `latents` latent frames."""
        shape = (latents, self.grid_height, self.grid_width)
        return (*shape, self.codebooks) if self.codebooks else shape

    def to_bytes(self) -> bytes:
        """The header as it stands at the start of a file."""
        body = b"".join(
            varint(2 * number + critical) + varint(len(data)) + data
            for number, (critical, _, write, _) in SECTIONS.items()
            if (data := write(self)) is not None
        )
        if len(body) > MAX_HEADER_BYTES:
            raise FormatError(f"the header has {len(body)} bytes; at most {MAX_HEADER_BYTES} are allowed")
        head = MAGIC + bytes([VERSION]) + len(body).to_bytes(4, "little") + body
        return head + zlib.crc32(head).to_bytes(4, "little")


def id_bytes(vocabulary: int) -> int:
    """Bytes of the smallest of uint16, uint32 and uint64 that holds ids below `vocabulary`."""
    return 2 if vocabulary <= 1 << 16 else 4 if vocabulary <= 1 << 32 else 8


# --- rules --------------------------------------------------------------------------------------


def _within(name: str, value: int | None, low: int, high: int) -> None:
    if value is not None and not low <= value <= high:
        raise FormatError(f"{name} is {value}; it must be {low} to {high}")


def _check(header: TokenHeader) -> None:
    for name in ("grid_height", "grid_width", "width", "height", "source_width", "source_height"):
        _within(name, getattr(header, name), 1, MAX_SIDE)
    for name in ("time_stride", "space_stride"):
        _within(name, getattr(header, name), 1, MAX_STRIDE)
    _within("codebooks", header.codebooks, 0, MAX_CODEBOOKS)
    _within("chunk_latents", header.chunk_latents, 1, MAX_CHUNK_LATENTS)
    _within("quality", header.quality, 1, MAX_CODEBOOKS)
    _within("rotation", header.rotation, 0, 359)
    _within("bit_depth", header.bit_depth, 1, 64)
    for name in ("segment_frames", "look_back", "frame_step"):
        _within(name, getattr(header, name), 0, (1 << 48) - 1)
    _check_ids(header)
    _check_names(header)
    _check_clock(header)


def _check_ids(header: TokenHeader) -> None:
    known = header.vocabularies
    if len(known) != header.stages:
        raise FormatError(
            f"{len(known)} vocabularies for {header.stages} codebooks; give one, or one for each"
        )
    for vocabulary in known:
        _within("vocabulary", vocabulary, 1, MAX_VOCABULARY)
    groups = _digit_groups(header)
    if groups and len(groups) not in (1, header.stages):
        raise FormatError(f"digits of {len(groups)} codebooks for {header.stages}; give one, or one for each")
    for vocabulary, levels in zip(
        known, groups * header.stages if len(groups) == 1 else groups, strict=False
    ):
        product = 1
        for level in levels:
            _within("digit level", level, 1, MAX_VOCABULARY)
            product *= level
            if product > vocabulary:
                break
        if levels and product != vocabulary:
            raise FormatError(f"digits {levels} make other ids than a vocabulary of {vocabulary}")


def _digit_groups(header: TokenHeader) -> list[tuple[int, ...]]:
    groups: list[tuple[int, ...]] = []
    flat: list[int] = []
    for item in header.digits:
        if isinstance(item, int):
            flat.append(item)
        else:
            groups.append(tuple(item))
    if flat and groups:
        raise FormatError("digits are either numbers, or one tuple of numbers per codebook")
    return [tuple(flat)] if flat else groups


def _check_names(header: TokenHeader) -> None:
    for name in ("model_id", "prior_id"):
        value = getattr(header, name)
        if value is not None and (len(value) != 64 or set(value) - set("0123456789abcdef")):
            raise FormatError(f"{name} {value!r} is not 64 lower-case hex digits")
    if header.entropy not in ENTROPY:
        raise UnsupportedError(f"entropy mode {header.entropy!r} is unknown; known: {', '.join(ENTROPY)}")
    if header.entropy not in ENTROPY_BUILT:
        raise UnsupportedError(
            f"entropy mode {header.entropy!r} is reserved but not built into this version; use {ENTROPY_BUILT[0]!r}"
        )
    if (header.width is None) != (header.height is None):
        raise FormatError(f"width {header.width} and height {header.height}: give both or neither")
    if (header.source_width is None) != (header.source_height is None):
        raise FormatError(
            f"source width {header.source_width} and height {header.source_height}: both or neither"
        )
    if header.colour and any(not 0 <= value <= 255 for value in header.colour):
        raise FormatError(f"colour code points are 0 to 255, got {tuple(header.colour)}")


def _check_clock(header: TokenHeader) -> None:
    ratios = [("sample_aspect", *header.sample_aspect)]
    for name in ("time_base", "fps"):
        value = getattr(header, name)
        if value is not None:
            ratios.append((name, value.numerator, value.denominator))
    for name, top, bottom in ratios:
        _within(name + " numerator", top, 1, (1 << 48) - 1)
        _within(name + " denominator", bottom, 1, (1 << 48) - 1)
    if header.time_base is None and (header.frame_step or header.fps or header.segment_frames):
        raise FormatError("frame_step, fps and segment_frames need a time_base")


# --- sections: bytes of a header, and the fields that bytes stand for ----------------------------

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
        raise UnsupportedError(
            f"frames are laid out by rule {kind}; this version knows rule {CAUSAL} (causal) only"
        )
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
    groups = _digit_groups(header)
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
    values = (
        header.source_width or 0, header.source_height or 0, header.rotation, flags, header.bit_depth, *header.sample_aspect,
    )  # fmt: skip
    if values == (0, 0, 0, 0, 8, 1, 1) and not header.source_format:
        return None
    return b"".join(map(varint, values)) + text(header.source_format)


def _read_source(cursor: Cursor) -> Fields:
    width, height, rotation, flags, depth, top, bottom = (cursor.varint() for _ in range(7))
    if flags & ~(MIRRORED | ALPHA):
        raise UnsupportedError(f"source flags {flags:#x} are unknown; a newer vidtok may read them")
    return {
        "source_width": width or None, "source_height": height or None, "rotation": rotation, "bit_depth": depth,
        "mirrored": bool(flags & MIRRORED), "alpha_composited": bool(flags & ALPHA), "sample_aspect": (top, bottom),
        "source_format": cursor.text(),
    }  # fmt: skip


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
}
REQUIRED = (1, 2, 3)


def header_bytes(preamble: bytes) -> int:
    """Length of sections and checksum after the 13 bytes of `preamble`; says so if this is no token file."""
    if preamble[: len(MAGIC)] != MAGIC[: len(preamble)] or not preamble:
        raise FormatError(f"not a token file: it starts with {preamble[:8].hex(' ') or 'nothing'}")
    if len(preamble) < PREAMBLE_BYTES:
        raise TruncatedError(f"the file ends after {len(preamble)} bytes, inside its header")
    if preamble[len(MAGIC)] != VERSION:
        raise UnsupportedError(
            f"token file version {preamble[len(MAGIC)]}; this vidtok reads version {VERSION}"
        )
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
            raise UnsupportedError(
                f"header section {number} is unknown and needed; a newer vidtok may read it"
            )
    for number in REQUIRED:
        if all(number != have for have, _ in found):
            raise FormatError(f"header section {SECTIONS[number][1]!r} is missing")
    return found


FIELD_NAMES = tuple(field.name for field in fields(TokenHeader))
