"""Hostile files: flipped, cut, spliced, with checksums mended. No crash, no wrong ids, no great allocation."""

from __future__ import annotations

import io
import os
import random
import tracemalloc
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from token_files import Pipe, golden_files, make_file, make_header

from vidtok.bitstream.describe import describe
from vidtok.bitstream.reader import TokenReader
from vidtok.bitstream.records import frame_record
from vidtok.bitstream.sections import PREAMBLE_BYTES
from vidtok.errors import FormatError

FILES = golden_files()
SCALE = int(os.environ.get("VIDTOK_MUTATIONS", "2"))  # times as many, for a thorough run
Ids = dict[int, np.ndarray]


def truth(data: bytes) -> Ids:
    """The ids of each chunk of a sound file."""
    with TokenReader(io.BytesIO(data)) as reader:
        return {chunk.number: reader.read_chunk(chunk.number) for chunk in reader.chunks}


def read_all(data: bytes, right: list[Ids]) -> bool:
    """Read `data` in every way; whatever comes must be chunks of one of `right`. True if nothing was wrong."""
    sound = True
    for recover in (False, True):
        try:
            with TokenReader(io.BytesIO(data), recover=recover) as reader:
                parts = describe(reader)["parts"]
                assert sum(part["bytes"] for part in parts.values()) == len(data)
                assert all(part["bytes"] >= 0 for part in parts.values())
                sound = not reader.verify(deep=True) and sound
                for chunk in reader.iter_chunks(skip_damaged=True, on_audio=len):
                    if chunk.ids is not None:
                        assert any(same(chunk.info.number, chunk.ids, ids) for ids in right)
                assert len(reader.all_pts(repair=True)) == reader.frames
        except FormatError as error:
            assert "\n" not in str(error)
            sound = False
    try:
        for chunk in TokenReader(Pipe(data, 1 << 16)).iter_chunks():
            assert any(same(chunk.info.number, chunk.ids, ids) for ids in right)
    except FormatError:
        sound = False
    return sound


def same(number: int, ids: np.ndarray | None, right: Ids) -> bool:
    return ids is not None and number in right and np.array_equal(right[number], ids)


def flips(data: bytes, rng: random.Random, count: int) -> Iterator[bytes]:
    for _ in range(count):
        broken = bytearray(data)
        for _ in range(rng.choice((1, 1, 1, 2, 8))):
            broken[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        yield bytes(broken)


def cuts(data: bytes, rng: random.Random, count: int) -> Iterator[bytes]:
    for _ in range(count):
        a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        yield rng.choice((data[:a], data[:a] + data[b:], data[:b] + data[a:], data + data[a:b]))


def splices(data: bytes, other: bytes, rng: random.Random, count: int) -> Iterator[bytes]:
    for _ in range(count):
        a, b = rng.randrange(len(data) + 1), rng.randrange(len(other) + 1)
        yield rng.choice((data[:a] + other[b:], data[:a] + other[a:], other[:a] + data[a:]))


@pytest.mark.parametrize("name", FILES)
def test_flipped_cut_and_spliced(name: str) -> None:
    data, rng = FILES[name], random.Random(name)
    other = FILES[rng.choice(sorted(set(FILES) - {name}))]
    right = [truth(data), truth(other)]
    scale = SCALE / 8 if "prior" in name else SCALE  # small grids are slow
    broken = [
        *flips(data, rng, int(200 * scale)),
        *cuts(data, rng, int(150 * scale)),
        *splices(data, other, rng, int(150 * scale)),
    ]
    for mutant in broken:
        if mutant not in (data, other):
            assert not read_all(mutant, right), "a changed file was taken for sound"


@pytest.mark.parametrize("name", ["constant.vtok", "everything.vtok", "stages.vtok", "segments.vtok"])
def test_every_bit(name: str) -> None:
    """Each single bit of a file matters, and is noticed, from the file (every third) or from a pipe."""
    data = FILES[name]
    for position in range(len(data) * 8):
        broken = bytearray(data)
        broken[position // 8] ^= 1 << position % 8
        with pytest.raises(FormatError):
            drain(Pipe(bytes(broken), 4096) if position % 3 else io.BytesIO(broken))


def drain(source: io.IOBase) -> None:
    with TokenReader(source) as reader:  # type: ignore[arg-type]
        for _ in reader.iter_chunks(on_audio=len):
            pass


@pytest.mark.parametrize("name", FILES)
def test_every_cut(name: str) -> None:
    """Cut anywhere: refused, and every chunk that is whole comes back when asked for."""
    data = FILES[name]
    right = truth(data)
    with TokenReader(io.BytesIO(data)) as reader:
        ends = [chunk.offset + chunk.bytes for chunk in reader.chunks]
        header_end = reader.header_end
    for length in range(0, len(data), 5 if "prior" in name else 1):
        with pytest.raises(FormatError):
            TokenReader(io.BytesIO(data[:length]))
        if length < header_end:
            continue
        with TokenReader(io.BytesIO(data[:length]), recover=True) as reader:
            assert reader.problems
            assert len(reader.chunks) == sum(end <= length for end in ends)
            for chunk in reader.chunks:
                assert same(chunk.number, reader.read_chunk(chunk.number), right)


def test_a_chunk_of_a_twin_is_noticed() -> None:
    """Two files of equal headers and sizes: a chunk of one put in the place of the other's is found and named."""
    data, twin = make_file(make_header(), 19), make_file(make_header(), 19, seed=1)
    with TokenReader(io.BytesIO(data)) as reader:
        third = reader.chunks[2]
    span = slice(third.offset, third.offset + third.bytes)
    mixed = data[: span.start] + twin[span] + data[span.stop :]
    assert len(mixed) == len(data)
    assert [number for number, _ in TokenReader(io.BytesIO(mixed)).verify()] == [2]
    with pytest.raises(FormatError):
        drain(Pipe(mixed))


def mended(data: bytes, change: Callable[[bytearray], None], where: str) -> bytes:
    """`data` with its header or one record head changed and the checksums put right again."""
    with TokenReader(io.BytesIO(data)) as reader:
        seed, end = reader.seed, reader.header_end
    if where == "header":
        head = bytearray(data[PREAMBLE_BYTES : end - 4])
        change(head)
        start = data[:9] + len(head).to_bytes(4, "little") + head
        return start + zlib.crc32(start).to_bytes(4, "little") + data[end:]
    with TokenReader(io.BytesIO(data)) as reader:
        chunk = reader.chunks[0]
    head = bytearray(data[chunk.offset + 3 : chunk.offset + 3 + data[chunk.offset + 2]])
    change(head)
    front, _ = frame_record(b"C", bytes(head), seed)
    return data[: chunk.offset] + front + data[chunk.offset + 7 + data[chunk.offset + 2] :]


@pytest.mark.parametrize("where", ["header", "chunk"])
@pytest.mark.parametrize("name", FILES)
def test_wrong_numbers_under_right_checksums(name: str, where: str) -> None:
    """Whoever mends checksums gets a named error or the right ids, and little memory is asked for."""
    data, rng = FILES[name], random.Random(name + where)
    if name == "empty.vtok" and where == "chunk":
        return

    def change(head: bytearray) -> None:
        for _ in range(rng.choice((1, 1, 2))):
            if head:
                head[rng.randrange(len(head))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        if rng.random() < 0.3:
            at = rng.randrange(len(head) + 1)
            head[at : at + rng.randrange(2)] = rng.randbytes(rng.randrange(10))

    tracemalloc.start()
    try:
        for _ in range(int(60 * SCALE / (8 if "prior" in name else 1))):
            mutant = mended(data, change, where)
            for recover in (False, True):
                try:
                    with TokenReader(io.BytesIO(mutant), recover=recover) as reader:
                        describe(reader)
                        reader.verify(deep=True)
                        for _ in reader.iter_chunks(skip_damaged=True, on_audio=len):
                            pass
                except FormatError as error:
                    assert "\n" not in str(error)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20  # 2^24 ids of vocabulary 1 cost nothing: 32 MiB
    finally:
        tracemalloc.stop()


def test_garbage() -> None:
    rng = random.Random(5)
    start = FILES["constant.vtok"][:200]
    for length in range(300):
        for data in (rng.randbytes(length), start[:PREAMBLE_BYTES] + rng.randbytes(length)):
            with pytest.raises(FormatError):
                TokenReader(io.BytesIO(data), recover=True)


def test_search_is_bounded() -> None:
    """A file full of record marks that promise long heads is given up, not searched for ever."""
    header = make_header().to_bytes()
    data = header + b"\xf5C\xff\xff\x7f" * 400_000
    with TokenReader(io.BytesIO(data), recover=True) as reader:
        assert len(reader.chunks) == 0
