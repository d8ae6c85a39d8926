"""Packed ids are the plain LSB-first bit stream, for every width and length, and come back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidtok.bitstream.bits import bits_for, pack, packed_bytes, unpack
from vidtok.errors import FormatError


def plain(ids: list[int], bits: int) -> bytes:
    """Id i at bits [i*b, (i+1)*b) of one long integer."""
    number = sum(value << i * bits for i, value in enumerate(ids))
    return number.to_bytes((len(ids) * bits + 7) // 8, "little")


@settings(max_examples=150, deadline=None)
@given(bits=st.integers(0, 40), data=st.data())
def test_is_the_plain_bit_stream(bits: int, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, (1 << bits) - 1), max_size=300))
    packed = pack(np.array(ids, np.uint64), bits)
    assert packed == plain(ids, bits)
    assert unpack(packed, len(ids), bits).tolist() == ids


@pytest.mark.parametrize("bits", range(64))
def test_every_width_comes_back(bits: int) -> None:
    """Also over the border of a tile, in any integer type."""
    rng = np.random.default_rng(bits)
    for count in (0, 1, 63, 64, 65, 64 * 70 + 1):
        ids = rng.integers(0, 1 << bits, count, dtype=np.uint64)
        data = pack(ids, bits)
        assert len(data) == packed_bytes(count, bits)
        assert np.array_equal(unpack(data, count, bits), ids)
        assert np.array_equal(unpack(memoryview(data), count, bits), ids)


@pytest.mark.parametrize(("bits", "kind"), [(1, "u2"), (13, "u2"), (16, "u2"), (18, "u4"), (32, "u4"), (36, "u8")])
def test_longer_than_a_tile(bits: int, kind: str) -> None:
    ids = np.random.default_rng(1).integers(0, 1 << bits, 64 * 4096 + 777, dtype=kind)
    data = pack(ids, bits)
    assert np.array_equal(unpack(data, ids.size, bits, kind), ids)
    matrix = (ids[-999:, None].astype(np.uint64) >> np.arange(bits, dtype=np.uint64)) & np.uint64(1)
    tail = np.unpackbits(np.frombuffer(data, np.uint8), count=ids.size * bits, bitorder="little")[-999 * bits :]
    assert np.array_equal(tail.reshape(999, bits), matrix)


def test_shapes_and_types_do_not_matter() -> None:
    ids = np.arange(24).reshape(2, 3, 4)
    assert pack(ids, 5) == pack(ids.astype(np.uint16).reshape(-1), 5) == plain(list(range(24)), 5)
    assert pack(ids.transpose(2, 1, 0), 5) == pack(np.ascontiguousarray(ids.transpose(2, 1, 0)), 5)


def test_bits_for() -> None:
    assert [bits_for(v) for v in (1, 2, 3, 4, 5, 1000, 64000, 1 << 16, (1 << 16) + 1, 1 << 36)] == [
        0, 1, 2, 2, 3, 10, 16, 16, 17, 36,
    ]  # fmt: skip


def test_what_does_not_fit_is_refused() -> None:
    for ids in ([8], [-1], [0, 1 << 40]):
        with pytest.raises(FormatError, match="do not fit 3 bits"):
            pack(np.array(ids), 3)
    with pytest.raises(FormatError, match="take 2 bytes, not 3"):
        unpack(b"abc", 4, 3)
    with pytest.raises(FormatError, match="stray bits"):
        unpack(b"\x00\x80", 5, 3)
    with pytest.raises(FormatError, match="do not fit 0 bits"):
        pack(np.array([1]), 0)
