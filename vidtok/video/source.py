"""VideoReader: a file in, upright RGB frames with exact timestamps out, a few frames in memory at a time."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np

from vidtok.errors import SourceError, UsageError
from vidtok.video.audio import AudioTap
from vidtok.video.colour import ToRgb, colour_tags, has_alpha
from vidtok.video.demux import (
    PacketDecoder,
    check_size,
    choose_stream,
    matroska_cut_off,
    open_container,
    open_file,
    reason,
)
from vidtok.video.info import Frame, Pixels, VideoInfo
from vidtok.video.orient import Orientation
from vidtok.video.resize import Resize
from vidtok.video.timing import Repair, Resampler, Timed

ASSUMED_RATE = Fraction(25)
Decoded = av.VideoFrame


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)


class VideoReader:
    """Frames of the first video stream, of a picture, or of a GIF.

    `resize`: wanted size. `fps`: another frame rate, each frame of the new clock showing the last source
    frame not after it. `start`: seconds after the first frame to begin at. `frames`: at most so many.
    `strict`: damage is an error and not a warning. `audio`: copy audio packets, see `take_audio`.
    `warn`: gets each note once. Errors: SourceError and its kinds, UsageError for bad arguments.
    """

    def __init__(self, path: str | Path, *, resize: Resize | None = None, fps: Fraction | None = None,
                 start: float = 0.0, frames: int | None = None, max_pixels: int = 2**28, strict: bool = False,
                 audio: bool = False, warn: Callable[[str], None] | None = None) -> None:
        _check_arguments(fps, start, frames)
        self.path = Path(path)
        self.notes: list[str] = []
        self.damaged = False
        self.last_duration = 0
        self._resize, self._fps, self._start, self._limit = resize, fps, start, frames
        self._max_pixels, self._strict, self._copy_audio = max_pixels, strict, audio
        self._say = warn or _warn
        self._iterated = False
        self._newest: int | None = None
        self._jumped = False
        self._open()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the file."""
        self._container.close()
        self._file.close()

    def __iter__(self) -> Iterator[Frame]:
        """The frames, once."""
        assert not self._iterated, "a VideoReader can be iterated once"
        self._iterated = True
        shown: Timed[Decoded] | None = None
        pixels: Pixels | None = None
        for timed in itertools.islice(self._timeline(), self._limit):
            if pixels is None or shown is None or shown.item is not timed.item:
                pixels = self._picture(timed.item)
            shown = timed
            self.last_duration = timed.duration
            yield Frame(pixels, timed.pts, timed.duration)
        self._finish(shown)

    def clips(self, frames: int) -> Iterator[tuple[Pixels, list[int]]]:
        """Consecutive clips of up to `frames` frames: ((T, H, W, 3) uint8, T pts)."""
        if frames < 1:
            raise UsageError(f"a clip has at least 1 frame, got {frames}")
        stream = iter(self)
        while batch := list(itertools.islice(stream, frames)):
            yield np.stack([f.pixels for f in batch]), [f.pts for f in batch]

    def take_audio(self) -> bytes:
        """Audio copied so far and not yet taken: the next piece of a NUT stream; whole after the last frame."""
        return self._tap.take() if self._tap else b""

    @property
    def audio_format(self) -> str | None:
        """"nut" or "mov": what `take_audio` gives; None without audio."""
        return self._tap.format if self._tap else None

    # opening

    def _open(self) -> None:
        self._file = open_file(self.path)
        try:
            self._container = open_container(self.path, self._file)
        except BaseException:
            self._file.close()
            raise
        try:
            self._set_up()
        except BaseException:
            self.close()
            raise

    def _set_up(self) -> None:
        self._stream = choose_stream(self.path, self._container, self._note)
        context = self._stream.codec_context
        check_size(self.path, context.width, context.height, self._max_pixels)
        self._prepare(context)
        self._base = self._stream.time_base or Fraction(1, 90000)
        self._audio_streams = [s for s in self._container.streams.audio if s.codec_context is not None]
        self._tap = AudioTap(self._audio_streams, self._note) if self._copy_audio and self._audio_streams else None
        if self._tap and (self._start or self._limit is not None):
            self._tap.wait()
        self._decoder = self._new_decoder()
        frames = iter(self._decoder)
        first = next(frames, None)
        if first is None:
            raise SourceError(f"{str(self.path)!r}: not one frame of its {context.name} video could be decoded")
        self._decoded: Iterator[Decoded] = itertools.chain([first], frames)
        self._describe(first)

    def _prepare(self, context: Any) -> None:
        context.thread_type = "AUTO"  # safe to close early: packets from a container are FFmpeg's own, see ordinary.py
        # the decoder itself refuses what a later header may announce
        context.options = {"max_pixels": str(max(self._max_pixels, 1))}

    def _new_decoder(self) -> PacketDecoder:
        return PacketDecoder(self.path, self._container, self._stream, self._copied(self._container),
                             self._keep_audio)

    def _copied(self, container: Any) -> list[Any]:
        """The audio streams of a container that are copied."""
        return [container.streams[index] for index in self._tap.indices] if self._tap else []

    def _keep_audio(self, packet: Any) -> None:
        if self._tap:
            self._tap.push(packet)

    def _describe(self, first: Decoded) -> None:
        check_size(self.path, first.width, first.height, self._max_pixels)
        self._orientation = Orientation.of_frame(first)
        self._stored_size = first.width, first.height
        source_width, source_height = self._orientation.size(first.width, first.height)
        width, height = scaled = source_width, source_height
        if self._resize:
            width, height = self._resize.size(width, height)
            scaled = self._resize.scaled(source_width, source_height)
            check_size(self.path, *scaled, self._max_pixels)
        rate = self._nominal_rate()
        self._step = 1 / (rate or ASSUMED_RATE) / self._base
        self._timed = first.pts is not None
        start = first.pts if first.pts is not None else self._scan_start()
        self._repair: Repair[Decoded] = Repair(self._step, start, self._note, self._last_shown)
        self._resampler: Resampler[Decoded] | None = Resampler(self._fps, self._base) if self._fps else None
        tags = colour_tags(first, self._stream.codec_context.name)
        self.info = VideoInfo(
            width=width, height=height, source_width=source_width, source_height=source_height,
            rotation=self._orientation.rotation, mirrored=self._orientation.mirrored,
            sample_aspect=self._sample_aspect(source_width, source_height, width, height),
            time_base=self._resampler.time_base if self._resampler else self._base,
            rate=self._fps or rate, colour=tags, pixel_format=first.format.name,
            bit_depth=max((c.bits for c in first.format.components), default=8), alpha=has_alpha(first.format),
            chroma444=_full_chroma(first.format), codec=self._stream.codec_context.name,
            container=self._container.format.name, stream_index=self._stream.index, first_pts=start,
            frames_hint=self._frames_hint(rate), duration_hint=self._duration_hint(),
            audio_streams=tuple(_audio_words(s) for s in self._audio_streams),
        )
        self._to_rgb = ToRgb(tags, *self._orientation.size(*scaled))
        self._note_oddities(first)

    def _last_shown(self, pts: int) -> int | None:
        """In MP4 a packet's duration is that of decoding order; the last frame lasts until the track ends."""
        seen, stream = self._decoder, self._stream
        whole = not self._jumped and seen.packets == stream.frames and not seen.discarded and not seen.errors
        if not whole or not stream.duration or "mov" not in self._container.format.name:
            return None
        rest = self.info.first_pts + stream.duration - pts
        # a few ticks beside the usual duration are rounding somewhere
        return rest if rest > 0 and abs(rest - self._step) > self._step / 20 else None

    def _nominal_rate(self) -> Fraction | None:
        for rate in (self._stream.average_rate, self._stream.guessed_rate, self._stream.base_rate):
            if rate is not None and 0 < rate <= 100_000:
                return Fraction(rate)
        return None

    def _sample_aspect(self, source_width: int, source_height: int, width: int, height: int) -> Fraction:
        aspect = self._stream.sample_aspect_ratio or Fraction(1)
        if aspect <= 0:
            aspect = Fraction(1)
        if self._orientation.transpose:
            aspect = 1 / aspect
        if self._resize and self._resize.short is None and not self._resize.crop:
            aspect *= Fraction(source_width * height, source_height * width)
        return aspect.limit_denominator(10_000) or Fraction(1)

    def _duration_hint(self) -> float | None:
        if self._stream.duration:
            return float(self._stream.duration * self._base)
        return self._container.duration / av.time_base if self._container.duration else None

    def _frames_hint(self, rate: Fraction | None) -> int | None:
        seconds = self._duration_hint()
        count = self._stream.frames or (round(seconds * rate) if seconds and rate else 0)
        if seconds and (self._fps or self._start):
            count = int(max(0.0, seconds - self._start) * float(self._fps or rate or ASSUMED_RATE) + 0.5)
        if self._limit is not None:
            count = min(count or self._limit, self._limit)
        return count or None

    def _note_oddities(self, first: Decoded) -> None:
        info = self.info
        if info.alpha and self._stream.codec_context.name != "gif":
            self._note("has transparency; shown over black")
        if self._stream.metadata.get("alpha_mode") == "1" and not info.alpha:
            self._note("has a transparency layer, which is dropped")
        if info.colour.hdr:
            self._note(f"is HDR ({info.colour.hdr}); treated as SDR, so colours may look flat")
        if first.interlaced_frame:
            self._note("is interlaced; frames are kept as they are")
        if self._nominal_rate() is None or (first.pts is None and info.first_pts == 0 and not self._fps):
            self._note(f"has no timestamps; {info.rate or ASSUMED_RATE} frames per second assumed")

    def _scan_start(self) -> int:
        """The first frame's pts if it has none itself: count back from the first packet that has one."""
        with open_file(self.path) as file, open_container(self.path, file) as container:
            missing = 0
            known: list[int] = []
            try:
                for packet in container.demux(container.streams[self._stream.index]):
                    if packet.size and packet.pts is None and not known:
                        missing += 1
                    elif packet.pts is not None:
                        known.append(packet.pts)
                    if len(known) >= 32 or missing > 100_000:
                        break
            except (av.FFmpegError, OSError, ValueError):
                pass  # what was seen so far is enough
        return min(known) - round(missing * self._step) if known else 0

    # frames

    def _timeline(self) -> Iterator[Timed[Decoded]]:
        """Decoded frames with final pts, after --start and --fps."""
        first = self.info.first_pts + Fraction(self._start) / self._base
        if self._start:
            self._jump(first)
        timed: Iterator[Timed[Decoded]] = self._repair.run((f, f.pts, f.duration or 0) for f in self._frames())
        if self._start:
            timed = itertools.dropwhile(lambda t: t.pts + Fraction(1, 2) < first, timed)
        if self._tap:
            timed = self._audio_in_step(timed)
        return self._resampler.run(timed) if self._resampler else timed

    def _jump(self, first: Fraction) -> None:
        """Seeks a second time opened file to a key frame not after `first`; stays where it is if that fails."""
        if self._tap:
            self._tap.begin(first * self._base)
        if first - self.info.first_pts < 2 / self._base or not self._timed:
            return
        file = open_file(self.path)
        container = open_container(self.path, file)
        stream: Any = container.streams[self._stream.index]
        self._prepare(stream.codec_context)
        decoder = PacketDecoder(self.path, container, stream, self._copied(container), self._keep_audio)
        try:
            container.seek(math.floor(first), stream=stream)
            frames = iter(decoder)
            frame = next(frames, None)
        except (av.FFmpegError, OSError):
            frame = None
        if frame is None or not frame.key_frame or frame.pts is None or frame.pts > first:
            container.close()
            file.close()
            return
        self.close()
        self._file, self._container, self._stream, self._decoder = file, container, stream, decoder
        self._decoded, self._jumped = itertools.chain([frame], frames), True

    def _frames(self) -> Iterator[Decoded]:
        for frame in self._decoded:
            check_size(self.path, frame.width, frame.height, self._max_pixels)
            if (frame.width, frame.height) != self._stored_size:
                self._note(f"changes size on the way; all frames are scaled to the first one's "
                           f"{self.info.source_width}x{self.info.source_height}")
            self._newest = frame.pts
            yield frame
        yield from self._lost_tail()
        self._check_whole()

    def _lost_tail(self) -> Iterator[Decoded]:
        """Frames that a decoder with several threads swallows when the end is damaged: decoded again with one."""
        seen = self._decoder
        lost = seen.packets - seen.discarded - seen.frames
        if lost <= 0 or seen.last_error < seen.packets - 64 or self._newest is None:
            return
        newest = self._newest
        with open_file(self.path) as file, open_container(self.path, file) as container:
            stream: Any = container.streams[self._stream.index]
            stream.codec_context.thread_type = "NONE"
            try:
                container.seek(newest, stream=stream)
            except (av.FFmpegError, OSError):
                return
            for frame in PacketDecoder(self.path, container, stream, [], lambda packet: None):
                if frame.pts is not None and frame.pts > newest:
                    newest = frame.pts
                    seen.frames += 1
                    yield frame

    def _audio_in_step(self, timed: Iterator[Timed[Decoded]]) -> Iterator[Timed[Decoded]]:
        """Tells the audio copy where the video begins and how far it is."""
        assert self._tap is not None
        begun = False
        for frame in timed:
            if not begun and self._start:
                self._tap.begin(frame.pts * self._base)
            begun = True
            self._tap.follow((frame.pts + frame.duration) * self._base)
            yield frame

    def _picture(self, frame: Decoded) -> Pixels:
        try:
            pixels = self._to_rgb(frame)
        except (av.FFmpegError, ValueError) as error:
            raise SourceError(f"{str(self.path)!r}: cannot convert {frame.format.name}: {reason(error)}") from error
        if self._to_rgb.saw_transparency:
            self._note("has transparency; shown over black")
        return self._centre(self._orientation.apply(pixels))

    def _centre(self, pixels: Pixels) -> Pixels:
        """What --resize WxH:crop keeps of a scaled picture; without it all."""
        top, left = (pixels.shape[0] - self.info.height) // 2, (pixels.shape[1] - self.info.width) // 2
        if not top and not left and pixels.shape[:2] == (self.info.height, self.info.width):
            return pixels
        return np.ascontiguousarray(pixels[top : top + self.info.height, left : left + self.info.width])

    def _check_whole(self) -> None:
        """After the last frame: was there damage, or less than announced?"""
        seen, announced = self._decoder, self._stream.frames
        if self._jumped and not seen.errors:
            return
        if seen.errors:
            self._damage(f"is damaged: {seen.frames} frames could be decoded, {seen.errors} errors; kept what decodes")
        elif seen.packets < announced:
            self._damage(f"is cut off: {seen.packets} of {announced} announced frames are there")
        elif "mov" in self.info.container and seen.frames + seen.discarded < announced:
            self._damage(f"is incomplete: {seen.frames} of {announced} announced frames could be decoded")
        elif matroska_cut_off(self._file):
            self._damage(f"is cut off: {seen.frames} frames are there")

    def _damage(self, words: str) -> None:
        self.damaged = True
        if self._strict:
            raise SourceError(f"{str(self.path)!r} {words} (--strict)")
        self._note(words)

    def _finish(self, shown: Timed[Decoded] | None) -> None:
        if shown is None:
            raise SourceError(f"{str(self.path)!r} has no frame {self._start} s after its first one (--start)")
        if self._tap:
            end = (shown.pts + shown.duration) * self.info.time_base
            if self._limit is not None:
                self._rest_of_audio(end)
            self._tap.follow(end if self._limit is not None else Fraction(10**9))
            self._tap.finish()

    def _rest_of_audio(self, end: Fraction) -> None:
        """After the last wanted frame: audio that lies a little behind the video in the file."""
        assert self._tap is not None
        for packet in itertools.islice(self._decoder.rest(), 5000):
            if self._tap.reached(end):
                return
            self._tap.push(packet)

    def _note(self, words: str) -> None:
        if words not in self.notes:
            self.notes.append(words)
            self._say(f"{printable(self.path.name)}: {words}")


def printable(name: str) -> str:
    """The name with what could steer a terminal written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in name)


def _check_arguments(fps: Fraction | None, start: float, frames: int | None) -> None:
    if fps is not None and not 0 < fps <= 1000:
        raise UsageError(f"{fps} frames per second is out of range; above 0 and at most 1000 (--fps)")
    if not 0 <= start < 1e9:
        raise UsageError(f"cannot start at {start} s; 0 or more seconds after the first frame (--start)")
    if frames is not None and frames < 1:
        raise UsageError(f"cannot take {frames} frames; 1 or more (--frames)")


def _full_chroma(format: av.VideoFormat) -> bool:
    colours = [c for c in format.components if not c.is_alpha]
    return len(colours) >= 3 and all(c.width == format.width and c.height == format.height for c in colours)


def _audio_words(stream: Any) -> str:
    context = stream.codec_context
    return f"{context.name} {context.sample_rate} Hz {context.layout.name}"
