"""Any ids, in any mode: vocabularies of 2 to 2^36, any digits, any shape down to one id, priors made up.

What one mode wrote another writes too, fewer stages are a prefix, and every way to a file gives the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_files import Pipe, prior_tensors

from vidtok.bitstream import priors
from vidtok.bitstream.header import ENTROPY, TokenHeader
from vidtok.bitstream.network import PriorConfig
from vidtok.bitstream.reader import TokenReader
from vidtok.bitstream.repack import repack
from vidtok.bitstream.writer import TokenWriter
from vidtok.errors import FormatError, UsageError

MOST = 1 << 36
SIZES = {"joint": 32, "period": 2, "embedding": 2, "state": 1, "features": 3, "hidden": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the priors of these tests are found."""
    path = tmp_path_factory.mktemp("priors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(priors.FOLDERS, str(path))
        yield path
    priors.load.cache_clear()


def layouts(largest: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Digits of ids, of `largest` levels at most each."""
    levels = st.sampled_from([n for n in (1, 2, 2, 3, 5, 8, 31, 256, 257, 4096, 70000, 1 << 36) if n <= largest])
    return st.lists(levels, min_size=1, max_size=18).map(tuple).filter(lambda own: 2 <= math.prod(own) <= MOST)


class Case(NamedTuple):
    header: TokenHeader
    ids: np.ndarray
    pts: list[int]

    def file(self, **changes: Any) -> bytes:
        out = io.BytesIO()
        with TokenWriter(out, replace(self.header, **changes)) as sink:
            sink.write(self.ids, self.pts)
        return out.getvalue()


@st.composite
def cases(draw: st.DrawFn, learned: bool) -> Case:
    """A header and ids that fit; all stages are alike and have small digits where a prior is to code them."""
    stages = draw(st.integers(0, 3))
    alike = learned or stages == 0 or draw(st.booleans())
    known = learned or draw(st.booleans())
    digits: tuple[Any, ...] = ()
    vocabulary: int | tuple[int, ...]
    if known:
        own = [draw(layouts(256 if learned else MOST)) for _ in range(1 if alike else stages)]
        digits = own[0] if alike else tuple(own)
        vocabulary = math.prod(own[0]) if alike else tuple(map(math.prod, own))
    else:
        numbers = st.one_of(st.integers(2, 300), st.integers(2, MOST), st.just(MOST))
        vocabulary = draw(numbers) if alike else tuple(draw(numbers) for _ in range(stages))
    frames = draw(st.integers(1, 9))
    header = TokenHeader(
        grid_height=draw(st.integers(1, 4)), grid_width=draw(st.integers(1, 4)), vocabulary=vocabulary, digits=digits,
        codebooks=stages, quality=stages or None, model_id=f"{draw(st.integers(0, 2**64)):064x}", time_stride=2,
        space_stride=8, width=9, height=9, chunk_latents=draw(st.integers(1, 4)),
        segment_frames=draw(st.sampled_from([0, 1, 4])), time_base=Fraction(1, 24), frame_step=1,
    )  # fmt: skip
    latents = header.geometry.total_latents(frames, header.segment_frames)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    ids = np.empty((latents, header.grid_height, header.grid_width, header.stages), np.int64)
    for k, size in enumerate(header.vocabularies):
        ids[..., k] = rng.integers(0, size, ids.shape[:3])
        kind = draw(st.sampled_from(["any", "still", "first", "last"]))
        if kind != "any":
            ids[..., k] = {"still": ids[:1, ..., k], "first": 0, "last": size - 1}[kind]
    return Case(header, ids if stages else ids[..., 0], list(range(frames)))


def read(data: bytes) -> np.ndarray:
    with TokenReader(io.BytesIO(data)) as reader:
        assert reader.verify(deep=True) == []
        found = reader.ids[:]
        assert sum(0 if chunk.ids is None else chunk.ids.size for chunk in reader.iter_chunks()) == found.size
        return np.asarray(found)


def repacked(data: bytes, entropy: str, quality: int | None = None) -> bytes:
    out = io.BytesIO()
    repack(Pipe(data), out, entropy=entropy, quality=quality)
    return out.getvalue()


def check(case: Case, written: dict[str, bytes], chain: list[str]) -> None:
    """Every mode holds the ids; the chain of modes ends where it began; fewer stages are as if no others had been."""
    for data in written.values():
        assert np.array_equal(read(data), case.ids)
    data = written[chain[-1]]
    for mode in chain:
        data = repacked(data, mode)
        assert data == written[mode]
    for quality in range(1, case.header.stages):
        low = {mode: repacked(data, mode, quality) for mode, data in written.items()}
        assert np.array_equal(read(low["raw"]), case.ids[..., :quality])
        for mode, data in low.items():
            assert repacked(low["raw"], mode) == data
            assert len(data) <= len(written[mode]) or mode != "raw"


@settings(deadline=None, max_examples=30)
@given(case=cases(learned=False), chain=st.permutations(["raw", "lzma", "adaptive"]))
def test_any_ids_in_modes_that_need_nothing(case: Case, chain: list[str]) -> None:
    check(case, {mode: case.file(entropy=mode) for mode in chain}, chain)


@settings(deadline=None, max_examples=15)
@given(case=cases(learned=True), seed=st.integers(0, 99), chain=st.permutations(list(ENTROPY)))
def test_any_ids_in_all_modes(folder: Path, case: Case, seed: int, chain: list[str]) -> None:
    digits, stages = case.header.digits, case.header.stages
    free = min(seed % 3, len(digits) - 1)
    config = PriorConfig(digits=digits, free=free, block=1 + seed % 2, stages=stages + seed % 2, **SIZES)  # type: ignore[arg-type]
    tensors = prior_tensors(config, seed, 127, 9000)
    name = hashlib.sha256(f"{case.header.model_id} {digits}".encode()).hexdigest()
    header = replace(case.header, model_id=name)
    file = folder / (name + priors.SUFFIX)
    file.write_bytes(priors.to_bytes(config, tensors, model_id=name))
    known = {"prior_id": priors.content_id(config, tensors), "model_id": name}
    try:
        written = {mode: case.file(entropy=mode, model_id=name) for mode in ENTROPY if mode != "prior"}
        check(case._replace(header=header), written | {"prior": case.file(entropy="prior", **known)}, chain)
    finally:
        file.unlink()


def test_qualities_that_are_not_there() -> None:
    header = TokenHeader(grid_height=1, grid_width=1, vocabulary=4, codebooks=2, quality=2)
    out = io.BytesIO()
    with TokenWriter(out, header) as sink:
        sink.write(np.ones((1, 1, 1, 2), np.int64))
    with pytest.raises(UsageError, match="quality 3: this file holds qualities 1 to 2"):
        repacked(out.getvalue(), "raw", 3)


def test_digits_beyond_count() -> None:
    """A million digits of one level would be a million symbols an id."""
    assert TokenHeader(grid_height=1, grid_width=1, vocabulary=1, digits=(1,) * 64)
    with pytest.raises(FormatError, match="number of digits is 1000000; it must be 0 to 64"):
        TokenHeader(grid_height=1, grid_width=1, vocabulary=1, digits=(1,) * 1_000_000)
