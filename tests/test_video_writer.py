"""Files that are written: exact times, right tags, the same bytes every time, whole or not there."""

from __future__ import annotations

import errno
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from video_samples import moving

from vidtok.errors import OutputError, OutputExistsError, UsageError
from vidtok.video import VideoReader, VideoWriter
from vidtok.video.beside import BesideFile

CLOCKS = {
    "ntsc": (Fraction(1, 30000), Fraction(30000, 1001), [n * 1001 for n in range(12)]),
    "ntsc frames": (Fraction(1001, 30000), Fraction(30000, 1001), list(range(12))),
    "late start": (Fraction(1, 90000), Fraction(30000, 1001), [5327 + n * 3003 for n in range(12)]),
    "ten seconds late": (Fraction(1, 1000), Fraction(25), [10_000 + n * 40 for n in range(12)]),
    "variable": (Fraction(1, 1000), None, [0, 33, 66, 116, 133, 233, 266, 299, 332]),
    "gap": (Fraction(1, 12800), Fraction(25), [0, 512, 1024, 64000, 64512]),
    "one a second": (Fraction(1), Fraction(1), [0, 1, 2]),
    "microseconds": (Fraction(1, 1_000_000), None, [0, 33_367, 66_733, 100_101]),
}


def write(path: Path, pixels: Any, pts: list[int], time_base: Fraction, rate: Fraction | None = None,
          last: int | None = None, **more: Any) -> None:
    _, height, width, _ = pixels.shape
    with VideoWriter(path, width=width, height=height, time_base=time_base, rate=rate, **more) as out:
        out.write(pixels[:3], pts[:3])
        out.write(pixels[3:], pts[3:])
        out.close(last)


def read_times(path: Path) -> tuple[list[Fraction], Fraction]:
    with VideoReader(path) as video:
        times = [f.pts * video.info.time_base for f in video]
        return times, video.last_duration * video.info.time_base


@pytest.mark.parametrize("clock", CLOCKS)
def test_mp4_times_are_exact(tmp_path: Path, clock: str) -> None:
    time_base, rate, pts = CLOCKS[clock]
    write(tmp_path / "a.mp4", moving(len(pts)), pts, time_base, rate, last=7)
    times, last = read_times(tmp_path / "a.mp4")
    assert times == [p * time_base for p in pts]
    assert last == 7 * time_base


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_negative_start_moves_to_zero(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write(path, moving(5), [-500, -460, -420, -350, -340], Fraction(1, 1000))
    assert [round(t * 1000) for t in read_times(path)[0]] == [0, 40, 80, 150, 160]


def test_mkv_times_are_milliseconds(tmp_path: Path) -> None:
    write(tmp_path / "a.mkv", moving(6), [0, 1001, 2002, 3003, 4004, 5005], Fraction(1, 30000))
    assert [round(t * 1000) for t in read_times(tmp_path / "a.mkv")[0]] == [0, 33, 67, 100, 133, 167]


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 2), (2, 2), (3, 5), (131, 77), (16, 400)])
def test_any_size_comes_back(tmp_path: Path, size: tuple[int, int]) -> None:
    width, height = size
    pixels = np.full((3, height, width, 3), (200, 90, 30), np.uint8)
    write(tmp_path / "a.mp4", pixels, [0, 1, 2], Fraction(1, 25))
    with VideoReader(tmp_path / "a.mp4") as video:
        frames = [f.pixels for f in video]
        assert video.info.chroma444 == bool(width % 2 or height % 2)
    assert [f.shape for f in frames] == [(height, width, 3)] * 3
    assert np.abs(frames[0].astype(int) - pixels[0]).max() <= 4


def test_tags_say_bt709_limited(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", moving(4), [0, 1, 2, 3], Fraction(1, 25), sample_aspect=Fraction(16, 11))
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_range, context.color_primaries, context.color_trc) == (1, 1, 1, 1)
        assert context.sample_aspect_ratio == Fraction(16, 11)
    with VideoReader(tmp_path / "a.mp4") as video:
        assert not video.info.colour.guessed and video.info.sample_aspect == Fraction(16, 11)


def test_colours_survive(tmp_path: Path) -> None:
    """4:4:4 at crf 0 leaves rounding only, and no channel drifts."""
    pixels = moving(4, 96, 64)
    write(tmp_path / "a.mp4", pixels, [0, 1, 2, 3], Fraction(1, 25), chroma444=True, crf=0)
    with VideoReader(tmp_path / "a.mp4") as video:
        back = np.stack([f.pixels for f in video])
    difference = back.astype(int) - pixels
    assert np.abs(difference).max() <= 3
    assert np.abs(difference.mean(axis=(0, 1, 2))).max() < 0.1


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_same_frames_same_bytes(tmp_path: Path, suffix: str) -> None:
    pixels = moving(30, 128, 96)
    for name in ("a", "b"):
        write(tmp_path / f"{name}{suffix}", pixels, list(range(30)), Fraction(1, 25))
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_pictures(tmp_path: Path) -> None:
    pixels = moving(3, 31, 17)
    write(tmp_path / "many.png", pixels, [0, 1, 2], Fraction(1, 25))
    write(tmp_path / "one.png", pixels[:1], [0], Fraction(1, 25))
    write(tmp_path / "f_%03d.png", pixels, [0, 1, 2], Fraction(1, 25))
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["f_001.png", "f_002.png", "f_003.png", "many_00001.png", "many_00002.png", "many_00003.png",
                     "one.png"]
    for number in range(3):
        with VideoReader(tmp_path / f"many_{number + 1:05d}.png") as picture:
            assert np.array_equal(next(iter(picture)).pixels, pixels[number])


def test_npy(tmp_path: Path) -> None:
    pixels = moving(5, 31, 17)
    write(tmp_path / "a.npy", pixels, list(range(5)), Fraction(1, 25))
    assert np.array_equal(np.load(tmp_path / "a.npy"), pixels)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.png", "a.npy", "f_%02d.png"])
def test_nothing_is_left_of_a_failure(tmp_path: Path, name: str) -> None:
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / name, width=64, height=48) as out:
        out.write(moving(4), [0, 1, 2, 3])
        raise RuntimeError
    with pytest.raises(OutputError, match="no frames"):
        VideoWriter(tmp_path / name, width=64, height=48).close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.mp4", "a.png", "a.npy", "f_%02d.png"])
def test_existing_files_need_force(tmp_path: Path, name: str) -> None:
    there = tmp_path / name.replace("%02d", "01")
    there.write_bytes(b"mine")
    with pytest.raises(OutputExistsError, match="--force"):
        VideoWriter(tmp_path / name, width=64, height=48)
    assert there.read_bytes() == b"mine"
    write(tmp_path / name, moving(1), [0], Fraction(1, 25), force=True)
    assert there.read_bytes() != b"mine" and list(tmp_path.iterdir()) == [there]


def test_bad_targets(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.mp4"):
        VideoWriter(tmp_path / "a.txt", width=4, height=4)
    with pytest.raises(UsageError, match="pattern"):
        VideoWriter(tmp_path / "a%s.png", width=4, height=4)
    for name in ("missing/a.mp4", "missing/a.png", "missing/a.npy"):
        with pytest.raises(OutputError, match="No such file"):
            VideoWriter(tmp_path / name, width=4, height=4)
    with pytest.raises(OutputError, match=r"up to 16384.*\.png"):
        VideoWriter(tmp_path / "a.mp4", width=16386, height=16)
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(OutputError, match="folder"):
        VideoWriter(tmp_path / "folder.mp4", width=4, height=4, force=True)


class _Full:
    """A file on a full disk."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self._room = file, room

    def write(self, data: bytes) -> int:
        self._room -= memoryview(data).nbytes
        if self._room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.npy"])
@pytest.mark.parametrize("room", [0, 100_000])
def test_a_full_disk_is_one_line(tmp_path: Path, name: str, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = BesideFile.__init__

    def small(self: BesideFile, path: Path, force: bool) -> None:
        opened(self, path, force)
        self.file = _Full(self.file, room)  # type: ignore[assignment]

    monkeypatch.setattr(BesideFile, "__init__", small)
    noise = np.random.default_rng(0).integers(0, 255, (24, 96, 128, 3), dtype=np.uint8)
    with pytest.raises(OutputError, match=r"cannot write '.*': No space left on device$"):
        write(tmp_path / name, noise, list(range(24)), Fraction(1, 25))
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_dead_processes_are_swept(tmp_path: Path) -> None:
    dead, alive = tmp_path / ".a.mp4.tmp-4194000-00ff", tmp_path / f".a.mp4.tmp-{os.getpid()}-00ff"
    other = tmp_path / ".b.mp4.tmp-4194000-00ff"
    for path in (dead, alive, other):
        path.write_bytes(b"")
    write(tmp_path / "a.mp4", moving(1), [0], Fraction(1, 25))
    assert not dead.exists() and alive.exists() and other.exists()
