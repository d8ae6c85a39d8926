"""Every odd file beside the repository behaves as its expected.json says; nothing but VidtokError comes out."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidtok.errors import NoVideoError, SourceError
from vidtok.video import VideoInfo, VideoReader
from vidtok.video.info import Pixels

FOLDER = Path(os.environ.get("VIDTOK_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "odd"
EXPECTED: dict[str, Any] = {}
if (FOLDER / "expected.json").exists():
    EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))["files"]
needs_files = pytest.mark.skipif(not EXPECTED, reason=f"no odd files at {FOLDER}; VIDTOK_DATA says where")
pytestmark = needs_files


@dataclass
class Read:
    info: VideoInfo
    first: Pixels
    times: list[float]
    notes: list[str]
    damaged: bool
    shapes: set[tuple[int, ...]]


def read(name: str, **options: Any) -> Read:
    """Whole file; only the first picture is kept."""
    notes: list[str] = []
    with VideoReader(FOLDER / name, warn=notes.append, **options) as video:
        frames = ((f.pixels, float(f.pts * video.info.time_base)) for f in video)
        first, time = next(frames)
        times, shapes = [time], {first.shape}
        for pixels, time in frames:
            times.append(time)
            shapes.add(pixels.shape)
        assert video.notes == [n.partition(": ")[2] for n in notes]
        return Read(video.info, first, times, notes, video.damaged, shapes)


def names(*actions: str) -> list[str]:
    return sorted(name for name, facts in EXPECTED.items() if facts["action"] in actions)


@pytest.mark.parametrize("name", names("error"))
def test_unreadable_is_one_line(name: str) -> None:
    with pytest.raises(SourceError) as caught:
        read(name)
    assert "\n" not in str(caught.value) and name in str(caught.value)


@pytest.mark.parametrize("name", names("decode", "decode_or_error"))
def test_decodes(name: str) -> None:
    facts = EXPECTED[name]
    if name == "real_cover_art.mp3":
        with pytest.raises(NoVideoError, match="audio file with a cover picture"):
            read(name)
        return
    got = read(name)
    assert len(got.times) == facts["decodable_frames"]
    assert got.shapes == {(facts["height"], facts["width"], 3)}
    assert all(a < b for a, b in zip(got.times, got.times[1:], strict=False))
    assert got.damaged == (name in DAMAGED)
    if facts["pts"] in ("regular", "irregular"):
        known = facts.get("pts_list_s") or [facts["first_pts_s"], facts["last_pts_s"]]
        mine = got.times if "pts_list_s" in facts else [got.times[0], got.times[-1]]
        assert mine == pytest.approx(known, abs=0.00051)
    if facts.get("average_rate"):
        assert str(got.info.rate) == facts["average_rate"]


DAMAGED = {"corrupt_middle.mp4", "real_corrupted.mp4", "truncated.mkv", "truncated_faststart.mp4", "resize_concat.ts"}


@pytest.mark.parametrize("name", sorted(DAMAGED & set(EXPECTED)))
def test_strict_refuses_damage(name: str) -> None:
    with pytest.raises(SourceError, match="--strict"):
        read(name, strict=True)


NOTES = {
    "alpha_png.mov": "transparency",
    "av_multi.mkv": r"2 video streams \(192x108, 64x48\)",
    "hdr_pq_bt2020.mp4": "HDR",
    "interlaced_h264.mp4": "interlaced",
    "missing_pts.mkv": "no timestamp",
    "no_pts.h264": "25 frames per second assumed",
    "real_alpha_vp9.webm": "transparency layer, which is dropped",
    "real_multistream.mp4": r"2 video streams \(320x180, 480x270\)",
    "real_resize_midstream.mp4": "400x300",
    "resize_concat.ts": "160x96",
    "still_alpha.png": "transparency",
    "truncated.mkv": "cut off",
    "truncated_faststart.mp4": "damaged",
}


@pytest.mark.parametrize("name", sorted(NOTES))
def test_what_is_unusual_is_said_once(name: str) -> None:
    notes = read(name).notes
    assert sum(NOTES[name].replace("\\", "") in n for n in notes) == 1, notes


def test_sound_files_are_silent() -> None:
    assert read("late_start.mp4").notes == read("edit_list.mp4").notes == read("real_h263.3gp").notes == []


@pytest.mark.parametrize(("name", "degrees"), [("rot90_gen.mp4", 90), ("rot180_gen.mp4", 180), ("rot270_gen.mp4", 270)])
def test_red_square_is_at_the_top_left(name: str, degrees: int) -> None:
    got = read(name)
    assert got.info.rotation == degrees and not got.info.mirrored
    inside, beside = got.first[4:20, 4:20].mean((0, 1)), got.first[30:40, 30:40].mean((0, 1))
    assert inside[0] > 200 and inside[1:].max() < 60
    assert not (beside[0] > 200 and beside[1:].max() < 60)


def test_rotated_recordings_show_the_same_scene() -> None:
    upright = read("real_rot0.mov").first
    assert upright.shape == (320, 568, 3)
    for name in ("real_rot90.mov", "real_rot180.mov", "real_rot270.mov"):
        facts = EXPECTED[name]
        assert read(name).first.shape == (facts["height"], facts["width"], 3)


def test_full_and_limited_range_are_the_same_picture() -> None:
    full, limited = read("range_full.mp4"), read("range_limited.mp4")
    assert (full.info.colour.range, limited.info.colour.range) == (2, 1)
    difference = full.first.astype(int) - limited.first
    assert np.abs(difference).mean() < 2 and np.abs(difference.mean((0, 1))).max() < 1.2


def test_gray_is_gray_and_uses_the_whole_range() -> None:
    for name in ("gray16_ffv1.mkv", "gray_h264.mp4"):
        first = read(name).first.astype(int)
        assert np.ptp(first, axis=2).max() == 0 and first.max() > 200, name
    assert read("gray16_ffv1.mkv").info.bit_depth == 16


def test_black_and_white() -> None:
    with VideoReader(FOLDER / "black_white.mp4") as video:
        levels = [int(f.pixels.mean()) for f in video]
    assert levels == [0] * 10 + [255] * 10


def test_sample_aspect_is_kept() -> None:
    info = read("anamorphic.mp4").info
    assert (info.sample_aspect.numerator, info.sample_aspect.denominator) == (16, 11)


def test_depths_and_chroma() -> None:
    assert read("prores422_10.mov").info.bit_depth == 10 and not read("prores422_10.mov").info.chroma444
    assert read("odd_131x77_444.mp4").info.chroma444 and read("rgb_h264.mp4").info.chroma444
    assert read("hdr_pq_bt2020.mp4").info.colour.hdr == "PQ"
