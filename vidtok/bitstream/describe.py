"""describe: everything a token file says about itself, as the keys of `info --json`. Reads heads, no ids."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import log2
from typing import Any

from vidtok.bitstream.parts import parts
from vidtok.bitstream.reader import TokenReader


def describe(reader: TokenReader) -> dict[str, Any]:
    """Header and sizes as plain values. Keys of pixels and time are None where ids were imported."""
    head = reader.header
    known = head.width is not None and head.has_frames
    stages = reader.segment_stages()
    return {
        "model": head.model_name or None,
        "model_id": head.model_id,
        "frames": reader.frames if head.has_frames else None,
        "width": head.width,
        "height": head.height,
        "fps": _ratio(reader.fps),
        "duration": reader.duration,
        "grid": [reader.latents, head.grid_height, head.grid_width],
        "codebooks": head.codebooks,
        "vocabulary": head.vocabulary if isinstance(head.vocabulary, int) else list(head.vocabulary),
        "quality": head.quality,
        "qualities": histogram(stages) if head.quality else None,
        "entropy": head.entropy,
        "segments": reader.segments,
        "chunks": len(reader.chunks),
        "file_bytes": reader.file_bytes,
        "audio_bytes": reader.audio_bytes,
        "bpp": bits_per_pixel(reader) if known else None,
        "raw_bpp": raw_bits_per_pixel(reader, stages) if known else None,
        "precision": head.precision or None,
        "device": head.device or None,
        "damaged_source": reader.damaged_source,
        **_more(reader),
    }


def _more(reader: TokenReader) -> dict[str, Any]:
    head = reader.header
    colour = head.colour
    return {
        "digits": [list(item) if isinstance(item, tuple) else item for item in head.digits],
        "time_stride": head.time_stride,
        "space_stride": head.space_stride,
        "chunk_latents": head.chunk_latents,
        "segment_frames": head.segment_frames,
        "look_back": head.look_back,
        "prior_id": head.prior_id,
        "time_base": _ratio(head.time_base),
        "nominal_fps": _ratio(head.fps),
        "source_width": head.source_width,
        "source_height": head.source_height,
        "source_format": head.source_format or None,
        "bit_depth": head.bit_depth if head.source_format else None,
        "rotation": head.rotation,
        "mirrored": head.mirrored,
        "sample_aspect": f"{head.sample_aspect[0]}:{head.sample_aspect[1]}",
        "colour": None if colour is None else dict(colour._asdict()),
        "alpha_composited": head.alpha_composited,
        "audio": None if head.audio is None else dict(head.audio._asdict()),
        "problems": list(reader.problems),
        "parts": parts(reader),
    }


def bits_per_pixel(reader: TokenReader) -> float | None:
    """File bits per pixel of the frames, everything but audio; None without frames or pixels."""
    head = reader.header
    pixels = reader.frames * (head.width or 0) * (head.height or 0)
    return (reader.file_bytes - reader.audio_bytes) * 8 / pixels if pixels else None


def raw_bits_per_pixel(reader: TokenReader, stages: Sequence[int]) -> float:
    """log2(vocabulary) / pixels per id, summed over the stages that each segment holds; the mean over latent frames."""
    head = reader.header
    bits = {count: sum(map(log2, head.vocabularies[:count])) for count in {head.stages, *stages}}
    whole = reader.layout.segment_latents or reader.latents
    spent = latents = 0.0
    for segment, count in enumerate(stages):
        held = min(whole, reader.latents - segment * whole) if count else 0
        spent, latents = spent + bits[count] * held, latents + held
    mean = spent / latents if latents else bits[head.stages]
    return mean / (head.time_stride * head.space_stride**2)


def histogram(stages: Sequence[int]) -> dict[str, int]:
    """How many segments hold how many stages, which is their quality; the lowest first."""
    return {str(count): stages.count(count) for count in sorted(set(stages)) if count}


def _ratio(value: Fraction | None) -> str | None:
    return None if value is None else f"{value.numerator}/{value.denominator}"
