"""Small videos made for a test, with PyAV alone."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from vidtok.video.info import Pixels


def moving(frames: int, width: int = 64, height: int = 48) -> Pixels:
    """(T, H, W, 3): a gradient that moves, with a red square at the top left."""
    y, x = np.mgrid[:height, :width]
    out = np.empty((frames, height, width, 3), np.uint8)
    for t in range(frames):
        out[t] = np.stack([(x * 3 + t * 4) % 256, (y * 4 + t * 2) % 256, (x + y + t * 3) % 256], -1)
    out[:, : height // 4, : width // 4] = (255, 0, 0)
    return out


def write_video(path: Path, pixels: Pixels, *, pts: Sequence[int] | None = None,
                time_base: Fraction = Fraction(1, 25), codec: str = "libx264", pix_fmt: str = "yuv420p",
                tags: tuple[int, int, int, int] | None = None, options: dict[str, str] | None = None,
                container_options: dict[str, str] | None = None, audio: str | None = None,
                sample_rate: int = 48000) -> Path:
    """A file as other programs would write it. `tags`: matrix, range, primaries, transfer."""
    count, height, width, _ = pixels.shape
    pts = range(count) if pts is None else pts
    with av.open(str(path), "w", container_options=container_options or {}) as out:
        stream: Any = out.add_stream(codec, rate=Fraction(25), options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = stream.time_base = time_base
        colours: dict[str, int] = {}
        if tags:
            context = stream.codec_context
            context.colorspace, context.color_range, context.color_primaries, context.color_trc = tags
            colours = {"dst_colorspace": {1: 1, 6: 5, 9: 9}[tags[0]], "dst_color_range": tags[1]}
        sound: Any = None
        if audio:
            sound = out.add_stream(audio, rate=sample_rate)
            sound.codec_context.layout = "stereo"
        out.start_encoding()
        for picture, tick in zip(pixels, pts, strict=True):
            frame: Any = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = frame.reformat(format=pix_fmt, **colours)
            frame.pts, frame.time_base = tick, time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound:
            _write_tone(out, sound, float((pts[-1] + 1) * time_base), sample_rate)
    return path


def _write_tone(out: Any, stream: Any, seconds: float, rate: int) -> None:
    size = stream.codec_context.frame_size or 1024
    resampler = av.AudioResampler(format=stream.codec_context.format, layout="stereo", rate=rate)
    for start in range(0, int(seconds * rate), size):
        wave = (np.sin(np.arange(start, start + size) / 20) * 8000).astype(np.int16)
        frame: Any = av.AudioFrame.from_ndarray(np.repeat(wave, 2)[None], format="s16", layout="stereo")
        frame.rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        for piece in resampler.resample(frame):
            out.mux(stream.encode(piece))
    out.mux(stream.encode(None))


def encode_picture(codec: str, pixels: Pixels, pix_fmt: str, **colours: int) -> bytes:
    """One picture of a still-image codec."""
    encoder: Any = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.pix_fmt = pixels.shape[1], pixels.shape[0], pix_fmt
    encoder.time_base = Fraction(1, 25)
    frame: Any = av.VideoFrame.from_ndarray(pixels, format="rgba" if pixels.shape[2] == 4 else "rgb24")
    frame = frame.reformat(format=pix_fmt, **colours)
    frame.pts = 0
    return b"".join(bytes(p) for p in [*encoder.encode(frame), *encoder.encode(None)])
