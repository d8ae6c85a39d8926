"""Audio goes through untouched and stays in sync with the pictures."""

from __future__ import annotations

import hashlib
import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from video_samples import moving, write_video

from vidtok.errors import FormatError, OutputError
from vidtok.video import VideoReader, VideoWriter
from vidtok.video.audio import ORIGIN


def packets(file: Any, **options: Any) -> list[tuple[Fraction, str]]:
    """(time, digest) of each audio packet."""
    with av.open(file, **options) as container:
        return [(p.pts * p.time_base, hashlib.sha256(bytes(p)).hexdigest())
                for p in container.demux(audio=0) if p.size]


def first_frame(path: Path) -> Fraction:
    with VideoReader(path, warn=lambda note: None) as video:
        return next(iter(video)).pts * video.info.time_base


def copy(source: Path, target: Path, **options: Any) -> tuple[bytes, str | None]:
    """The file copied as encode and decode do, without a model between."""
    with VideoReader(source, audio=True, warn=lambda note: None, **options) as video:
        clips, sound = [], b""
        for clip in video.clips(8):
            clips.append(clip)
            sound += video.take_audio()
        sound += video.take_audio()
    info = video.info
    with VideoWriter(target, width=info.width, height=info.height, time_base=info.time_base, rate=info.rate,
                     audio=io.BytesIO(sound) if sound else None) as out:
        for pixels, pts in clips:
            out.write(pixels, pts)
        out.close(video.last_duration)
    return sound, video.audio_format


CASES = [("a.mp4", "aac", 48000), ("a.mkv", "aac", 44100), ("b.mkv", "libopus", 48000), ("b.mp4", "libmp3lame", 44100),
         ("c.mov", "pcm_s16le", 48000), ("d.mkv", "flac", 48000), ("e.mkv", "eac3", 48000), ("f.mov", "alac", 48000)]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(("name", "codec", "rate"), CASES)
def test_packets_are_identical_and_in_sync(tmp_path: Path, name: str, codec: str, rate: int, suffix: str) -> None:
    source = write_video(tmp_path / name, moving(30), audio=codec, sample_rate=rate)
    target = tmp_path / f"out{suffix}"
    sound, format = copy(source, target)
    before, after, between = packets(str(source)), packets(str(target)), packets(io.BytesIO(sound), format=format)
    assert len(before) > 10
    assert [d for _, d in before] == [d for _, d in between] == [d for _, d in after]
    start, start_after = first_frame(source), first_frame(target)
    sample, millisecond = Fraction(1, rate), Fraction(1, 1000)
    # times of the source that are milliseconds already may be rounded once to samples
    room = sample if suffix == ".mp4" and source.suffix != ".mkv" else millisecond + sample
    for (t0, _), (t1, _), (t2, _) in zip(before, between, after, strict=True):
        assert abs(t1 - ORIGIN - t0) <= sample
        assert abs((t2 - start_after) - (t0 - start)) <= room


def test_late_and_negative_starts_keep_the_distance(tmp_path: Path) -> None:
    for number, begin in enumerate((250, -10)):
        source = write_video(tmp_path / f"{number}.mp4", moving(30), pts=range(begin, begin + 30), audio="aac",
                             container_options={"movie_timescale": "48000"})
        copy(source, tmp_path / f"{number}-out.mp4")
        apart = [packets(str(p))[0][0] - first_frame(p) for p in (source, tmp_path / f"{number}-out.mp4")]
        assert abs(apart[0] - apart[1]) <= Fraction(1, 12000)


def test_a_part_takes_its_own_sound_along(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", moving(100), audio="aac")
    copy(source, tmp_path / "part.mp4", start=1.0, frames=25)
    times = [t for t, _ in packets(str(tmp_path / "part.mp4"))]
    assert first_frame(tmp_path / "part.mp4") == 1
    assert 1 - Fraction(1024, 48000) <= times[0] <= 1
    assert 2 - Fraction(1024, 48000) <= times[-1] < 2
    assert {d for _, d in packets(str(tmp_path / "part.mp4"))} <= {d for _, d in packets(str(source))}


def test_no_audio_is_no_bytes(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", moving(3))
    assert copy(source, tmp_path / "b.mp4") == (b"", None)


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.avi", moving(30), codec="mpeg4", audio="adpcm_ms")
    with pytest.raises(OutputError, match=r"adpcm_ms audio does not fit into \.mp4.*--audio drop"):
        copy(source, tmp_path / "b.mp4")
    assert not (tmp_path / "b.mp4").exists()


def test_broken_sound_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="--audio drop"):
        VideoWriter(tmp_path / "a.mp4", width=4, height=4, audio=io.BytesIO(b"not a stream"))
    assert list(tmp_path.iterdir()) == []


def test_sound_of_a_part_far_in(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", moving(300), audio="aac", options={"g": "25"})
    copy(source, tmp_path / "part.mp4", start=8.5, frames=10)
    times = [t for t, _ in packets(str(tmp_path / "part.mp4"))]
    start = first_frame(tmp_path / "part.mp4")
    assert start == Fraction(213, 25)
    assert 0 <= start - times[0] <= Fraction(1024, 48000)
    assert Fraction(0) < start + Fraction(10, 25) - times[-1] <= Fraction(1024, 48000)
