"""RGB frames into .mp4 or .mkv with x264, tagged BT.709 limited range, timestamps exact.

Bytes depend on the frames only: x264's thread count is fixed, containers carry no dates or random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, cast

import av
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from vidtok.errors import OutputError, VidtokError
from vidtok.video.audio import AudioFeed
from vidtok.video.beside import BesideFile, cannot_write
from vidtok.video.colour import EXACT
from vidtok.video.info import Pixels

LARGEST_TICK_RATE = 2**31 - 1
CHROMA = "chroma-qp-offset=-6"  # a tenth more bytes; keeps the mean colour of grainy clips within 0.3 levels
LARGEST_SIDE = 16384
X264_THREADS = 4  # a fixed number: the bytes that x264 writes depend on it
AUDIO_AHEAD = Fraction(1, 2)  # seconds that audio packets may run ahead of the pictures
BITEXACT = 0x400  # AVFMT_FLAG_BITEXACT: no dates, no random numbers
FORMATS = {".mp4": "mp4", ".mkv": "matroska"}


class EncodedFile:
    """The .mp4 or .mkv target of a VideoWriter."""

    def __init__(self, path: Path, *, width: int, height: int, time_base: Fraction, rate: Fraction | None,
                 sample_aspect: Fraction, chroma444: bool, crf: float, audio: BinaryIO | None, force: bool,
                 primaries: int = 1, transfer: int = 1) -> None:
        self.path, self._time_base = path, time_base
        self._format = "yuv444p" if chroma444 or width % 2 or height % 2 else "yuv420p"
        self._reformatter = VideoReformatter()
        self._shift: int | None = None
        self._durations: dict[int, int] = {}  # of frames inside the encoder; x264 does not pass them on
        self._held: Any = None  # the newest packet: the last one's duration is known at the end
        self._span, self._first_dts = (2**62, -(2**62)), cast("int | None", None)
        self._feed: AudioFeed | None = None
        if max(width, height) > LARGEST_SIDE:
            raise OutputError(f"cannot write {str(path)!r}: x264 takes sides up to {LARGEST_SIDE}, not "
                              f"{width}x{height}; write .png or .npy")
        self._target = BesideFile(path, force)
        try:
            self._container: Any = av.open(self._target.file, "w", format=FORMATS[path.suffix.lower()],
                                           buffer_size=1 << 18)
            self._stream = self._add_video(width, height, rate, sample_aspect, crf, primaries, transfer)
            if audio is not None:
                self._feed = AudioFeed(audio)
                self._feed.attach(self._container)
            self._container.container_options.update(self._muxer_options())
            self._container.flags |= BITEXACT
        except VidtokError:
            self.discard()
            raise
        except (av.FFmpegError, ValueError, OSError) as error:
            self.discard()
            raise self._wrong(error) from error

    def _add_video(self, width: int, height: int, rate: Fraction | None, sample_aspect: Fraction,
                   crf: float, primaries: int, transfer: int) -> Any:
        stream: Any = self._container.add_stream(
            "libx264", rate=rate or Fraction(25),
            options={"crf": f"{crf:g}", "preset": "medium", "x264-params": CHROMA})
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, self._format
        context.thread_count = X264_THREADS
        context.sample_aspect_ratio = sample_aspect
        context.colorspace, context.color_range = 1, 1
        context.color_primaries, context.color_trc = primaries, transfer
        context.time_base = self._time_base
        stream.time_base = self._time_base
        return stream

    def _muxer_options(self) -> dict[str, str]:
        if self.path.suffix.lower() != ".mp4":
            return {}
        ticks = self._time_base.denominator
        while ticks < 10_000:
            ticks *= 2
        movie = math.lcm(ticks, *(self._feed.rates if self._feed else ()))
        return {"movie_timescale": str(movie if movie <= LARGEST_TICK_RATE else ticks),
                "video_track_timescale": str(ticks)}

    def write(self, pixels: Pixels, pts: int, duration: int) -> None:
        """One (H, W, 3) frame."""
        if self._shift is None:
            # before zero a player shows nothing: begin at zero, sound moved along
            self._shift = max(0, -pts)
        frame: Any = self._reformatter.reformat(
            av.VideoFrame.from_ndarray(pixels, format="rgb24"), format=self._format,
            dst_colorspace=Colorspace.ITU709, src_color_range=ColorRange.JPEG, dst_color_range=ColorRange.MPEG,
            interpolation=int(Interpolation.BICUBIC | EXACT), threads=1)
        frame.pts, frame.time_base = pts + self._shift, self._time_base
        self._durations[frame.pts] = duration
        self._encode(frame)

    def _encode(self, frame: Any) -> None:
        """One frame into the encoder, or None to empty it."""
        try:
            packets = self._stream.encode(frame)
        except (av.FFmpegError, ValueError, MemoryError) as error:
            raise cannot_write(self.path, error) from error
        self._mux(packets)

    def _mux(self, packets: Iterable[Any]) -> None:
        try:
            for packet in packets:
                packet.duration = self._durations.pop(packet.pts)
                self._span = min(self._span[0], packet.pts), max(self._span[1], packet.pts + packet.duration)
                self._first_dts = packet.dts if self._first_dts is None else self._first_dts
                self._mux_held()
                self._held = packet
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._wrong(error) from error

    def _mux_held(self) -> None:
        """Muxes the packet before the newest, after the sound that belongs before it."""
        if self._held is None:
            return
        if self._feed:
            self._mux_audio(self._held.dts * self._held.time_base + AUDIO_AHEAD)
        self._container.mux(self._held)
        self._held = None

    def _mux_last(self) -> None:
        """The last packet in decoding order tells MP4 when the track ends."""
        if self._held is not None and self._first_dts is not None:
            rest = self._span[1] - self._span[0] - (self._held.dts - self._first_dts)
            self._held.duration = max(1, rest)
            self._mux_held()

    def _mux_audio(self, seconds: Fraction | None) -> None:
        assert self._feed is not None
        for packet in self._feed.until(seconds, (self._shift or 0) * self._time_base):
            self._container.mux(packet)

    def _wrong(self, error: Exception) -> OutputError:
        if self._feed is None or not isinstance(error, av.ArgumentError | av.InvalidDataError | ValueError):
            return cannot_write(self.path, error)
        names = ", ".join(sorted(set(self._feed.codecs)))
        other = "write .mkv or " if self.path.suffix.lower() != ".mkv" and self._feed.fits("matroska") else ""
        return OutputError(f"cannot write {str(self.path)!r}: {names} audio does not fit into {self.path.suffix} "
                           f"files; {other}drop it with --audio drop")

    def finish(self) -> None:
        """Flushes encoder and muxer and puts the file in place."""
        try:
            self._encode(None)
            self._mux_last()
            if self._feed:
                self._mux_audio(None)
                self._feed.close()
            self._container.close()
        except VidtokError:
            raise
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._wrong(error) from error
        self._target.commit()

    def discard(self) -> None:
        """Leaves no trace."""
        try:
            container = getattr(self, "_container", None)
            if container is not None:
                container.close()
        except (av.FFmpegError, OSError, ValueError):
            pass  # what could not be written is thrown away anyway
        self._target.discard()

