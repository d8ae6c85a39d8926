"""Small token files for tests: headers and ids made up, nothing read from anywhere."""

from __future__ import annotations

import functools
import io
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from vidtok.bitstream import priors
from vidtok.bitstream.adaptive import to_ids
from vidtok.bitstream.header import Audio, Colour, TokenHeader
from vidtok.bitstream.layout import Layout
from vidtok.bitstream.network import Network, PriorConfig
from vidtok.bitstream.prior import Course
from vidtok.bitstream.rans import TOTAL
from vidtok.bitstream.writer import TokenWriter

BASE: dict[str, Any] = {
    "grid_height": 2,
    "grid_width": 3,
    "vocabulary": 1000,
    "digits": (8, 5, 5, 5),
    "model_name": "vidtok-1",
    "model_id": "0123456789abcdef" * 4,
    "time_stride": 4,
    "space_stride": 8,
    "width": 21,
    "height": 16,
    "chunk_latents": 2,
    "look_back": 3,
    "device": "cpu",
    "precision": "fp32",
    "time_base": Fraction(1, 90000),
    "frame_step": 3003,
    "fps": Fraction(30000, 1001),
}


def mode_of(name: str) -> str:
    """The entropy mode of a golden file."""
    word = name.replace("_", ".").split(".")[0]
    return word if word in ("lzma", "adaptive", "prior") else "raw"


PRIOR = PriorConfig(
    digits=(8, 5, 5, 5), stages=3, joint=32, period=4, embedding=6, state=5, features=8, hidden=4
)
PRIOR_MODEL = "fedcba9876543210" * 4  # the id of the model that it is for


def prior_tensors(config: PriorConfig, seed: int = 0, weight: int = 100, bias: int = 2000) -> dict[str, np.ndarray]:
    """Random tensors: most values end between their limits."""
    rng = np.random.default_rng(seed)
    limits = {np.int8: weight, np.int16: bias}
    tensors = {
        name: rng.integers(-limits[kind], limits[kind] + 1, shape).astype(kind)
        for name, (kind, shape) in sorted(config.shapes().items())
    }
    tensors["embed"] //= bias // 60
    return tensors


def prior_file() -> bytes:
    """A small prior with random weights, the one of tests/golden."""
    return priors.to_bytes(PRIOR, prior_tensors(PRIOR), model_id=PRIOR_MODEL, description="random weights")


PRIOR_ID = priors.content_id(PRIOR, prior_tensors(PRIOR))


def make_header(**changes: Any) -> TokenHeader:
    """A header of a small grid with everything usual in it."""
    return TokenHeader(**(BASE | changes))


def make_ids(header: TokenHeader, latents: int, seed: int = 0) -> np.ndarray:
    """Random ids that fit the header; in a mode that looks for repeats, mostly those of the latent frame before."""
    rng = np.random.default_rng(seed)
    if header.entropy == "prior":
        return sampled_ids(header, latents, rng)
    if header.entropy != "raw" and latents:
        plain = make_ids(replace(header, entropy="raw", varying=False), latents, seed)
        kept = rng.random((latents, header.grid_height, header.grid_width)) < 0.8
        for t in range(1, latents):
            plain[t][kept[t]] = plain[t - 1][kept[t]]
        return leave_out(plain, header)
    parts = [rng.integers(0, v, (latents, header.grid_height, header.grid_width)) for v in header.vocabularies]
    return leave_out(np.stack(parts, -1), header) if header.codebooks else parts[0]


def leave_out(ids: np.ndarray, header: TokenHeader) -> np.ndarray:
    """Segments of a file that may hold fewer stages take turns: all of them, one, two, and so on."""
    length = Layout(header).segment_latents or len(ids)
    for segment, start in enumerate(range(0, len(ids), length) if header.varying else ()):
        ids[start : start + length, ..., segment % header.stages or header.stages :] = -1
    return ids


def sampled_ids(header: TokenHeader, latents: int, rng: np.random.Generator) -> np.ndarray:
    """Ids as the small prior expects them, all but an eighth."""
    network, layout = Network(PRIOR, prior_tensors(PRIOR)), Layout(header)

    def sample(ends: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        likely = (ends[1:] <= rng.integers(0, TOTAL, len(symbols))).sum(0)
        return np.where(rng.random(len(symbols)) < 0.125, rng.integers(0, len(ends) - 1, len(symbols)), likely)

    chunks = []
    for number in range(layout.chunks(latents)):
        count = layout.counts(number, latents, 0)[0]
        course = Course(network, layout.latents_before(number))
        symbols = np.zeros((header.stages, count, header.grid_height, header.grid_width, len(network.levels)), np.int64)
        for stage in symbols:
            course.run(stage, sample)
        chunks.append([to_ids(stage, network.parts, "<i8") for stage in symbols])
    ids = np.concatenate([np.stack(chunk, -1) for chunk in chunks])
    return leave_out(ids, header) if header.codebooks else ids[..., 0]


def make_pts(header: TokenHeader, frames: int, start: int = 7) -> list[int]:
    """Timestamps at the header's frame step, or uneven ones where it has none."""
    if header.frame_step:
        return [start + i * header.frame_step for i in range(frames)]
    return [start + i * 40 + (i * i) % 7 for i in range(frames)]


def make_file(
    header: TokenHeader, frames: int, *, seed: int = 0, audio: bytes = b"", latents: int = 0, **finish: Any
) -> bytes:
    """A whole token file as bytes. `latents` only where the header has no frames."""
    count = header.geometry.total_latents(frames, header.segment_frames) if header.has_frames else latents
    out = io.BytesIO()
    with TokenWriter(out, header) as sink:
        sink.write(make_ids(header, count, seed), make_pts(header, frames) if header.has_frames else ())
        if audio:
            sink.write_audio(audio)
        sink.finish(**finish)
    return out.getvalue()


class Pipe(io.RawIOBase):
    """Bytes that can only be read from front to back, a few at a time."""

    def __init__(self, data: bytes, piece: int = 100) -> None:
        self.inner, self.piece = io.BytesIO(data), piece

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self.inner.read(self.piece if size < 0 else min(size, self.piece))


def prior_header(**changes: Any) -> TokenHeader:
    """A header of ids that are coded with the small prior."""
    size = {"grid_height": 6, "grid_width": 8, "width": 63, "height": 48}
    known = {"entropy": "prior", "prior_id": PRIOR_ID, "model_id": PRIOR_MODEL}
    return make_header(**size | known | changes)


@functools.cache
def golden_files() -> dict[str, bytes]:
    """The files of tests/golden by name."""
    full = make_header(
        source_width=1280, source_height=720, rotation=90, mirrored=True, sample_aspect=(4, 3),
        colour=Colour(1, 1, 1, 1, True), source_format="yuv420p10le", bit_depth=10, alpha_composited=True,
        audio=Audio("nut", "aac 48000 Hz stereo"),
    )  # fmt: skip
    stages = make_header(codebooks=3, vocabulary=(16, 1000, 70000), digits=(), quality=3)
    small: dict[str, Any] = {"grid_height": 5, "grid_width": 7, "width": 56, "height": 40}
    repeating: dict[str, Any] = {"grid_height": 3, "grid_width": 4, "width": 31, "height": 20, "chunk_latents": 8}
    return {
        "constant.vtok": make_file(make_header(), 19),
        "everything.vtok": make_file(full, 9, audio=bytes(range(50)), damaged_source=True, last_duration=5),
        "variable.vtok": make_file(make_header(frame_step=0, fps=None, time_base=Fraction(1, 1000)), 30),
        "segments.vtok": make_file(make_header(segment_frames=10), 25),
        "stages.vtok": make_file(stages, 14),
        "imported.vtok": make_file(
            TokenHeader(grid_height=2, grid_width=2, vocabulary=1 << 18, chunk_latents=4), 0, latents=10
        ),
        "wide.vtok": make_file(make_header(vocabulary=1 << 36, digits=()), 6),
        "one_word.vtok": make_file(make_header(vocabulary=1, digits=()), 6),
        "empty.vtok": make_file(make_header(), 0),
        "lzma.vtok": make_file(make_header(entropy="lzma", **repeating), 60),
        "lzma_stages.vtok": make_file(replace(stages, entropy="lzma", **repeating), 30),
        "adaptive.vtok": make_file(make_header(entropy="adaptive", **repeating), 60),
        "adaptive_words.vtok": make_file(make_header(entropy="adaptive", vocabulary=70000, digits=(), **repeating), 40),
        "adaptive_stages.vtok": make_file(
            make_header(
                entropy="adaptive", codebooks=3, vocabulary=2100, digits=(300, 7), quality=3, **repeating
            ),
            40,
        ),
        "prior.vtok": make_file(prior_header(chunk_latents=4), 25, seed=1),
        "prior_stages.vtok": make_file(
            prior_header(codebooks=2, quality=2, chunk_latents=3, segment_frames=17, **small), 21
        ),
        "varying.vtok": make_file(replace(stages, varying=True, segment_frames=10), 37),
        "adaptive_varying.vtok": make_file(
            make_header(
                entropy="adaptive", codebooks=3, quality=3, varying=True, segment_frames=17, **repeating
            ),
            60,
        ),
        "prior_varying.vtok": make_file(
            prior_header(codebooks=3, quality=3, varying=True, chunk_latents=3, segment_frames=13, **small), 45
        ),
    }
