"""TokenHeader: what a token file says about itself before the first id. sections.py has it as bytes."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from vidtok.errors import FormatError, UnsupportedError
from vidtok.geometry import Geometry

MAGIC = b"\x89VTK\r\n\x1a\n"
MAX_SIDE = 65535
MAX_CODEBOOKS = 1024
MAX_STRIDE = 65535
MAX_CHUNK_LATENTS = 65535
MAX_VOCABULARY = 1 << 62
MAX_DIGITS = 64  # of an id: those of a single level too
FREE_IDS = 1 << 24  # ids a chunk may hold beyond eight per payload byte (they cost nothing: vocabulary 1)

ENTROPY = {"raw": 0, "lzma": 1, "adaptive": 2, "prior": 3}


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
    varying: bool = False  # whether segments may hold fewer than all stages; ids that are not stored read as -1
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
            object.__setattr__(self, "sample_aspect", (self.sample_aspect.numerator, self.sample_aspect.denominator))
        _check(self)

    @property
    def stages(self) -> int:
        """Separately stored parts of a chunk: one per codebook, one where there is no codebook axis."""
        return max(self.codebooks, 1)

    @property
    def vocabularies(self) -> tuple[int, ...]:
        """Ids per stage, one number for each."""
        return (self.vocabulary,) * self.stages if isinstance(self.vocabulary, int) else self.vocabulary

    def stage_digits(self, stage: int) -> tuple[int, ...]:
        """Levels of the digits of a stage's ids, fastest first; () where they are unknown."""
        groups = digit_groups(self)
        return groups[stage if len(groups) > 1 else 0] if groups else ()

    @property
    def has_frames(self) -> bool:
        """Whether latents stand for frames with timestamps (False for imported ids)."""
        return self.time_base is not None

    @property
    def geometry(self) -> Geometry:
        """The strides as a Geometry."""
        return Geometry(time=self.time_stride, space=self.space_stride)

    @property
    def id_type(self) -> str:
        """The smallest type that holds any id: u2, u4 or u8; i2, i4 or i8 where -1 stands for ids not stored."""
        largest = max(self.vocabularies)
        return f"i{id_bytes(2 * largest)}" if self.varying else f"u{id_bytes(largest)}"

    def grid_shape(self, latents: int) -> tuple[int, ...]:
        """Shape (t, h, w) or (t, h, w, K) of the ids of `latents` latent frames."""
        shape = (latents, self.grid_height, self.grid_width)
        return (*shape, self.codebooks) if self.codebooks else shape

    def to_bytes(self) -> bytes:
        """The header as it stands at the start of a file."""
        from vidtok.bitstream.sections import write_header

        return write_header(self)


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
        raise FormatError(f"{len(known)} vocabularies for {header.stages} codebooks; give one, or one for each")
    for vocabulary in known:
        _within("vocabulary", vocabulary, 1, MAX_VOCABULARY)
    if header.varying and header.codebooks < 2:
        raise FormatError(f"segments with fewer stages need 2 codebooks or more; there are {header.codebooks}")
    groups = digit_groups(header)
    if groups and len(groups) not in (1, header.stages):
        raise FormatError(f"digits of {len(groups)} codebooks for {header.stages}; give one, or one for each")
    for vocabulary, levels in zip(known, groups * header.stages if len(groups) == 1 else groups, strict=False):
        _within("number of digits", len(levels), 0, MAX_DIGITS)
        product = 1
        for level in levels:
            _within("digit level", level, 1, MAX_VOCABULARY)
            product *= level
            if product > vocabulary:
                break
        if levels and product != vocabulary:
            raise FormatError(f"digits {levels} make other ids than a vocabulary of {vocabulary}")


def digit_groups(header: TokenHeader) -> list[tuple[int, ...]]:
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
    if header.entropy == "prior" and header.prior_id is None:
        raise FormatError("entropy mode 'prior' needs the id of a prior")
    if (header.width is None) != (header.height is None):
        raise FormatError(f"width {header.width} and height {header.height}: give both or neither")
    if (header.source_width is None) != (header.source_height is None):
        raise FormatError(f"source width {header.source_width} and height {header.source_height}: both or neither")
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
