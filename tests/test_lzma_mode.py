"""The lzma mode: any ids come back, it pays where ids repeat, costs a byte where not, and broken streams are errors."""

from __future__ import annotations

import io
import lzma

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from token_files import make_file, make_header

from vidtok.bitstream.bits import bits_for, packed_bytes
from vidtok.bitstream.header import id_bytes
from vidtok.bitstream.lz import expand, filters, squeeze
from vidtok.bitstream.reader import TokenReader
from vidtok.bitstream.repack import repack
from vidtok.errors import FormatError


@settings(deadline=None, max_examples=80)
@given(st.data(), st.one_of(st.integers(1, 300), st.integers(1, 1 << 36)))
def test_any_ids_come_back(data: st.DataObject, vocabulary: int) -> None:
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4)))
    dtype = f"<u{id_bytes(vocabulary)}"
    ids = data.draw(hnp.arrays(dtype, shape, elements=st.integers(0, vocabulary - 1)))
    payload = squeeze(ids, vocabulary)
    assert 1 <= len(payload) <= 1 + packed_bytes(ids.size, bits_for(vocabulary))
    assert np.array_equal(expand(payload, shape, vocabulary, dtype), ids)


@pytest.mark.parametrize("vocabulary", [1 << 16, 1 << 18, 1 << 36])
def test_repeats_cost_little_in_either_order(vocabulary: int) -> None:
    rng = np.random.default_rng(0)
    dtype = f"<u{id_bytes(vocabulary)}"
    still = np.repeat(rng.integers(0, vocabulary, (1, 24, 24)), 16, axis=0).astype(dtype)
    flat = np.repeat(np.repeat(rng.integers(0, vocabulary, (16, 1, 1)), 24, axis=1), 24, axis=2).astype(dtype)
    for ids in (still, flat):
        payload = squeeze(ids, vocabulary)
        assert payload[0] in (1, 2) and len(payload) * 8 < packed_bytes(ids.size, bits_for(vocabulary))
        assert np.array_equal(expand(payload, ids.shape, vocabulary, dtype), ids)


def test_broken_streams_are_errors_and_take_no_memory() -> None:
    shape, count = (2, 3, 4), 24
    plain = np.arange(count, dtype="<u2")
    def stream(data: bytes) -> bytes:
        return lzma.compress(data, lzma.FORMAT_RAW, filters=filters(count, 2))

    good = stream(plain.tobytes())
    assert np.array_equal(expand(b"\1" + good, shape, 1000, "<u2").ravel(), plain)
    bomb = lzma.compress(bytes(50_000_000), lzma.FORMAT_RAW, filters=filters(count, 2))
    for payload in (
        b"", b"\3" + good, b"\1", b"\1" + good[:-1], b"\1" + good + b"x", b"\1" + bomb, b"\1" + stream(b"short"),
        b"\2" + b"\xff" * 30, b"\0" + good,
    ):  # fmt: skip
        with pytest.raises(FormatError):
            expand(payload, shape, 1000, "<u2")


def test_repack_there_and_back_gives_the_same_bytes() -> None:
    header = make_header(entropy="lzma", grid_height=3, grid_width=4, width=31, height=20, chunk_latents=8)
    data, raw, back = make_file(header, 60), io.BytesIO(), io.BytesIO()
    repack(io.BytesIO(data), raw, entropy="raw")
    repack(io.BytesIO(raw.getvalue()), back)  # auto
    assert back.getvalue() == data and len(data) < len(raw.getvalue())
    with TokenReader(io.BytesIO(data)) as a, TokenReader(io.BytesIO(raw.getvalue())) as b:
        assert np.array_equal(a.ids[:], b.ids[:]) and a.ids.dtype == b.ids.dtype
