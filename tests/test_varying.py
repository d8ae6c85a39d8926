"""Segments of fewer stages than others: written, read in every way, cut, counted; and what nobody may write."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_files import Pipe, leave_out, make_file, make_header, make_ids, make_pts, prior_header

from vidtok.bitstream.describe import describe
from vidtok.bitstream.exchange import export_ids, import_ids
from vidtok.bitstream.header import TokenHeader
from vidtok.bitstream.layout import Layout
from vidtok.bitstream.reader import TokenReader
from vidtok.bitstream.records import ChunkHead, Stage, check_sizes, frame_record, parse_chunk
from vidtok.bitstream.repack import repack
from vidtok.bitstream.sections import PREAMBLE_BYTES, parse_header, write_header
from vidtok.bitstream.wire import varint
from vidtok.bitstream.writer import TokenWriter
from vidtok.errors import FormatError, UnsupportedError, UsageError
from vidtok.metrics import TokenStatistics


def header_of(**changes: Any) -> TokenHeader:
    """Three stages, segments of ten frames: four latent frames in two chunks."""
    return make_header(**{"codebooks": 3, "quality": 3, "varying": True, "segment_frames": 10} | changes)


def write(header: TokenHeader, ids: np.ndarray, frames: int) -> bytes:
    out = io.BytesIO()
    with TokenWriter(out, header) as sink:
        sink.write(ids, make_pts(header, frames))
    return out.getvalue()


@settings(max_examples=30, deadline=None)
@given(
    stages=st.lists(st.integers(1, 3), min_size=1, max_size=5),
    vocabulary=st.sampled_from([1, 2, 1 << 15, 1 << 16, 70000, 1 << 40, (5, 1 << 17, 9)]),
    entropy=st.sampled_from(["raw", "raw", "lzma", "adaptive"]),
    last=st.integers(1, 10),
    data=st.data(),
)
def test_what_goes_in_comes_out(
    stages: list[int], vocabulary: Any, entropy: str, last: int, data: st.DataObject
) -> None:
    header = header_of(vocabulary=vocabulary, digits=(), entropy=entropy)
    frames = 10 * (len(stages) - 1) + last
    latents = header.geometry.total_latents(frames, 10)
    ids = make_ids(replace(header, varying=False, entropy="raw"), latents)
    for segment, count in enumerate(stages):
        ids[4 * segment : 4 * segment + 4, ..., count:] = -1
    whole = write(header, ids, frames)
    out = io.BytesIO()
    with TokenWriter(out, header) as sink:  # a latent frame at a time
        for i in range(latents):
            sink.write(ids[i : i + 1])
            held = [min(header.geometry.span_of_latent(k, 10)[1], frames) for k in (i - 1, i) if k >= 0]
            sink.write(ids[:0], make_pts(header, frames)[held[0] if i else 0 : held[-1]])
    assert out.getvalue() == whole
    with TokenReader(io.BytesIO(whole)) as reader:
        assert reader.header == header and reader.verify(deep=True) == []
        assert reader.ids.dtype.kind == "i" and np.array_equal(reader.ids[:], ids)
        assert reader.segment_stages() == stages
        a, b = sorted(data.draw(st.tuples(st.integers(0, latents), st.integers(0, latents))))
        assert np.array_equal(reader.ids[a:b], ids[a:b])
        assert describe(reader)["qualities"] == {str(n): stages.count(n) for n in sorted(set(stages))}
    for chunk in (reader := TokenReader(Pipe(whole))).iter_chunks():
        assert chunk.ids is not None
        assert np.array_equal(chunk.ids, ids[chunk.info.first_latent :][: chunk.info.latents])
    assert reader.segment_stages() == stages


def test_leaving_stages_out_costs_nothing() -> None:
    """A segment of one stage takes the bytes of one, and one more a chunk."""
    header = header_of(digits=(), vocabulary=1 << 16)
    ids = make_ids(replace(header, varying=False), 4)
    low = ids.copy()
    low[..., 1:] = -1
    plain = replace(header, varying=False, codebooks=1, quality=1)
    sizes = [len(write(header, ids, 10)), len(write(header, low, 10)), len(write(plain, ids[..., :1], 10))]
    assert sizes[0] - sizes[1] == 2 * (2 * 2 * 2 * 3 * 2 + 2 * 9) and 0 < sizes[1] - sizes[2] <= 2 + 4


@pytest.mark.parametrize("entropy", ["raw", "lzma", "prior"])
@pytest.mark.parametrize("quality", [1, 2, 3])
def test_repack_to_a_lower_quality_takes_the_lower_of_both(entropy: str, quality: int) -> None:
    changes: dict[str, Any] = {"codebooks": 3, "quality": 3, "varying": True, "segment_frames": 10}
    header = prior_header(**changes) if entropy == "prior" else make_header(**changes, entropy=entropy)
    ids = make_ids(header, 15)
    out = io.BytesIO()
    repack(io.BytesIO(write(header, ids, 37)), out, entropy=entropy, quality=quality)
    cut = replace(header, codebooks=quality, quality=quality, varying=quality > 1)
    assert out.getvalue() == write(cut, ids[..., :quality], 37)
    with TokenReader(io.BytesIO(out.getvalue())) as reader:
        assert reader.segment_stages() == [min(n, quality) for n in (3, 1, 2, 3)]
    again, raw = io.BytesIO(), io.BytesIO()
    repack(io.BytesIO(out.getvalue()), raw, entropy="raw")
    repack(io.BytesIO(raw.getvalue()), again, entropy=entropy)
    assert again.getvalue() == out.getvalue()


def test_statistics_leave_out_what_is_not_there() -> None:
    header = header_of(vocabulary=64, digits=(8, 8))
    full = make_ids(replace(header, varying=False), 8)
    full[1:3] = full[0]
    ids = leave_out(full.copy(), header)  # all stages, then one
    found, first, low = (TokenStatistics(64, (8, 8), 3) for _ in range(3))
    for i in range(8):
        found.update(ids[i : i + 1])
    first.update(full[:4])
    low.update(full[:, ..., :1].repeat(3, -1))
    result = found.result()
    assert result["ids"] == 4 * 6 * 3 + 4 * 6
    assert result["digit_entropy"][1:] == first.result()["digit_entropy"][1:]
    assert result["digit_entropy"][0] == low.result()["digit_entropy"][0]
    assert result["repeats"] == ((ids[1:] == ids[:-1]) & (ids[1:] >= 0)).sum() / (3 * 6 * 3 + 4 * 6)
    one = TokenStatistics(64, (8, 8), 3)
    one.update(ids[4:])
    alone = TokenStatistics(64, (8, 8))
    alone.update(full[4:, ..., 0])
    assert [one.result()[key] for key in ("usage", "entropy", "perplexity")] == [
        alone.result()[key] for key in ("usage", "entropy", "perplexity")
    ]


def test_info_counts_what_is_stored() -> None:
    data = make_file(header_of(vocabulary=256, digits=()), 25)  # 4, 4 and 3 latent frames of 3, 1 and 2 stages
    with TokenReader(io.BytesIO(data)) as reader:
        row = describe(reader)
    assert (row["quality"], row["codebooks"], row["qualities"]) == (3, 3, {"1": 1, "2": 1, "3": 1})
    assert row["raw_bpp"] == pytest.approx(log2(256) * (4 * 3 + 4 * 1 + 3 * 2) / 11 / 256)
    with TokenReader(io.BytesIO(make_file(header_of(varying=False), 25))) as reader:
        assert describe(reader)["qualities"] == {"3": 3}


def test_info_names_qualities_only_where_segments_differ(tmp_path: Path, run: Callable[..., Any]) -> None:
    for varying, shown in ((True, True), (False, False)):
        path = tmp_path / f"{varying}.vtok"
        path.write_bytes(make_file(header_of(varying=varying), 25))
        assert ("\nqualities" in run("info", path).out) is shown
        assert json.loads(run("info", path, "--json").out)["qualities"], "JSON always has them"


def test_export_has_signed_ids_that_import_refuses(tmp_path: Any) -> None:
    with TokenReader(io.BytesIO(make_file(header_of(vocabulary=1 << 16, digits=()), 25))) as reader:
        export_ids(reader, tmp_path / "ids.npy")
        export_ids(reader, tmp_path / "ids.bin")
        ids = reader.ids[:]
    assert ids.dtype == np.int32 and int(ids.min()) == -1 and np.array_equal(np.load(tmp_path / "ids.npy"), ids)
    assert (tmp_path / "ids.bin").read_bytes() == ids.astype("<i4").tobytes()
    with pytest.raises(FormatError, match="outside a vocabulary"):
        import_ids(tmp_path / "ids.npy", tmp_path / "ids.vtok", 1 << 16)


def test_damage_stays_in_its_chunk() -> None:
    data = bytearray(make_file(header_of(digits=(), vocabulary=1 << 20), 40))
    with TokenReader(io.BytesIO(data)) as reader:
        lost, ids = reader.chunks[2], reader.ids[:]
    data[lost.offset + lost.bytes - 1] ^= 1
    with TokenReader(io.BytesIO(data), recover=True) as reader:
        assert [number for number, _ in reader.verify(deep=True)] == [2]
        assert reader.segment_stages() == [3, 1, 2, 3]
        assert np.array_equal(reader.ids[6:], ids[6:])
    cut = io.BytesIO(data[: lost.offset + lost.bytes + 3])  # no trailer, and segment 1 has one whole head
    with TokenReader(cut, recover=True) as reader:
        assert reader.segment_stages() == [3, 1] and len(reader.chunks) == 3
    data[lost.offset + 3] ^= 1  # the head too: the other chunk of the segment says how many
    with TokenReader(io.BytesIO(data), recover=True) as reader:
        assert reader.segment_stages() == [3, 1, 2, 3]


# --- hostile ------------------------------------------------------------------------------------


def with_stages(counts: dict[int, int]) -> bytes:
    """A file of two whole segments whose chunks say these counts of stages; every checksum is right."""
    header = header_of(vocabulary=1, digits=())
    out, crc_of_ids = io.BytesIO(), zlib.crc32(bytes(2 * 2 * 2 * 3))
    sink = TokenWriter(out, header)
    for number, count in counts.items():
        pts = tuple(make_pts(header, 20)[sum(sink.layout.place(i).frames for i in range(number)) :])
        head = ChunkHead(number, 2, pts[: sink.layout.place(number).frames], (Stage(0, 0, crc_of_ids),) * count)
        front, crc = frame_record(b"C", head.to_bytes(header), sink.seed)
        start = sink.position
        sink._put(front)
        sink.index.add(start, sink.position - start, crc)
        sink._clock.add(head.pts)
        sink.latents, sink.frames = sink.latents + 2, sink.frames + head.frames
    sink.finish()
    return out.getvalue()


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "chunk 1 has 0 stages; this file has 1 to 3"),
        (4, "chunk 1 has 4 stages; this file has 1 to 3"),
        (1, "it has 1 stages, another chunk of its segment 2"),
        (3, "it has 3 stages, another chunk of its segment 2"),
    ],
)
def test_counts_of_stages_that_cannot_be(count: int, words: str) -> None:
    data = with_stages({0: 2, 1: count, 2: 1, 3: 1})
    for source in (io.BytesIO(data), Pipe(data)):
        with pytest.raises(FormatError, match=words) as caught:
            list(TokenReader(source).iter_chunks())
        assert "\n" not in str(caught.value)
    with TokenReader(io.BytesIO(data), recover=True) as reader:
        found = reader.verify(deep=True)
        assert [number for number, problem in found if words in problem] == [1]
        assert (reader.ids[4:, ..., 1:] == -1).all()


def test_a_head_that_promises_more_than_it_has() -> None:
    header = header_of()
    head = ChunkHead(0, 2, tuple(make_pts(header, 5)), (Stage(0, 0, 0),) * 2).to_bytes(header)
    assert parse_chunk(head, header, Layout(header)).frames == 5 and head[4] == 2
    for count, words in ((b"\x03", "too early|no end|promises"), (varint(1 << 62), "this file has 1 to 3")):
        with pytest.raises(FormatError, match=words):
            parse_chunk(head[:4] + count + head[5:], header, Layout(header))


def test_wrong_use_of_the_writer() -> None:
    header = header_of()
    good = make_ids(replace(header, varying=False), 4)
    for change in (
        lambda ids: ids.__setitem__((..., 0), -1),
        lambda ids: ids.__setitem__((0, 0, 1, 2), -1),
        lambda ids: ids.__setitem__((..., 1), -1),
        lambda ids: ids.__setitem__((..., 2), -2),
        lambda ids: ids.__setitem__(..., -1),
    ):
        ids = good.copy()
        change(ids)
        with pytest.raises(FormatError, match=r"-1|outside a vocabulary"):
            write(header, ids, 10)
    ids = good.copy()
    ids[2:, ..., 2] = -1  # another count in the segment's second chunk
    with pytest.raises(UsageError, match="segment 0 has 3 stages; chunk 1 has 2"):
        write(header, ids, 10)
    with pytest.raises(FormatError, match="outside a vocabulary"):
        write(replace(header, varying=False), leave_out(np.tile(good, (2, 1, 1, 1)), header)[4:], 10)


def test_headers() -> None:
    for codebooks in (0, 1):
        with pytest.raises(FormatError, match="need 2 codebooks or more"):
            make_header(codebooks=codebooks, varying=True)
    data = write_header(header_of())
    assert data[-4 - 3 : -4] == b"\x19\x01\x01"
    assert parse_header(data[:PREAMBLE_BYTES], data[PREAMBLE_BYTES:])[0].varying
    other = data[:-5] + b"\x02"
    with pytest.raises(UnsupportedError, match="stages are stored by rule 2"):
        rest = other[PREAMBLE_BYTES:] + zlib.crc32(other).to_bytes(4, "little")
        parse_header(other[:PREAMBLE_BYTES], rest)


def test_ids_that_are_left_out_are_bounded_too() -> None:
    """A few bytes never mean much memory, however many stages the header names."""
    wide = header_of(codebooks=1024, quality=1024, vocabulary=2, digits=(), grid_height=500, grid_width=500)
    head = ChunkHead(0, 2, (0,), (Stage(62500, 0, 0),))
    with pytest.raises(FormatError, match="make chunks shorter"):
        check_sizes(head, wide)
