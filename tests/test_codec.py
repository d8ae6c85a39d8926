"""Videos through files: same frames, sizes and times back, whatever the processing; seeks, segments, damage, audio."""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from vidtok.bitstream.container import TokenReader
from vidtok.codec import DecodeOptions, EncodeOptions, decode_clips, decode_file, encode_file, estimate_file
from vidtok.errors import DamagedError, OutputExistsError, SourceError, UnknownNameError, UsageError, WrongModelError
from vidtok.prefetch import prefetch
from vidtok.video import VideoReader

MakeClip = Callable[..., Path]


@pytest.fixture(scope="module")
def long_clip(make_clip: MakeClip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 frames, so that there are several stored chunks."""
    return make_clip(tmp_path_factory.mktemp("long") / "long.mp4", frames=150, width=40, height=24)


def frames_of(path: Path, model: Path, **options: object) -> tuple[np.ndarray, list[int]]:
    with TokenReader(path, recover=bool(options.get("skip_damaged"))) as reader:
        clips = list(decode_clips(reader, DecodeOptions(model=model, **options)))  # type: ignore[arg-type]
    return np.concatenate([pixels for pixels, _ in clips]), [t for _, pts in clips for t in pts]


def test_bytes_and_frames_do_not_depend_on_how(long_clip: Path, tiny_model: Path, tmp_path: Path) -> None:
    first = tmp_path / "first.vtok"
    report = encode_file(long_clip, first, EncodeOptions(model=tiny_model))
    assert (report.frames, report.width, report.height) == (150, 40, 24)
    assert report.file_bytes == first.stat().st_size
    frames, pts = frames_of(first, tiny_model)
    assert frames.shape == (150, 24, 40, 3)
    for i, options in enumerate(
        [{"chunk_frames": 1}, {"chunk_frames": 7, "tile": 16}, {"tile": 8, "batch": 5}, {"threads": 1}, {"threads": 2}]
    ):
        other = tmp_path / f"{i}.vtok"
        encode_file(long_clip, other, EncodeOptions(model=tiny_model, **options))  # type: ignore[arg-type]
        assert other.read_bytes() == first.read_bytes(), options
        again, again_pts = frames_of(first, tiny_model, **options)
        assert np.array_equal(again, frames) and again_pts == pts, options


@pytest.mark.parametrize("segment_frames", [0, 21, 64])
def test_parts_equal_the_whole_and_read_only_their_chunks(
    long_clip: Path, tiny_model: Path, tmp_path: Path, segment_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "clip.vtok"
    encode_file(long_clip, path, EncodeOptions(model=tiny_model, segment_frames=segment_frames))
    frames, pts = frames_of(path, tiny_model)
    with VideoReader(long_clip) as video:
        assert pts == [frame.pts for frame in video]
    for start, stop in ((0, 1), (0, 150), (63, 66), (100, 101), (149, 150), (21, 42), (None, 5), (130, None)):
        part, part_pts = frames_of(path, tiny_model, frames=(start, stop))
        assert np.array_equal(part, frames[start:stop]) and part_pts == pts[start:stop], (start, stop)
    read: list[int] = []
    original = TokenReader.read_chunk
    monkeypatch.setattr(TokenReader, "read_chunk", lambda self, n: read.append(n) or original(self, n))
    frames_of(path, tiny_model, frames=(140, 150))
    with TokenReader(path) as reader:
        assert len(set(read)) <= 2 < len(reader.chunks)


def test_a_segment_does_not_depend_on_the_one_before(long_clip: Path, tiny_model: Path, tmp_path: Path) -> None:
    parts, alone = tmp_path / "parts.vtok", tmp_path / "alone.vtok"
    encode_file(long_clip, parts, EncodeOptions(model=tiny_model, segment_frames=50))
    with VideoReader(long_clip) as video:
        rate = video.info.rate
    assert rate is not None
    encode_file(long_clip, alone, EncodeOptions(model=tiny_model, start=float(50 / rate), frames=50))
    with TokenReader(parts) as a, TokenReader(alone) as b:
        assert np.array_equal(a.ids_for_frames(50, 100), b.ids[:])
    assert np.array_equal(frames_of(parts, tiny_model)[0][50:100], frames_of(alone, tiny_model)[0])


@pytest.mark.parametrize(("width", "height"), [(131, 77), (8, 8), (1, 1), (18, 40)])
def test_any_size(width: int, height: int, tiny_model: Path, tmp_path: Path) -> None:
    import av

    source = tmp_path / "source.mkv"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(30000, 1001), width=width, height=height)
        stream.pix_fmt = "bgr0"
        rng = np.random.default_rng(0)
        for _ in range(6):
            picture = rng.integers(0, 256, (height, width, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    tokens, out = tmp_path / "t.vtok", tmp_path / "out.mp4"
    encode_file(source, tokens, EncodeOptions(model=tiny_model))
    report = decode_file(tokens, out, DecodeOptions(model=tiny_model))
    assert (report.frames, report.width, report.height) == (6, width, height)
    with VideoReader(out) as video, VideoReader(source) as original:
        frames, wanted = list(video), list(original)
        scale = video.info.time_base / original.info.time_base
    assert len(frames) == 6 and frames[0].pixels.shape == (height, width, 3)
    assert [f.pts * scale for f in frames] == [f.pts for f in wanted]


def test_damage_is_named_and_the_rest_is_decoded(long_clip: Path, tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip.vtok"
    encode_file(long_clip, path, EncodeOptions(model=tiny_model, segment_frames=64))
    whole, pts = frames_of(path, tiny_model)
    with TokenReader(path) as reader:
        info = reader.chunks[1]
    data = bytearray(path.read_bytes())
    data[info.offset + info.bytes - 3] ^= 4
    path.write_bytes(data)
    with pytest.raises(DamagedError, match="chunk 1"):
        frames_of(path, tiny_model)
    found, found_pts = frames_of(path, tiny_model, skip_damaged=True)
    lost = slice(info.first_frame, info.first_frame + info.frames)
    assert found.shape == whole.shape and found_pts == pts
    assert (found[lost] == 128).all()
    assert np.array_equal(found[: lost.start], whole[: lost.start])
    assert np.array_equal(found[128:], whole[128:])  # the next segment
    report = decode_file(path, tmp_path / "out.mp4", DecodeOptions(model=tiny_model, skip_damaged=True))
    assert report.damaged_chunks == (1,) and report.frames == 150


def test_pipes(clip: Path, tiny_model: Path, tmp_path: Path) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: object) -> int:
            raise io.UnsupportedOperation

        def tell(self) -> int:
            raise io.UnsupportedOperation

    path, sink = tmp_path / "clip.vtok", Pipe()
    encode_file(clip, path, EncodeOptions(model=tiny_model))
    encode_file(clip, sink, EncodeOptions(model=tiny_model))
    assert sink.getvalue() == path.read_bytes()
    decode_file(path, tmp_path / "a.npy", DecodeOptions(model=tiny_model))
    decode_file(Pipe(sink.getvalue()), tmp_path / "b.npy", DecodeOptions(model=tiny_model))
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_what_cannot_be_done_is_said(clip: Path, tiny_model: Path, tmp_path: Path) -> None:
    from vidtok.checkpoint import load_tokenizer, save_tokenizer

    path = tmp_path / "clip.vtok"
    with pytest.raises(UnknownNameError, match="did you mean"):
        encode_file(clip, path, EncodeOptions(model="defualt"))
    with pytest.raises(SourceError):
        encode_file(tmp_path / "absent.mp4", path, EncodeOptions(model=tiny_model))
    assert not path.exists() and not list(tmp_path.glob(".*"))
    encode_file(clip, path, EncodeOptions(model=tiny_model))
    with pytest.raises(OutputExistsError):
        encode_file(clip, path, EncodeOptions(model=tiny_model))
    with pytest.raises(UsageError, match="0:10"):
        decode_file(path, tmp_path / "x.mp4", DecodeOptions(model=tiny_model, frames=(3, 11)))
    with pytest.raises(WrongModelError, match="tiny"):
        decode_file(path, tmp_path / "x.mp4")
    tokenizer, _ = load_tokenizer(tiny_model)
    tokenizer.decoder.outlet.bias.add_(0.5)
    save_tokenizer(tmp_path / "other.safetensors", tokenizer, name="other")
    with pytest.raises(WrongModelError, match=r"'tiny'.*'other'"):
        decode_file(path, tmp_path / "x.mp4", DecodeOptions(model=tmp_path / "other.safetensors"))
    for options in ({"entropy": "rar"}, {"audio": "loud"}, {"quality": 0}):
        with pytest.raises(UsageError):
            EncodeOptions(**options)  # type: ignore[arg-type]
    assert not (tmp_path / "x.mp4").exists() and not list(tmp_path.glob(".*"))


def test_estimates_are_close(clip: Path, tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip.vtok"
    report = encode_file(clip, path, EncodeOptions(model=tiny_model))
    estimate = estimate_file(clip, EncodeOptions(model=tiny_model))
    assert (estimate["frames"], estimate["width"], estimate["height"]) == (10, 64, 48)
    assert 0 < report.file_bytes - estimate["bytes"] < 600


def test_the_header_tells_the_source(clip: Path, tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip.vtok"
    encode_file(clip, path, EncodeOptions(model=tiny_model, resize="32"))
    with TokenReader(path) as reader:
        header = reader.header
        assert (header.source_width, header.source_height, header.width, header.height) == (64, 48, 42, 32)
        assert (header.model_name, header.look_back, header.digits) == ("tiny", 2, (8, 5, 5))
        assert reader.fps == 24 and reader.duration == pytest.approx(10 / 24)


def test_prefetch_keeps_order_passes_errors_and_stops() -> None:
    def numbers(fail_at: int) -> object:
        for i in range(10):
            if i == fail_at:
                raise SourceError("broken")
            yield i

    assert list(prefetch(numbers(99), ahead=3)) == list(range(10))  # type: ignore[arg-type]
    seen = []
    with pytest.raises(SourceError, match="broken"):
        for i in prefetch(numbers(4)):  # type: ignore[arg-type]
            seen.append(i)
    assert seen == [0, 1, 2, 3]
    early = prefetch(numbers(99))  # type: ignore[arg-type]
    assert next(early) == 0
    early.close()
