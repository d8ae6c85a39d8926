"""Token files on disk: they appear whole or not at all; damage, repacking, and ids in and out as .npy."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from token_files import Pipe, golden_files, make_file, make_header, make_ids, make_pts, mode_of

from vidtok.bitstream import Audio, TokenReader, TokenWriter
from vidtok.bitstream.exchange import export_ids, import_ids
from vidtok.bitstream.output import OutputFile, temporary_path
from vidtok.bitstream.repack import repack
from vidtok.errors import (
    DamagedError,
    FormatError,
    OutputError,
    OutputExistsError,
    SourceError,
    TruncatedError,
    UsageError,
)

ROOT = Path(__file__).resolve().parent.parent


def fill(sink: TokenWriter, frames: int = 9) -> None:
    sink.write(make_ids(sink.header, sink.header.geometry.latents(frames)), make_pts(sink.header, frames))


# --- appearing ----------------------------------------------------------------------------------


def test_a_file_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "clip.vtok"
    with TokenWriter(target, make_header()) as sink:
        fill(sink)
        assert [path.name[:15] for path in tmp_path.iterdir()] == [".clip.vtok.tmp-"]
    assert [path.name for path in tmp_path.iterdir()] == ["clip.vtok"]
    assert target.read_bytes() == make_file(make_header(), 9)
    assert target.stat().st_mode & 0o777 == 0o666 & ~umask()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("finished", [False, True])
def test_an_error_leaves_nothing(tmp_path: Path, error: type[BaseException], finished: bool) -> None:
    with pytest.raises(error), TokenWriter(tmp_path / "clip.vtok", make_header()) as sink:
        fill(sink)
        if finished:
            sink.finish()
        raise error
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "clip.vtok"
    target.write_bytes(b"old")
    with pytest.raises(OutputExistsError, match="exists already; --force"):
        TokenWriter(target, make_header())
    with pytest.raises(KeyError), TokenWriter(target, make_header(), force=True):
        raise KeyError
    assert target.read_bytes() == b"old"
    with TokenWriter(target, make_header(), force=True) as sink:
        fill(sink)
    assert target.read_bytes() == make_file(make_header(), 9)


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "clip.vtok"
    with pytest.raises(OutputExistsError, match="appeared meanwhile"), TokenWriter(target, make_header()) as sink:
        fill(sink)
        target.write_bytes(b"other")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"other"]


def test_killed_runs_are_cleaned_up(tmp_path: Path) -> None:
    """kill -9 leaves one temporary file, which the next run removes; that of a live run stays."""
    target = tmp_path / "clip.vtok"
    code = (
        "import sys, time; sys.path.insert(0, 'tests'); from token_files import *; from pathlib import Path\n"
        f"sink = TokenWriter(Path({str(target)!r}), make_header()); print('ready', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    (left,) = tmp_path.iterdir()
    with TokenWriter(target, make_header(), force=True) as sink:
        fill(sink)
    assert left.exists(), "a live run lost its file"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with TokenWriter(target, make_header(), force=True) as sink:
        fill(sink)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.vtok"]


def test_only_our_own_leftovers_are_removed(tmp_path: Path) -> None:
    dead = 2**22 + 1  # above any process number
    names = [
        f".clip.vtok.tmp-{dead}-ab",
        f".clip.vtok.tmp-{dead}-ab.txt",
        f"clip.vtok.tmp-{dead}-ab",
        ".clip.vtok.tmp-x",
    ]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with TokenWriter(tmp_path / "clip.vtok", make_header()) as sink:
        fill(sink)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names[1:], "clip.vtok"])


def test_targets_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file or directory"):
        TokenWriter(tmp_path / "missing" / "clip.vtok", make_header())
    with pytest.raises(OutputError, match="it is a folder"):
        TokenWriter(tmp_path, make_header(), force=True)
    with pytest.raises(OutputError, match="File name too long"):
        TokenWriter(tmp_path / ("x" * 300), make_header())
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="Not a directory"):
        TokenWriter(tmp_path / "file" / "clip.vtok", make_header())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_full_disk() -> None:
    header = make_header(grid_height=64, grid_width=64)
    with pytest.raises(OutputError, match="No space left"), TokenWriter("/dev/full", header) as sink:
        fill(sink, 99)


def test_a_stream_that_breaks() -> None:
    class Broken(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(errno.EPIPE, "Broken pipe")

    with pytest.raises(OutputError, match="Broken pipe"):
        TokenWriter(Broken(), make_header())


def test_devices_are_written_in_place_and_links_followed(tmp_path: Path) -> None:
    with TokenWriter(os.devnull, make_header()) as sink:
        fill(sink)
    assert not Path(os.devnull).is_file()
    (tmp_path / "real").mkdir()
    (tmp_path / "link.vtok").symlink_to(tmp_path / "real" / "clip.vtok")
    with TokenWriter(tmp_path / "link.vtok", make_header()) as sink:
        fill(sink)
    assert (tmp_path / "link.vtok").is_symlink() and (tmp_path / "real" / "clip.vtok").is_file()


def test_long_names(tmp_path: Path) -> None:
    name = "ä" * 120 + ".vtok"  # 245 bytes
    assert len(os.fsencode(temporary_path(tmp_path / name).name)) <= 255
    with TokenWriter(tmp_path / name, make_header()) as sink:
        fill(sink)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_output_file_discards_twice(tmp_path: Path) -> None:
    file = OutputFile(tmp_path / "a")
    file.write(b"x")
    file.discard()
    file.discard()
    assert list(tmp_path.iterdir()) == []


# --- misuse -------------------------------------------------------------------------------------


def test_wrong_use_of_the_writer() -> None:
    header = make_header()
    sink = TokenWriter(io.BytesIO(), header)
    with pytest.raises(UsageError, match=r"shape \(1, 3, 2\)"):
        sink.write(np.zeros((1, 3, 2), int), [0])
    with pytest.raises(UsageError, match="not float64"):
        sink.write(np.zeros((1, 2, 3)), [0])
    with pytest.raises(FormatError, match="outside a vocabulary of 1000"):
        sink.write(np.full((2, 2, 3), 1000), [0, 1, 2, 3, 4])
    for pts, words in (([3, 3], "timestamps rise"), ([1 << 62], "out of range")):
        with pytest.raises(UsageError, match=words):
            TokenWriter(io.BytesIO(), header).write(make_ids(header, 2), pts)


@pytest.mark.parametrize(("latents", "frames"), [(3, 5), (3, 10), (3, 0), (1, 2), (4, 9), (0, 1)])
def test_frames_that_are_not_those_of_the_latents(latents: int, frames: int) -> None:
    header = make_header()
    with pytest.raises(UsageError), TokenWriter(io.BytesIO(), header) as sink:
        sink.write(make_ids(header, latents), make_pts(header, frames))


def test_ends_of_segments() -> None:
    header = make_header(segment_frames=10)
    sink = TokenWriter(io.BytesIO(), header)
    sink.write(make_ids(header, 4), make_pts(header, 10))
    sink.end_segment()
    sink.write(make_ids(header, 1), [99999])
    with pytest.raises(UsageError, match="no segment ends after 5"):
        sink.end_segment()


def test_buffers_may_be_used_again() -> None:
    header = make_header()
    ids, out, buffer = make_ids(header, 5), io.BytesIO(), np.zeros((1, 2, 3), np.int64)
    with TokenWriter(out, header) as sink:
        for i, part in enumerate(ids):
            buffer[:] = part
            sink.write(buffer, make_pts(header, 17)[max(i * 4 - 3, 0) : i * 4 + 1])
    assert out.getvalue() == make_file(header, 17)


def test_what_is_no_token_file(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(FormatError, match="not a token file: it starts with nothing"):
        TokenReader(tmp_path / "empty")
    (tmp_path / "text").write_bytes(b"hello world, this is a text")
    with pytest.raises(FormatError, match="not a token file: it starts with 68 65 6c"):
        TokenReader(tmp_path / "text")
    with pytest.raises(SourceError, match="No such file"):
        TokenReader(tmp_path / "missing")
    with pytest.raises(SourceError, match="Is a directory"):
        TokenReader(tmp_path)


# --- damage -------------------------------------------------------------------------------------


def damaged(data: bytes, *chunks: int) -> bytes:
    """`data` with a bit of the payload of those chunks flipped."""
    out = bytearray(data)
    with TokenReader(io.BytesIO(data)) as reader:
        for chunk in chunks:
            info = reader.chunks[chunk]
            out[info.offset + info.bytes - 1] ^= 1
    return bytes(out)


def test_damage_is_named_by_chunk() -> None:
    data = damaged(make_file(make_header(), 33), 1, 3)
    with TokenReader(io.BytesIO(data)) as reader:
        assert [number for number, _ in reader.verify()] == [1, 3]
        with pytest.raises(DamagedError, match="chunk 3: its stored bytes are damaged") as caught:
            reader.ids[6:8]
        assert caught.value.chunks == (3,)
        assert np.array_equal(reader.ids[4:6], make_ids(reader.header, 9)[4:6])
    for source in (io.BytesIO(data), Pipe(data)):
        chunks = list(TokenReader(source).iter_chunks(skip_damaged=True))
        assert [chunk.info.number for chunk in chunks if chunk.ids is None] == [1, 3]
        assert [now for chunk in chunks for now in chunk.pts or ()] == make_pts(make_header(), 33)
        assert chunks[1].problem and chunks[1].info.frames == 8


def test_a_lost_piece_of_the_middle() -> None:
    header = make_header(frame_step=0, fps=None)
    whole = make_file(header, 33)
    with TokenReader(io.BytesIO(whole)) as reader:
        second = reader.chunks[1]
        pts = list(reader.pts)
    data = whole[: second.offset + 5] + whole[second.offset + second.bytes - 3 :]
    with pytest.raises(FormatError, match="skip-damaged reads it"):
        TokenReader(io.BytesIO(data))
    with TokenReader(io.BytesIO(data), recover=True) as reader:
        assert (reader.frames, reader.latents, len(reader.chunks)) == (33, 9, 5)
        assert [number for number, _ in reader.verify(deep=True) if number is not None] == [1]
        assert reader.problems
        ids = make_ids(header, 9)
        for chunk in reader.iter_chunks(skip_damaged=True):
            assert (chunk.ids is None) == (chunk.info.number == 1)
            if chunk.ids is not None:
                assert np.array_equal(chunk.ids, ids[chunk.info.first_latent :][: chunk.info.latents])
        guessed = list(reader.all_pts(repair=True))
        assert guessed[:5] == pts[:5] and guessed[13:] == pts[13:]
        assert all(b > a for a, b in pairwise(guessed))
        with pytest.raises(DamagedError, match="chunk 1: it has been lost"):
            reader.all_pts()


def test_cut_off() -> None:
    data = make_file(make_header(), 33)
    with pytest.raises(TruncatedError, match="the file is cut off: no end mark after 300 bytes"):
        TokenReader(io.BytesIO(data[:300]))
    with TokenReader(io.BytesIO(data[:300]), recover=True) as reader:
        assert reader.frames == 29 and len(reader.chunks) == 4
        assert "4 whole chunks can be read" in reader.problems[0]
        assert np.array_equal(reader.ids[:], make_ids(reader.header, 9)[:8])
    pipe = TokenReader(Pipe(data[:300]))
    got = []
    with pytest.raises(TruncatedError, match="after 4 whole chunks"):
        for chunk in pipe.iter_chunks():
            got.append(chunk.info.number)
    assert got == [0, 1, 2, 3]
    pipe = TokenReader(Pipe(data[:300]))
    assert len(list(pipe.iter_chunks(skip_damaged=True))) == 4
    assert pipe.frames == 29 and "after 4 whole chunks" in pipe.problems[0]


def test_a_pipe_has_no_counts_until_its_end() -> None:
    reader = TokenReader(Pipe(make_file(make_header(), 33)))
    with pytest.raises(UsageError, match="is a pipe"):
        _ = reader.frames
    with pytest.raises(UsageError, match="is a pipe"):
        reader.ids[0:1]
    list(reader.iter_chunks())
    assert (reader.frames, reader.latents, reader.last_duration) == (33, 9, 3003)


# --- repack -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", golden_files())
def test_repack_gives_the_same_bytes(tmp_path: Path, name: str) -> None:
    data = golden_files()[name]
    repack(io.BytesIO(data), tmp_path / "b.vtok", entropy=mode_of(name))
    assert (tmp_path / "b.vtok").read_bytes() == data
    out = io.BytesIO()
    repack(Pipe(data), out, entropy=mode_of(name))
    assert out.getvalue() == data


@pytest.mark.parametrize("vocabulary", [64, (16, 1000, 70000)])
def test_fewer_stages(vocabulary: int | tuple[int, ...]) -> None:
    """Cut to quality q: the bytes that encoding with q would have written."""
    full = make_header(codebooks=3, vocabulary=vocabulary, digits=(), quality=3)
    ids, pts = make_ids(full, 5), make_pts(full, 15)
    for quality in (1, 2, 3):
        own = vocabulary if isinstance(vocabulary, int) else vocabulary[:quality]
        header = replace(full, codebooks=quality, quality=quality, vocabulary=own)
        out, wanted = io.BytesIO(), io.BytesIO()
        repack(io.BytesIO(make_file(full, 15)), out, entropy="raw", quality=quality)
        with TokenWriter(wanted, header) as sink:
            sink.write(ids[..., :quality], pts)
        assert out.getvalue() == wanted.getvalue()


def test_repack_refuses(tmp_path: Path) -> None:
    data = make_file(make_header(), 9)
    with pytest.raises(UsageError, match="one rate only"):
        repack(io.BytesIO(data), tmp_path / "a", quality=1)
    staged = make_file(make_header(codebooks=2, digits=(), quality=2), 9)
    for quality in (0, 3):
        with pytest.raises(UsageError, match="holds qualities 1 to 2"):
            repack(io.BytesIO(staged), tmp_path / "a", quality=quality)
    with pytest.raises(UsageError, match="no prior for ids of model 'vidtok-1'"):
        repack(io.BytesIO(data), tmp_path / "a", entropy="prior")
    with pytest.raises(DamagedError, match="chunk 0"):
        repack(io.BytesIO(damaged(data, 0)), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_repack_keeps_audio() -> None:
    data = make_file(make_header(audio=Audio("nut", "opus")), 21, audio=os.urandom(150_000))
    out = io.BytesIO()
    repack(io.BytesIO(data), out, entropy="raw")
    assert out.getvalue() == data


# --- ids in and out -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(golden_files()) - {"empty.vtok"}))
def test_export(tmp_path: Path, name: str) -> None:
    with TokenReader(io.BytesIO(golden_files()[name])) as reader:
        export_ids(reader, tmp_path / "ids.npy")
        export_ids(reader, tmp_path / "ids.bin")
        ids = reader.ids[:]
    loaded = np.load(tmp_path / "ids.npy")
    assert np.array_equal(loaded, ids) and loaded.dtype == ids.dtype and loaded.flags.c_contiguous
    assert (tmp_path / "ids.bin").read_bytes() == ids.astype(ids.dtype.newbyteorder("<")).tobytes()


@pytest.mark.parametrize("shape", [(5, 4, 6), (7, 1, 1, 3), (0, 2, 2), (1, 300, 300)])
@pytest.mark.parametrize("kind", ["u1", "<i8", ">u4", "i4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_import_and_back(tmp_path: Path, shape: tuple[int, ...], kind: str, order: str) -> None:
    ids = np.asarray(np.random.default_rng(0).integers(0, 100, shape), kind, order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "ids.npy", ids)
    header = import_ids(tmp_path / "ids.npy", tmp_path / "ids.vtok", 100)
    assert header.width is None and header.time_base is None
    with TokenReader(tmp_path / "ids.vtok") as reader:
        assert np.array_equal(reader.ids[:], ids) and not reader.verify(deep=True)
        assert (reader.frames, reader.latents, reader.fps, reader.duration) == (0, shape[0], None, None)
        export_ids(reader, tmp_path / "back.npy")
    assert np.array_equal(np.load(tmp_path / "back.npy"), ids)


def test_import_refuses(tmp_path: Path) -> None:
    path, out = tmp_path / "ids.npy", tmp_path / "ids.vtok"
    for array, words in (
        (np.zeros((2, 2, 2)), "does not hold integers"),
        (np.zeros((2, 2), int), "ids are"),
        (np.zeros((2, 0, 2), int), "ids are"),
        (np.full((2, 2, 2), 7), "outside a vocabulary of 7"),
        (np.full((2, 2, 2), -1), "outside a vocabulary"),
    ):
        np.save(path, array)
        with pytest.raises(FormatError, match=words):
            import_ids(path, out, 7)
    path.write_bytes(b"\x80\x04nothing like it")
    with pytest.raises(FormatError, match=r"not a \.npy file"):
        import_ids(path, out, 7)
    path.write_bytes(b"")
    with pytest.raises(FormatError, match=r"not a \.npy file"):
        import_ids(path, out, 7)
    with pytest.raises(SourceError, match="No such file"):
        import_ids(tmp_path / "missing.npy", out, 7)
    with pytest.raises(FormatError, match="vocabulary is 0"):
        np.save(path, np.zeros((1, 1, 1), int))
        import_ids(path, out, 0)
    assert not out.exists()
    with (
        TokenReader(io.BytesIO(make_file(make_header(), 9))) as reader,
        pytest.raises(OutputError, match=r"must end in \.npy or \.bin"),
    ):
        export_ids(reader, tmp_path / "ids.txt")


def test_speed_of_a_long_file() -> None:
    """A thousand chunks are opened, described and read without going through the file again and again."""
    header = make_header(chunk_latents=1, frame_step=0, fps=None, time_base=Fraction(1, 1000))
    data = make_file(header, 4001)
    begin = time.perf_counter()
    with TokenReader(io.BytesIO(data)) as reader:
        assert len(reader.pts) == 4001 and reader.ids[:].shape[0] == 1001
    assert time.perf_counter() - begin < 10
