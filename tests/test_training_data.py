"""Clips for training: the same whoever draws them and wherever they are kept; varied within bounds; broken files."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from vidtok.config import from_dict
from vidtok.errors import ConfigError, UnknownNameError
from vidtok.training.data import Clips, DataConfig, Loader, SourceConfig, sources, store
from vidtok.training.data.sampling import draw_window, scale


@dataclass(frozen=True)
class Shape:
    batch: int = 4
    frames: int = 5
    size: int = 32


def plan(step: int) -> Shape:
    return Shape() if step < 3 else Shape(batch=2, frames=9, size=40)


def film(path: Path, pictures: list[np.ndarray], codec: str = "ffv1", **options: str) -> Path:
    """A video without loss of the pictures given: RGB, 25 frames a second, a key frame each ten."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(25), options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "bgr0" if codec == "ffv1" else "yuv420p"
        stream.gop_size = 10
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def grey(path: Path, levels: list[int], size: int = 40) -> Path:
    """Frames of one colour each; a picture if `path` is a .png."""
    pictures = [np.full((size, size, 3), level, np.uint8) for level in levels]
    if path.suffix != ".png":
        return film(path, pictures)
    with av.open(str(path), "w", format="image2") as container:
        stream: Any = container.add_stream("png", width=size, height=size, pix_fmt="rgb24")
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pictures[0], format="rgb24")))
        container.mux(stream.encode(None))
    return path


def noise(frames: int, height: int = 44, width: int = 60, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), np.uint8))


@pytest.fixture(scope="module")
def folder(make_clip: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sources")
    make_clip(path / "a.mp4", frames=30)
    make_clip(path / "b.mkv", frames=20, width=80, height=60)
    film(path / "c.mkv", noise(24))
    grey(path / "picture.png", [77], 64)
    (path / "notes.txt").write_text("no video, and no list either")
    return path


def open_clips(config: DataConfig, smallest: int = 32) -> tuple[Clips, list[str]]:
    lines: list[str] = []
    return Clips(config, smallest, lines.append), lines


def varied(folder: Path, **changes: Any) -> DataConfig:
    config = DataConfig(
        folders=(str(folder),), image_share=0.3, double_rate=0.5, max_stride=3, zoom_share=0.5, aspect_share=0.5
    )
    return replace(config, **changes)


def test_batches_are_the_same_with_any_number_of_threads_and_from_any_step(folder: Path) -> None:
    loaders = [Loader(varied(folder), plan, 7, workers=n, smallest=40) for n in (0, 1, 3)]
    expected = [loaders[0].batch(step) for step in range(6)]
    assert expected[0].shape == (4, 5, 32, 32, 3) and expected[5].shape == (2, 9, 40, 40, 3)
    assert all(batch.dtype == torch.uint8 for batch in expected)
    for loader in loaders:
        for start in (0, 2):
            assert all(map(torch.equal, loader.batches(start, 6), expected[start:]))
        assert len(list(loader.batches(start, 6))) == 4
    assert len({batch.numpy().tobytes() for batch in expected}) == 6
    assert not torch.equal(Loader(varied(folder), plan, 8).batch(0), expected[0])


def test_it_goes_on_without_end_until_closed(folder: Path) -> None:
    batches = Loader(varied(folder), plan, 0, workers=2).batches(100)
    assert next(batches).shape == next(batches).shape
    batches.close()
    with pytest.raises(StopIteration):
        next(batches)


def test_ranks_see_together_what_one_process_sees(folder: Path) -> None:
    loader = Loader(varied(folder), plan, 1)
    for step in (0, 3):
        parts = torch.cat([loader.batch(step, rank, 2) for rank in (0, 1)])
        assert torch.equal(parts, loader.batch(step))
    second = next(Loader(varied(folder), plan, 1, workers=2).batches(5, rank=1, world=2))
    assert torch.equal(second, loader.batch(5)[1:])
    with pytest.raises(ConfigError, match="4 clips cannot be cut into 3"):
        loader.batch(0, 0, 3)


def test_clips_are_the_loader_without_ranks(folder: Path) -> None:
    clips, _ = open_clips(varied(folder))
    assert torch.equal(clips.batch(7, 1, 4, 5, 32), Loader(varied(folder), plan, 7).batch(1))


def test_where_frames_are_kept_does_not_change_them(folder: Path, tmp_path: Path) -> None:
    kept = {
        "memory": varied(folder),
        "disk": varied(folder, cache=str(tmp_path / "cache"), memory_mb=0),
        "file": varied(folder, memory_mb=0),
    }
    batches = {}
    for place, config in kept.items():
        clips, _ = open_clips(config)
        assert {clips.store.place(media) for media in (*clips.videos, *clips.images)} == {place}
        batches[place] = torch.cat([clips.batch(0, step, 4, 7, 32) for step in range(8)])
    assert torch.equal(batches["memory"], batches["disk"])
    assert torch.equal(batches["memory"], batches["file"])


def test_small_files_are_kept_first_up_to_the_limits(tmp_path: Path) -> None:
    for i, length in enumerate((100, 100, 200, 400)):  # of 100 x 100 x 3 bytes each: 3, 3, 6 and 12 MB
        grey(tmp_path / f"{i}.mkv", [length % 256] * length, 100)
    config = DataConfig(folders=(str(tmp_path),), cache=str(tmp_path / ".cache"), cache_mb=7, memory_mb=7, max_frames=0)
    clips, _ = open_clips(config)
    assert [clips.store.place(media) for media in clips.videos] == ["disk", "disk", "memory", "file"]
    clips.fill()
    assert len(list((tmp_path / ".cache").glob("*.npy"))) == 2


def test_decoded_files_are_found_again_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = grey(tmp_path / "a.mkv", list(range(30)))
    config = DataConfig(folders=(str(tmp_path),), cache=str(tmp_path / ".cache"), memory_mb=0)
    first = open_clips(config)[0].batch(0, 0, 4, 5, 32)
    decode = sources.read_frames
    monkeypatch.setattr(store, "read_frames", lambda *_: pytest.fail("decoded again"))
    again, _ = open_clips(config)
    assert torch.equal(again.batch(0, 0, 4, 5, 32), first)
    assert isinstance(again.store.read(again.videos[0], 0, 5), np.memmap)
    monkeypatch.setattr(store, "read_frames", decode)
    grey(video, list(range(100, 130)))
    assert open_clips(config)[0].batch(0, 0, 4, 5, 32).min() >= 99
    os.utime(video, (1, 1))
    open_clips(config)[0].batch(0, 0, 1, 5, 32)
    assert len(list((tmp_path / ".cache").glob("*.npy"))) == 3


def test_a_write_that_fails_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grey(tmp_path / "a.mkv", list(range(30)))
    config = DataConfig(folders=(str(tmp_path),), cache=str(tmp_path / ".cache"), workers=0)

    def stop(file: Any, array: np.ndarray) -> None:
        file.write(b"\x93NUMPY half of it")
        raise KeyboardInterrupt

    clips, _ = open_clips(config)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(np, "save", stop)
        clips.batch(0, 0, 1, 5, 32)
    assert [path.name for path in (tmp_path / ".cache").iterdir()] == ["index.json"]
    clips.batch(0, 0, 1, 5, 32)
    (cached,) = (tmp_path / ".cache").glob("*.npy")
    cached.write_bytes(cached.read_bytes()[:500])  # as by a disk that lost it: decoded again
    (tmp_path / ".cache" / "index.json").write_text("[1, 2")
    assert open_clips(config)[0].batch(0, 0, 1, 5, 32).shape == (1, 5, 32, 32, 3)


def test_lists_hold_paths_comments_and_folders(tmp_path: Path) -> None:
    (tmp_path / "deep" / ".hidden").mkdir(parents=True)
    grey(tmp_path / "deep" / "a.mkv", [1] * 9)
    grey(tmp_path / "deep" / ".hidden" / "b.mkv", [2] * 9)
    one = grey(tmp_path / "one.mkv", [3] * 9)
    grey(tmp_path / "other.mkv", [4] * 9)
    (tmp_path / "list.txt").write_text(f"# chosen by hand\n\n  deep \n{one}\nmissing.mkv\n")
    clips, lines = open_clips(DataConfig(sources=(SourceConfig(path=str(tmp_path / "list.txt")),)))
    assert [media.path.name for media in clips.videos] == ["a.mkv", "one.mkv"]
    assert clips.skipped == 1 and len(lines) == 1 and "missing.mkv" in lines[0]
    single, _ = open_clips(DataConfig(sources=(SourceConfig(path=str(one)),)))
    assert [media.path for media in single.videos] == [one]


def share(config: DataConfig, level: int, draws: int = 300) -> float:
    """How often clips of that grey level are drawn."""
    clips, _ = open_clips(config)
    batch = clips.batch(0, 0, draws, 2, 32)[:, 0, 0, 0, 0].int()
    return float(((batch - level).abs() < 3).float().mean())


def test_weights(tmp_path: Path) -> None:
    for name, level, number in (("few", 50, 1), ("many", 200, 4)):
        (tmp_path / name).mkdir()
        for i in range(number):
            grey(tmp_path / name / f"{i}.mkv", [level] * 9)
    few, many = (SourceConfig(path=str(tmp_path / name), weight=w) for name, w in (("few", 3.0), ("many", 1.0)))
    # of 300 draws the share is within 0.08 of its chance but once in 300 times
    assert abs(share(DataConfig(sources=(few, many)), 50) - 3 / 4) < 0.08
    assert abs(share(DataConfig(sources=(few, many), weight_per="file"), 50) - 3 / 7) < 0.09
    assert abs(share(DataConfig(folders=(few.path, many.path)), 50) - 1 / 2) < 0.09
    assert abs(share(DataConfig(folders=(few.path, many.path), weight_per="file"), 50) - 1 / 5) < 0.08


def test_pictures_and_videos_share_a_batch(tmp_path: Path) -> None:
    grey(tmp_path / "video.mkv", [50] * 9)
    grey(tmp_path / "picture.png", [200])
    for wanted in (0.0, 0.4, 1.0):
        assert abs(share(DataConfig(folders=(str(tmp_path),), image_share=wanted), 200) - wanted) < 0.09
    clips, _ = open_clips(DataConfig(sources=(SourceConfig(path=str(tmp_path / "picture.png")),)))
    assert (clips.batch(0, 0, 2, 9, 32) == 200).all()  # pictures alone, whatever the share


def test_strides_and_direction(tmp_path: Path) -> None:
    grey(tmp_path / "a.mkv", [3 * t for t in range(60)])
    base = DataConfig(folders=(str(tmp_path),), zoom_share=0.0, double_rate=0.5, max_stride=4)

    def steps(config: DataConfig) -> np.ndarray:
        levels = open_clips(config)[0].batch(0, 0, 80, 5, 32)[:, :, 0, 0, 0].numpy().astype(int)
        found = np.round(np.diff(levels, axis=1) / 3).astype(int)
        assert (found == found[:, :1]).all(), "one stride within a clip"
        return found[:, 0]

    assert set(steps(replace(base, reverse_share=0.0))) == {1, 2, 3, 4}
    assert abs((steps(replace(base, reverse_share=0.0)) == 1).mean() - 0.5) < 0.17
    assert set(steps(replace(base, double_rate=1.0, max_stride=2, reverse_share=1.0))) == {-2}
    assert set(steps(replace(base, double_rate=0.0, reverse_share=0.0))) == {1}
    # 60 frames hold 5 of them no further apart than 14
    assert max(steps(replace(base, double_rate=1.0, max_stride=100, reverse_share=0.0))) == 14


def test_short_videos_stand_still_at_their_end(tmp_path: Path) -> None:
    grey(tmp_path / "a.mkv", [10, 90, 170])
    config = DataConfig(folders=(str(tmp_path),), reverse_share=0.0, zoom_share=0.0)
    for memory in (0, 100):
        clip = open_clips(replace(config, memory_mb=memory))[0].batch(0, 0, 1, 6, 32)[0, :, 0, 0, 0]
        assert [round(int(level) / 80) for level in clip] == [0, 1, 2, 2, 2, 2]


def test_windows_keep_their_bounds() -> None:
    rng = np.random.default_rng(0)
    config = DataConfig(zoom_share=0.7, zoom_min=0.5, zoom=1.5, aspect_share=0.7, aspect=1.3)
    windows = np.array([draw_window(rng, config, 100, 160, 1000) for _ in range(500)])
    ratio, short = windows[:, 0] / windows[:, 1], windows.min(axis=1)
    assert windows[:, 0].max() == 160 and (windows[:, 1] <= 195).all()  # cut off by the picture; 100 * 1.5 * 1.3
    assert (ratio < 1.32).all() and (ratio > 1 / 1.32).all() and (ratio > 1.1).any() and (ratio < 0.9).any()
    assert (short >= 50).all() and (short <= 150).all() and (short < 70).any() and (short > 130).any()
    plain = DataConfig(zoom_share=0.0, aspect_share=0.0)
    assert {draw_window(rng, plain, 100, 160, 1000) for _ in range(20)} == {(100, 100)}


def test_scaling_is_an_average() -> None:
    clip = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), np.uint8)
    small = scale(clip, 32)
    assert small.shape == (3, 32, 32, 3) and small.dtype == np.uint8
    assert np.abs(small.mean((1, 2)) - clip.mean((1, 2))).max() < 3
    assert small.std() < 0.7 * clip.std()  # not one pixel of each
    assert (scale(np.full((1, 50, 40, 3), 123, np.uint8), 32) == 123).all()


def cut_off(path: Path, share: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


@pytest.mark.parametrize("memory_mb", [0, 100], ids=["on the fly", "kept"])
def test_what_decodes_of_a_damaged_file_is_used(tmp_path: Path, memory_mb: int) -> None:
    cut_off(film(tmp_path / "half.mkv", noise(40)), 0.5)
    cut_off(film(tmp_path / "stump.mkv", noise(40)), 0.12)
    film(tmp_path / "whole.mkv", noise(40, seed=5))
    config = DataConfig(folders=(str(tmp_path),), memory_mb=memory_mb, zoom_share=0.0)
    clips, lines = open_clips(config)
    assert len(clips.videos) == 3 and not lines  # all of them open
    first = clips.batch(0, 0, 14, 9, 32)
    if memory_mb:
        assert clips.skipped == 1 and clips.damaged == 1
        assert sorted(line.split()[0] for line in lines) == ["half.mkv", "skipped"]
        assert any("skipped stump.mkv" in line for line in lines)
    else:  # parts of `half` that are not there count as well
        assert clips.skipped >= 1 and any("stump.mkv" in line for line in lines)
    assert torch.equal(clips.batch(0, 0, 14, 9, 32), first)  # knowing what is broken changes nothing
    again, _ = open_clips(config)
    assert torch.equal(again.batch(0, 0, 14, 9, 32), first)


def test_files_that_do_not_open_or_are_small_are_counted(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"this is no video")
    (tmp_path / "empty.png").write_bytes(b"")
    grey(tmp_path / "small.mkv", [9] * 9, 24)
    config = DataConfig(folders=(str(tmp_path), str(folder)), cache=str(tmp_path / ".cache"))
    for _ in range(2):  # the second time from the index
        clips, lines = open_clips(config)
        assert clips.skipped == 3 and clips.damaged == 0 and len(clips.videos) == 3 and len(clips.images) == 1
        assert all(line.startswith("skipped ") for line in lines)
        assert any("small.mkv: 24x24 is smaller than the 32 px crops" in line for line in lines)


def test_nothing_but_broken_files_is_an_error(tmp_path: Path) -> None:
    cut_off(film(tmp_path / "stump.mkv", noise(40)), 0.12)
    clips, _ = open_clips(DataConfig(folders=(str(tmp_path),)))
    with pytest.raises(ConfigError, match=r"stump\.mkv"):
        clips.batch(0, 0, 1, 9, 32)
    loader = Loader(DataConfig(folders=(str(tmp_path),)), plan, 0, workers=2, warn=lambda _: None)
    with pytest.raises(ConfigError, match=r"stump\.mkv"):
        next(loader.batches())


def test_a_full_disk_is_not_taken_for_a_broken_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError):
        clips, _ = open_clips(DataConfig(folders=(str(folder),), cache=str(tmp_path / "file")))
        clips.batch(0, 0, 4, 5, 32)


@pytest.mark.parametrize(
    "values, words",
    [
        ({"image_share": 1.5}, "image_share is a share"),
        ({"max_stride": 0}, "max_stride is at least 1"),
        ({"zoom_min": 2.0}, "zoom_min <= zoom"),
        ({"aspect": 0.8}, "aspect is at least 1"),
        ({"workers": -1}, "workers is at least 0"),
        ({"sources": [{"path": "x", "weight": 0}]}, "above 0"),
        ({"sources": [{"pth": "x"}]}, "did you mean 'path'"),
        ({"sources": [{"path": "no/such/folder"}]}, "there is no folder, list or file 'no/such/folder'"),
        ({}, "no folders given"),
    ],
)
def test_bad_configs(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Clips(from_dict(DataConfig, values), 1, print)


def test_unknown_weighting() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'file'"):
        DataConfig(weight_per="files")
