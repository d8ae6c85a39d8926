"""What comes out of a file: colours, orientation, sizes, parts of it, and refusals."""

from __future__ import annotations

import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from video_samples import encode_picture, moving, write_video

from vidtok.errors import NoVideoError, SourceError, TooLargeError, UsageError
from vidtok.video import Resize, VideoReader
from vidtok.video.info import Pixels


def frames(path: Path, **options: Any) -> list[Pixels]:
    with VideoReader(path, warn=lambda note: None, **options) as video:
        return [f.pixels for f in video]


def off(a: Pixels, b: Pixels) -> float:
    return float(np.abs(a.astype(int) - b).mean())


# colours

SMOOTH = np.stack(np.meshgrid(np.linspace(40, 210, 96), np.linspace(200, 50, 64)), -1)
PICTURE = np.concatenate([SMOOTH, SMOOTH[..., :1] // 2 + 60], -1).astype(np.uint8)
CODING = {
    "tagged 709": (1, 1, 1, 1), "tagged 601": (6, 1, 6, 6), "tagged 2020": (9, 1, 9, 14), "709 full": (1, 2, 1, 1),
}


@pytest.mark.parametrize("case", CODING)
@pytest.mark.parametrize("pix_fmt", ["yuv444p", "yuv420p", "yuv444p10le"])
def test_tags_are_followed(tmp_path: Path, case: str, pix_fmt: str) -> None:
    path = write_video(tmp_path / "a.mkv", PICTURE[None], codec="ffv1", pix_fmt=pix_fmt, tags=CODING[case])
    with VideoReader(path) as video:
        assert video.info.colour.matrix == CODING[case][0] and not video.info.colour.guessed
        assert off(next(iter(video)).pixels, PICTURE) < 1.1


@pytest.mark.parametrize(("size", "matrix"), [((64, 48), 6), ((1280, 32), 1), ((32, 720), 1)])
def test_untagged_matrix_goes_by_the_size(tmp_path: Path, size: tuple[int, int], matrix: int) -> None:
    pixels = np.full((1, size[1], size[0], 3), (200, 40, 90), np.uint8)
    path = tmp_path / "a.mkv"
    write_video(path, pixels, codec="ffv1", pix_fmt="yuv444p")
    with av.open(str(path)) as container:  # what PyAV writes untagged is BT.601
        assert container.streams.video[0].codec_context.colorspace == 2
    with VideoReader(path) as video:
        assert (video.info.colour.matrix, video.info.colour.range, video.info.colour.guessed) == (matrix, 1, True)
        assert (off(next(iter(video)).pixels, pixels[0]) < 1.5) == (matrix == 6)


def test_transparency_is_over_black_and_said(tmp_path: Path) -> None:
    picture = np.zeros((16, 16, 4), np.uint8)
    picture[..., 0], picture[:, :8, 3], picture[:, 8:, 3] = 200, 255, 100
    (tmp_path / "a.png").write_bytes(encode_picture("png", picture, "rgba"))
    notes: list[str] = []
    with VideoReader(tmp_path / "a.png", warn=notes.append) as video:
        pixels = next(iter(video)).pixels
        assert video.info.alpha
    assert pixels[0, 0].tolist() == [200, 0, 0] and pixels[0, 15].tolist() == [78, 0, 0]
    assert notes == ["a.png: has transparency; shown over black"]


def test_webp_and_jpeg_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encode_picture("mjpeg", PICTURE, "yuvj444p", dst_color_range=2))
    (tmp_path / "a.webp").write_bytes(encode_picture("libwebp", PICTURE, "yuv420p"))
    for name in ("a.jpg", "a.webp"):
        got = frames(tmp_path / name)
        assert len(got) == 1 and off(got[0], PICTURE) < 3, name


# orientation

CORNERS = np.zeros((48, 64, 3), np.uint8)
CORNERS[:12, :12], CORNERS[:12, -12:], CORNERS[-12:, :12] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
EXIF = {
    1: CORNERS, 2: CORNERS[:, ::-1], 3: CORNERS[::-1, ::-1], 4: CORNERS[::-1], 5: CORNERS.transpose(1, 0, 2),
    6: np.rot90(CORNERS, -1), 7: CORNERS[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(CORNERS),
}


@pytest.mark.parametrize("orientation", EXIF)
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    jpeg = encode_picture("mjpeg", CORNERS, "yuvj444p", dst_color_range=2)
    entry = struct.pack("<HHHIHHI", 1, 0x112, 3, 1, orientation, 0, 0)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + entry
    (tmp_path / "a.jpg").write_bytes(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:])
    with VideoReader(tmp_path / "a.jpg") as video:
        pixels, info = next(iter(video)).pixels, video.info
    upright = EXIF[orientation]
    assert pixels.shape == upright.shape and off(pixels, upright) < 2 and pixels.flags.c_contiguous
    assert (info.width, info.height) == (upright.shape[1], upright.shape[0])
    mirrored = CORNERS[:, ::-1] if info.mirrored else CORNERS
    assert np.array_equal(np.rot90(mirrored, -info.rotation // 90), upright)


# sizes

@pytest.mark.parametrize(
    ("text", "enlarge", "size", "wanted"),
    [
        ("256", False, (1280, 720), (456, 256)), ("256", False, (720, 1280), (256, 456)),
        ("256", False, (512, 512), (256, 256)), ("256", False, (100, 80), (100, 80)),
        ("256", True, (100, 80), (320, 256)), ("255", False, (1000, 300), (850, 255)),
        ("640x360", False, (1280, 720), (640, 360)), ("640x360", False, (320, 720), (320, 360)),
        ("640x360", True, (320, 180), (640, 360)), ("1", False, (3, 3), (1, 1)),
    ],
)
def test_resize_sizes(text: str, enlarge: bool, size: tuple[int, int], wanted: tuple[int, int]) -> None:
    assert Resize.parse(text, enlarge).size(*size) == wanted


@pytest.mark.parametrize("text", ["", "0", "-1", "12.5", "axb", "10x", "0x5", "99999", "1x2x3"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="WxH"):
        Resize.parse(text)


def test_resized_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", moving(3, 64, 48))
    with VideoReader(path, resize=Resize.parse("24")) as video:
        assert (video.info.width, video.info.height, video.info.source_width) == (32, 24, 64)
        assert [f.pixels.shape for f in video] == [(24, 32, 3)] * 3


def test_too_large(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", moving(1, 64, 48))
    with pytest.raises(TooLargeError, match=r"64x48 = 3072 pixels.*--max-pixels"):
        VideoReader(path, max_pixels=3071)
    assert len(frames(path, max_pixels=3072)) == 1


# parts

def test_start_frames_and_rate(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", moving(25), pts=range(5, 30))
    whole = frames(path)
    with VideoReader(path, start=0.4, frames=5) as video:
        part = list(video)
        assert video.info.frames_hint == 5
    assert [f.pts * video.info.time_base for f in part] == [Fraction(n, 25) for n in range(15, 20)]
    assert all(np.array_equal(f.pixels, w) for f, w in zip(part, whole[10:15], strict=True))
    with VideoReader(path, fps=Fraction(50)) as video:
        doubled = list(video)
        times = [f.pts * video.info.time_base for f in doubled]
    assert times == [Fraction(1, 5) + Fraction(n, 50) for n in range(50)]
    assert all(np.array_equal(f.pixels, whole[n // 2]) for n, f in enumerate(doubled))
    with pytest.raises(SourceError, match="--start"):
        frames(path, start=60)


def test_start_after_a_seek_is_the_same_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", moving(400), pts=[n + n % 2 for n in range(0, 1200, 3)],
                       time_base=Fraction(1, 100), options={"g": "25"})
    with VideoReader(path) as video:
        whole = [(f.pts, f.pixels) for f in video]
    for start in (0.5, 7, 11.9):
        with VideoReader(path, start=start, frames=3) as video:
            part = [(f.pts, f.pixels) for f in video]
            wanted = [w for w in whole if w[0] * video.info.time_base >= Fraction(start)][:3]
        assert [p for p, _ in part] == [p for p, _ in wanted]
        assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(part, wanted, strict=True))


def test_clips(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", moving(10))
    with VideoReader(path) as video:
        clips = list(video.clips(4))
    assert [c.shape[0] for c, _ in clips] == [4, 4, 2] and [len(p) for _, p in clips] == [4, 4, 2]
    assert np.array_equal(np.concatenate([c for c, _ in clips]), np.stack(frames(path)))


@pytest.mark.parametrize("options", [{"fps": Fraction(0)}, {"fps": Fraction(-1)}, {"start": -1.0},
                                     {"start": float("nan")}, {"frames": 0}])
def test_bad_arguments(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        VideoReader(tmp_path / "a.mp4", **options)


# refusals

def test_playlists_and_addresses_are_refused(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.ts", moving(3), codec="mpeg2video")
    (tmp_path / "a.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{video}\n#EXT-X-ENDLIST\n")
    (tmp_path / "a.ffconcat").write_text(f"ffconcat version 1.0\nfile '{video}'\n")
    (tmp_path / "a.sdp").write_text("v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
                                    "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n")
    for name in ("a.m3u8", "a.ffconcat", "a.sdp"):
        with pytest.raises(SourceError):
            VideoReader(tmp_path / name)
    for address in ("http://localhost/a.mp4", "concat:a.mp4|b.mp4", "pipe:0", "-x.mp4"):
        with pytest.raises(SourceError, match="No such file"):
            VideoReader(address)


def test_a_name_is_only_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one").mkdir()
    data = write_video(tmp_path / "a.mp4", moving(2)).read_bytes()
    for name in ("http:x.mp4", "-i.mp4", "frame%03d.mp4", "a\nb.mp4", "concat:a|b", "[x].mp4"):
        Path(name).write_bytes(data)
        assert len(frames(Path(name))) == 2, name


def test_unreadable(tmp_path: Path) -> None:
    (tmp_path / "zeros.mp4").write_bytes(bytes(1000))
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name, words in {"zeros.mp4": "not a video", "empty.mp4": "empty", "none.mp4": "No such file",
                        ".": "directory"}.items():
        with pytest.raises(SourceError, match=words):
            VideoReader(tmp_path / name)


def test_encrypted(tmp_path: Path) -> None:
    key = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "00" * 16, "encryption_kid": "11" * 16}
    path = write_video(tmp_path / "a.mp4", moving(3), container_options=key)
    with pytest.raises(SourceError, match="encrypted"):
        VideoReader(path)


def test_audio_only(tmp_path: Path) -> None:
    path = tmp_path / "a.m4a"
    with av.open(str(path), "w", format="mp4") as out:
        stream: Any = out.add_stream("aac", rate=48000)
        stream.codec_context.layout = "mono"
        frame: Any = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 48000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with pytest.raises(NoVideoError, match="audio file"):
        VideoReader(path)


def test_cut_off_keeps_what_is_there_and_says_so(tmp_path: Path) -> None:
    data = write_video(tmp_path / "a.mkv", moving(60)).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    notes: list[str] = []
    with VideoReader(tmp_path / "cut.mkv", warn=notes.append) as video:
        count = len(list(video))
        assert video.damaged and 0 < count < 60
    assert len(notes) == 1
    with pytest.raises(SourceError, match="--strict"):
        frames(tmp_path / "cut.mkv", strict=True)


EARLY = """
import sys
from vidtok.video import VideoReader
for i in range(400):
    path = sys.argv[1 + i % (len(sys.argv) - 1)]
    with VideoReader(path, start=0.1 * (i % 3 == 2), warn=lambda note: None) as video:
        for _ in zip(range(i % 5), video):
            pass
print("closed")
"""


def test_closing_early_never_hangs(tmp_path: Path) -> None:
    """Decoders with threads at work are let go of, many times; packets that are Python's own would wait for its lock
    there (two equal frames of HEVC were enough, see vidtok/video/ordinary.py)."""
    names = {"libx265": "mkv", "libsvtav1": "mkv", "libx264": "mp4"}
    paths = []
    for codec, container in names.items():
        for count in (2, 9):
            pixels = np.concatenate([moving(count, 96, 64), np.full((2, 64, 96, 3), 90, np.uint8)])
            options = {"x265-params": "log-level=none"} if codec == "libx265" else {"preset": "10"}
            options = options if codec != "libx264" else {}
            paths.append(write_video(tmp_path / f"{codec}{count}.{container}", pixels, codec=codec, options=options))
    done = subprocess.run(
        [sys.executable, "-c", EARLY, *map(str, paths)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "closed\n", done.stderr
