"""Token files: what is written comes back, whatever way it was handed over and is read."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_files import Pipe, golden_files, make_file, make_header, make_ids, make_pts

from vidtok.bitstream import Audio, Colour, TokenHeader, TokenReader, TokenWriter
from vidtok.bitstream.describe import describe
from vidtok.bitstream.sections import parse_header
from vidtok.errors import FormatError, UnsupportedError, UsageError

ROOT = Path(__file__).resolve().parent.parent


@settings(max_examples=120, deadline=None)
@given(
    frames=st.integers(0, 60),
    stride=st.integers(1, 5),
    chunk=st.integers(1, 7),
    segment=st.sampled_from([0, 0, 1, 2, 7, 16]),
    codebooks=st.integers(0, 3),
    vocabulary=st.sampled_from([1, 2, 1000, 64000, 1 << 17, 1 << 33]),
    step=st.sampled_from([0, 3003]),
    data=st.data(),
)
def test_what_goes_in_comes_out(
    frames: int,
    stride: int,
    chunk: int,
    segment: int,
    codebooks: int,
    vocabulary: int,
    step: int,
    data: st.DataObject,
) -> None:
    header = make_header(
        time_stride=stride, chunk_latents=chunk, segment_frames=segment, codebooks=codebooks,
        vocabulary=vocabulary, digits=(), frame_step=step,
    )  # fmt: skip
    latents = header.geometry.total_latents(frames, segment)
    ids, pts = make_ids(header, latents), make_pts(header, frames)
    out = io.BytesIO()
    with TokenWriter(out, header) as sink:
        at = 0
        while at < latents:
            more = data.draw(st.integers(1, 9))
            held = [frame_end(header, at, frames), frame_end(header, min(at + more, latents), frames)]
            sink.write(ids[at : at + more], pts[held[0] : held[1]])
            at += more
        sink.finish(last_duration=11)
    whole = make_file(header, frames, last_duration=11)
    assert out.getvalue() == whole, "the bytes depend on how latents were handed over"
    with TokenReader(io.BytesIO(whole)) as reader:
        assert reader.header == header
        assert (reader.frames, reader.latents, reader.last_duration) == (frames, latents, 11)
        assert np.array_equal(reader.ids[:], ids) and reader.ids.shape == ids.shape
        assert list(reader.pts) == pts
        assert reader.verify(deep=True) == []
        assert sum(info.frames for info in reader.chunks) == frames
        assert reader.segments == (-(-frames // segment) if segment else min(frames, 1))
        for number in range(len(reader.chunks)):
            info = reader.chunk_info(number)
            assert list(reader.chunk_pts(number)) == pts[info.first_frame : info.first_frame + info.frames]
            assert reader.chunk_of_latent(info.first_latent) == number
        a, b = sorted(data.draw(st.tuples(st.integers(0, latents), st.integers(0, latents))))
        assert np.array_equal(reader.ids[a:b], ids[a:b])
    chunks = list(TokenReader(Pipe(whole)).iter_chunks())
    assert [now for chunk in chunks for now in chunk.pts or ()] == pts
    assert all(np.array_equal(c.ids, ids[c.info.first_latent :][: c.info.latents]) for c in chunks)


def frame_end(header: TokenHeader, latents: int, frames: int) -> int:
    """Frames held by the first `latents` latent frames."""
    return min(header.geometry.span_of_latent(latents - 1, header.segment_frames)[1], frames) if latents else 0


def test_frames_find_their_ids() -> None:
    for segment in (0, 7):
        header = make_header(segment_frames=segment)
        with TokenReader(io.BytesIO(make_file(header, 40))) as reader:
            ids = reader.ids[:]
            for a in range(40):
                for b in (a + 1, 40):
                    low, high = reader.latents_for_frames(a, b)
                    assert np.array_equal(reader.ids_for_frames(a, b), ids[low:high])
                    spans = [reader.header.geometry.span_of_latent(i, segment) for i in range(low, high)]
                    assert spans[0][0] <= a < spans[0][1] and spans[-1][0] < b <= spans[-1][1]
            assert reader.ids_for_frames(3, 3).shape == (0, 2, 3)
            with pytest.raises(UsageError, match="frames 3:41 are not within 0:40"):
                reader.ids_for_frames(3, 41)


def test_slices_are_those_of_numpy() -> None:
    header = make_header(codebooks=2)
    with TokenReader(io.BytesIO(make_file(header, 40))) as reader:
        ids, view = np.asarray(reader.ids), reader.ids
        assert (view.shape, view.ndim, view.dtype, len(view)) == (ids.shape, 4, np.uint16, 11)
        for key in (
            3,
            -1,
            slice(2, 9),
            slice(9, 2),
            slice(None, None, 3),
            slice(None, None, -2),
            slice(-3, None),
        ):
            assert np.array_equal(view[key], ids[key])
        assert np.array_equal(view[2:5, 1, :, 0], ids[2:5, 1, :, 0])
        assert np.array_equal(view[4, 1], ids[4, 1]) and np.array_equal(view[..., 1], ids[..., 1])
        with pytest.raises(IndexError):
            view[11]


def test_only_the_chunks_asked_for_are_read() -> None:
    class Counting(io.BytesIO):
        read_bytes = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            self.read_bytes += len(data)
            return data

    header = make_header(grid_height=32, grid_width=32)
    file = Counting(make_file(header, 101))
    with TokenReader(file) as reader:
        assert file.read_bytes < 1000
        reader.ids[5:6]
        assert file.read_bytes < 1000 + reader.chunks[2].bytes


@pytest.mark.parametrize(
    ("changes", "fps"),
    [
        ({}, Fraction(30000, 1001)),
        ({"fps": None}, Fraction(30000, 1001)),
        ({"frame_step": 0, "fps": None}, None),
        ({"frame_step": 0}, None),
    ],
)
def test_rate(changes: dict[str, object], fps: Fraction | None) -> None:
    with TokenReader(io.BytesIO(make_file(make_header(**changes), 30))) as reader:
        assert reader.fps == fps


def test_rate_rounded_to_milliseconds_is_constant() -> None:
    header = make_header(time_base=Fraction(1, 1000), frame_step=0, fps=Fraction(24000, 1001), time_stride=1)
    pts = [round(i * 1001 / 24) for i in range(50)]
    out = io.BytesIO()
    with TokenWriter(out, header) as sink:
        sink.write(make_ids(header, 50), pts)
        sink.finish(last_duration=42)
    with TokenReader(io.BytesIO(out.getvalue())) as reader:
        assert reader.fps == Fraction(24000, 1001) and list(reader.pts) == pts
        assert reader.duration == pytest.approx(50 * 1001 / 24000, abs=0.001)
    assert len(out.getvalue()) < len(make_file(make_header(time_stride=1), 50)) + 60  # a byte a frame


def test_negative_and_large_timestamps() -> None:
    for step, start in ((3003, -9009), (0, -5), (1, (1 << 60)), (0, -(1 << 61))):
        header = make_header(frame_step=step)
        out = io.BytesIO()
        pts = make_pts(header, 9, start)
        with TokenWriter(out, header) as sink:
            sink.write(make_ids(header, 3), pts)
        with TokenReader(io.BytesIO(out.getvalue())) as reader:
            assert list(reader.pts) == pts


def test_overhead_of_a_short_clip() -> None:
    """49 frames of 256x256: less than 500 bytes beside the ids, even with everything in the header."""
    header = make_header(
        grid_height=32, grid_width=32, width=256, height=256, chunk_latents=4, vocabulary=64000,
        digits=(8, 8, 8, 5, 5, 5), source_width=1920, source_height=1080, source_format="yuv420p",
        colour=Colour(1, 1, 1, 1), sample_aspect=(1, 1),
    )  # fmt: skip
    assert len(make_file(header, 49)) - 13 * 32 * 32 * 2 < 320
    uneven = replace(header, frame_step=0, fps=None, chunk_latents=1, audio=Audio("nut", "aac, 48000 Hz, stereo"))
    assert len(make_file(uneven, 49)) - 13 * 32 * 32 * 2 < 900


def test_audio_stays_beside() -> None:
    sound = np.random.default_rng(3).bytes(200_000)
    header = make_header(audio=Audio("nut", "aac"))
    plain, data = make_file(header, 30), make_file(header, 30, audio=sound)
    pieces: list[bytes] = []
    with TokenReader(io.BytesIO(data)) as reader:
        assert b"".join(reader.audio()) == sound
        with reader.open_audio() as file:
            assert file.read(1000) == sound[:1000]
            reader.read_chunk(1)
            assert file.read() == sound[1000:]
        assert reader.audio_bytes == pytest.approx(len(data) - len(plain), abs=3) and not reader.verify()
        with TokenReader(io.BytesIO(plain)) as silent:
            assert describe(silent)["bpp"] == pytest.approx(describe(reader)["bpp"], rel=0.02)
    list(TokenReader(Pipe(data)).iter_chunks(on_audio=pieces.append))
    assert b"".join(pieces) == sound
    with pytest.raises(UsageError, match="header describes none"):
        make_file(make_header(), 9, audio=b"x")


INFO_KEYS = [
    "model", "model_id", "frames", "width", "height", "fps", "duration", "grid", "codebooks", "vocabulary", "quality",
    "entropy", "segments", "chunks", "file_bytes", "audio_bytes", "bpp", "raw_bpp", "precision", "device",
    "damaged_source",
]  # fmt: skip


def test_describe() -> None:
    data = make_file(make_header(), 19, damaged_source=True)
    with TokenReader(io.BytesIO(data)) as reader:
        said = describe(reader)
    assert list(said)[: len(INFO_KEYS)] == INFO_KEYS
    assert said | {
        "model": "vidtok-1", "frames": 19, "width": 21, "height": 16, "fps": "30000/1001", "grid": [6, 2, 3],
        "codebooks": 0, "vocabulary": 1000, "entropy": "raw", "segments": 1, "chunks": 3, "damaged_source": True,
        "file_bytes": len(data), "bpp": len(data) * 8 / (19 * 21 * 16), "precision": "fp32", "device": "cpu",
    } == said  # fmt: skip
    assert said["raw_bpp"] == pytest.approx(np.log2(1000) / 256)
    assert said["duration"] == pytest.approx(19 * 1001 / 30000)


def test_describe_imported_ids() -> None:
    with TokenReader(io.BytesIO(golden_files()["imported.vtok"])) as reader:
        said = describe(reader)
    nothing = (
        "model",
        "model_id",
        "frames",
        "width",
        "height",
        "fps",
        "duration",
        "bpp",
        "raw_bpp",
        "quality",
    )
    assert {key: said[key] for key in nothing} == dict.fromkeys(nothing)
    assert said["grid"] == [10, 2, 2]


def test_headers_are_read_without_numpy() -> None:
    code = (
        "import sys; from vidtok.bitstream import TokenReader; from vidtok.bitstream.describe import describe\n"
        f"r = TokenReader({str(ROOT / 'tests/golden/everything.vtok')!r}); describe(r); list(r.pts); r.verify()\n"
        "bad = {'numpy', 'torch', 'av'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# --- headers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", golden_files())
def test_headers_come_back(name: str) -> None:
    with TokenReader(io.BytesIO(golden_files()[name])) as reader:
        header = reader.header
    data = header.to_bytes()
    assert parse_header(data[:13], data[13:])[0] == header and len(data) < 260


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grid_width": 0}, "grid_width is 0; it must be 1 to 65535"),
        ({"width": 70000}, "width is 70000"),
        ({"height": None}, "give both or neither"),
        ({"vocabulary": 0}, "vocabulary is 0"),
        ({"vocabulary": (5, 6)}, "2 vocabularies for 1 codebooks"),
        ({"digits": (8, 8)}, "other ids than a vocabulary of 1000"),
        ({"model_id": "XYZ"}, "64 lower-case hex"),
        ({"rotation": 360}, "rotation is 360"),
        ({"chunk_latents": 0}, "chunk_latents is 0"),
        ({"time_base": None}, "need a time_base"),
        ({"fps": Fraction(0)}, "fps numerator is 0"),
        ({"sample_aspect": (0, 1)}, "sample_aspect numerator is 0"),
        ({"colour": Colour(300)}, "colour code points"),
    ],
)
def test_headers_that_make_no_sense(changes: dict[str, object], words: str) -> None:
    with pytest.raises(FormatError, match=words):
        make_header(**changes)


def test_mode_prior_needs_a_prior() -> None:
    with pytest.raises(FormatError, match="needs the id of a prior"):
        make_header(entropy="prior")


def test_the_future_is_refused_by_name() -> None:
    import zlib

    data = make_header().to_bytes()

    def changed(new: bytes) -> io.BytesIO:
        return io.BytesIO(new + zlib.crc32(new).to_bytes(4, "little"))

    with pytest.raises(UnsupportedError, match="token file version 2; this vidtok reads version 1"):
        TokenReader(changed(data[:8] + b"\x02" + data[9:-4]))
    with pytest.raises(UnsupportedError, match="token file version 0; this vidtok reads version 1"):
        TokenReader(changed(data[:8] + b"\x00" + data[9:-4]))
    body = data[13:-4]
    for tag, refused in ((99 * 2 + 1, True), (99 * 2, False)):
        more = body + bytes([tag & 127 | 128, tag >> 7, 1, 0])
        file = changed(data[:9] + len(more).to_bytes(4, "little") + more)
        if refused:
            with pytest.raises(UnsupportedError, match="header section 99 is unknown and needed"):
                TokenReader(file)
        else:
            with TokenReader(file, recover=True) as reader:
                assert reader.header == make_header()
    coded = body.replace(b"\x07\x01\x00", b"\x07\x01\x03")
    with pytest.raises(FormatError, match="needs the id of a prior"):
        TokenReader(changed(data[:13] + coded))
    with pytest.raises(UnsupportedError, match="entropy mode 9 is unknown"):
        TokenReader(changed(data[:13] + body.replace(b"\x07\x01\x00", b"\x07\x01\x09")))
    with pytest.raises(UnsupportedError, match="rule 5"):
        TokenReader(changed(data[:13] + body.replace(b"\x05\x06\x00", b"\x05\x06\x05")))


def test_unknown_records() -> None:
    """Small kinds are passed over, capital ones refused by name; from a file and from a pipe."""
    from vidtok.bitstream.records import frame_record

    header = make_header()
    for kind, refused in ((b"z", False), (b"Z", True)):
        out = io.BytesIO()
        sink = TokenWriter(out, header)
        front, _ = frame_record(kind, b"\x03more", sink.seed)
        sink._put(front + b"abc")
        sink.write(make_ids(header, 3), make_pts(header, 9))
        sink.close()
        data = out.getvalue()
        if refused:
            with pytest.raises(UnsupportedError, match="record kind 5a is unknown"):
                list(TokenReader(Pipe(data)).iter_chunks())
        else:
            assert len(list(TokenReader(Pipe(data)).iter_chunks())) == 2
            with TokenReader(io.BytesIO(data)) as reader:
                assert not reader.verify(deep=True) and not list(reader.audio())


def test_bytes_before_the_file_object_are_left_alone() -> None:
    file = io.BytesIO(b"before" + golden_files()["constant.vtok"])
    file.seek(6)
    with TokenReader(file) as reader:
        assert reader.latents == 6 and not reader.verify(deep=True)
