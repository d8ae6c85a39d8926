"""Mode adaptive: any ids come back, with numba and without the same bytes, smaller than lzma where there is something
to learn, and never larger; broken and hostile payloads are errors or other ids, quickly."""

from __future__ import annotations

import hashlib
import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from independent_reader import read_file
from token_files import Pipe, make_file, make_header

from vidtok.bitstream import adaptive, lz, mixing
from vidtok.bitstream.bits import bits_for, packed_bytes
from vidtok.bitstream.header import id_bytes
from vidtok.bitstream.reader import TokenReader
from vidtok.bitstream.repack import repack
from vidtok.bitstream.writer import TokenWriter
from vidtok.errors import DamagedError, FormatError

DIGITS = [(), (8, 5, 5, 5), (2,) * 18, (300, 7), (1, 3, 1), (32, *[5] * 7), (70000, 3), (4096,)]


def draw_ids(data: st.DataObject, vocabulary: int) -> tuple[np.ndarray, np.ndarray | None]:
    shape = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)))
    arrays = hnp.arrays(f"<u{id_bytes(vocabulary)}", shape, elements=st.integers(0, vocabulary - 1))
    return data.draw(arrays), data.draw(st.none() | arrays)


@settings(deadline=None, max_examples=40)
@given(st.data(), st.sampled_from(DIGITS), st.one_of(st.integers(1, 300), st.integers(1, 1 << 62)))
def test_any_ids_come_back(data: st.DataObject, digits: tuple[int, ...], vocabulary: int) -> None:
    vocabulary = math.prod(digits) if digits else vocabulary
    ids, below = draw_ids(data, vocabulary)
    form = adaptive.parts(vocabulary, digits)
    symbols = adaptive.to_symbols(ids, form)
    levels = [part.levels for part in form]
    assert symbols.shape[3] == len(levels) and (symbols.reshape(-1, len(levels)).max(0) < levels).all()
    under = None if below is None else adaptive.to_symbols(below, form)
    stream = mixing.squeeze(symbols, under, levels, 1 << 16, plain=True)
    assert stream is not None and stream == mixing.squeeze(symbols, under, levels, 1 << 16)
    for plain in (True, False):
        assert np.array_equal(mixing.expand(stream, under, ids.shape, levels, plain=plain), symbols)
    payload = adaptive.squeeze(ids, vocabulary, digits, below)
    assert 1 <= len(payload) <= min(1 + packed_bytes(ids.size, bits_for(vocabulary)), len(lz.squeeze(ids, vocabulary)))
    back = adaptive.expand(payload, ids.shape, vocabulary, ids.dtype.str, digits, below)
    assert back.dtype == ids.dtype and np.array_equal(back, ids)


def walk(levels: tuple[int, ...], shape: tuple[int, int, int], change: float) -> np.ndarray:
    """Ids whose digits stay or go a step up or down from one latent frame to the next."""
    rng = np.random.default_rng(0)
    digits = [rng.integers(0, n, shape[1:]) for n in levels]
    frames = []
    for _ in range(shape[0]):
        digits = [
            np.clip(d + (rng.random(d.shape) < change) * rng.choice([-1, 1], d.shape), 0, n - 1)
            for d, n in zip(digits, levels, strict=True)
        ]
        worth = np.cumprod((1, *levels[:-1]))
        frames.append(sum(d * int(w) for d, w in zip(digits, worth, strict=True)))
    return np.stack(frames).astype(f"<u{id_bytes(math.prod(levels))}")


def test_it_learns_what_lzma_cannot() -> None:
    levels = (8, 8, 8, 5)
    ids = walk(levels, (8, 12, 16), 0.3)
    payload = adaptive.squeeze(ids, math.prod(levels), levels)
    assert payload[0] == adaptive.MIXED
    assert len(payload) < 0.85 * len(lz.squeeze(ids, math.prod(levels)))


def test_the_stage_below_helps() -> None:
    rng = np.random.default_rng(1)
    below = rng.integers(0, 625, (6, 8, 8)).astype("<u2")
    ids = np.where(rng.random(below.shape) < 0.8, below, rng.integers(0, 625, below.shape)).astype("<u2")
    alone = adaptive.squeeze(ids, 625, (5, 5, 5, 5))
    helped = adaptive.squeeze(ids, 625, (5, 5, 5, 5), below)
    assert len(helped) < 0.7 * len(alone)
    assert np.array_equal(adaptive.expand(helped, ids.shape, 625, "<u2", (5, 5, 5, 5), below), ids)


def test_golden_stream() -> None:
    """Sums of what is written here and now, on a stream long enough that states, weights and ends all count."""
    ids = walk((8, 8, 8, 5), (3, 12, 16), 0.3)
    form = adaptive.parts(2560, (8, 8, 8, 5))
    stream = mixing.squeeze(adaptive.to_symbols(ids, form), None, [8, 8, 8, 5], 1 << 16, plain=True)
    assert stream is not None
    assert (len(stream), hashlib.sha256(stream).hexdigest()[:16]) == (662, "fbd10a162cf74e13")


def test_tables_do_not_hang_on_floats() -> None:
    """No entry is near the middle between two integers, where another library's logarithm could round otherwise."""
    stretch, squash, rates, after = mixing.tables()
    for i, value in enumerate(stretch):
        exact = 256 * math.log((i + 0.5) / (4095.5 - i))
        assert abs(abs(exact - round(exact)) - 0.5) > 1e-9 and abs(value) <= mixing.CERTAIN
    for x in range(-mixing.CERTAIN, mixing.CERTAIN + 1):
        exact = 65536 / (1 + math.exp(-x / 256))
        assert abs(abs(exact - round(exact)) - 0.5) > 1e-9
    assert squash == sorted(squash) and stretch == sorted(stretch) and rates == sorted(rates, reverse=True)
    sums = [hashlib.sha256(np.array(table, "<i4").tobytes()).hexdigest()[:8] for table in (stretch, squash)]
    assert sums == ["d02a7159", "d4100238"]
    assert rates[:2] + rates[-1:] == [38550, 24272, 1062] and after == [*range(1, mixing.SURE + 1), mixing.SURE]


def test_few_bytes_are_never_much_work() -> None:
    shape = (64, 32, 32)
    with pytest.raises(FormatError, match="too few"):
        adaptive.expand(bytes([adaptive.MIXED, 1, 2, 3]), shape, 1000, "<u2")
    still = np.zeros(shape, "<u2")
    payload = adaptive.squeeze(still, 1000)
    assert np.array_equal(adaptive.expand(payload, shape, 1000, "<u2"), still)


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=60), st.sampled_from(DIGITS))
def test_any_bytes_are_ids_or_an_error(payload: bytes, digits: tuple[int, ...]) -> None:
    vocabulary = math.prod(digits) if digits else 777
    dtype = f"<u{id_bytes(vocabulary)}"
    try:
        ids = adaptive.expand(bytes([adaptive.MIXED]) + payload, (2, 3, 2), vocabulary, dtype, digits)
    except FormatError:
        return
    assert ids.shape == (2, 3, 2) and ids.dtype == dtype


def test_files_are_read_anywhere_in_any_order_and_by_the_independent_reader() -> None:
    header = make_header(
        entropy="adaptive", codebooks=3, vocabulary=2560, digits=(8, 8, 8, 5), quality=3, grid_height=6, grid_width=8,
        width=63, height=48, chunk_latents=4,
    )  # fmt: skip
    stages = [walk((8, 8, 8, 5), (7, 6, 8), change) for change in (0.2, 0.3, 0.5)]
    ids = np.stack(stages, axis=-1)
    out = io.BytesIO()
    with TokenWriter(out, header) as sink:
        sink.write(ids, range(0, 25 * 3003, 3003))
    with TokenReader(io.BytesIO(out.getvalue())) as reader:
        assert np.array_equal(reader.ids[5:7], ids[5:7]) and np.array_equal(reader.ids[1], ids[1])
        assert np.array_equal(reader.ids[:], ids)
    found = read_file(out.getvalue())
    assert found["ids"] == ids.ravel().tolist()
    for quality in (1, 2):
        low, again = io.BytesIO(), io.BytesIO()
        repack(io.BytesIO(out.getvalue()), low, entropy="adaptive", quality=quality)
        repack(Pipe(low.getvalue()), again, entropy="raw")
        with TokenReader(io.BytesIO(low.getvalue())) as reader:
            assert np.array_equal(reader.ids[:], ids[..., :quality])
            assert len(low.getvalue()) < len(again.getvalue())


def test_damage_is_named_and_stays_in_its_chunk() -> None:
    header = make_header(entropy="adaptive", grid_height=3, grid_width=4, width=31, height=20, chunk_latents=8)
    data = bytearray(make_file(header, 60))
    with TokenReader(io.BytesIO(bytes(data))) as reader:
        info, good = reader.chunk_info(1), reader.ids[:8].copy()
    data[info.offset + info.bytes - 3] ^= 16
    with TokenReader(io.BytesIO(bytes(data))) as reader:
        assert np.array_equal(reader.ids[:8], good)
        with pytest.raises(DamagedError, match="chunk 1"):
            reader.read_chunk(1)


def test_without_numba_the_same_file(monkeypatch: pytest.MonkeyPatch) -> None:
    if mixing.compiled() is None:
        pytest.skip("numba is an extra")
    header = make_header(entropy="adaptive", grid_height=6, grid_width=8, width=63, height=48, chunk_latents=4)
    fast = make_file(header, 30)
    monkeypatch.setattr(mixing, "compiled", lambda: None)
    assert make_file(header, 30) == fast
    with TokenReader(io.BytesIO(fast)) as reader:
        assert reader.ids[:].shape == (9, 6, 8)
