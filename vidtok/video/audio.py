"""Audio packets copied untouched: out of a source into a byte stream, and out of that into a video file.

The stream is NUT, which carries most codecs with exact timestamps (ticks of one sample) and can be written
and read without seeking. Where NUT cannot name a codec (E-AC-3, ALAC) or loses packets (MP3) it is fragmented
MOV. Neither takes negative times, so all are moved by ORIGIN seconds in between.
"""

from __future__ import annotations

import io
import math
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, BinaryIO

import av

from vidtok.errors import FormatError

ORIGIN = 3600  # seconds; time in the stream = time in the source + ORIGIN
NUT_MAGIC = b"nut/multimedia container\0"
_NUT_CONFUSES = {"eac3", "mp3"}  # it tags the first as AC-3, and loses packets of the second
_USUAL_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}


class _Pipe(io.RawIOBase):
    """Bytes written are kept until taken; cannot seek, so the muxer writes a stream."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, data: Any) -> int:
        self._bytes += data
        return len(data)

    def take(self) -> bytes:
        data = bytes(self._bytes)
        self._bytes.clear()
        return data


def _codec(stream: Any) -> str:
    """The name of what is in the stream, not of the decoder that was chosen for it."""
    return str(stream.codec_context.codec.canonical_name)


def carrier(streams: list[Any]) -> tuple[str, list[Any]]:
    """("nut" or "mov", the streams that it can carry); the one that carries more."""
    fits = {name: [s for s in streams if _fits(s, name)] for name in ("nut", "mov")}
    best = max(fits, key=lambda name: len(fits[name]))
    return best, fits[best]


def _mov_options(streams: list[Any]) -> dict[str, str]:
    """Fragments of a second, with starts in ticks fine enough for every stream."""
    ticks = math.lcm(*(s.codec_context.sample_rate for s in streams))
    return {"movflags": "empty_moov+default_base_moof+delay_moov", "frag_duration": "1000000",
            "movie_timescale": str(min(ticks, 2**31 - 1))}


def _fits(stream: Any, format: str) -> bool:
    if format == "nut" and _codec(stream) in _NUT_CONFUSES:
        return False
    try:
        with av.open(_Pipe(), "w", format=format) as out:
            out.add_stream_from_template(stream)
    except (av.FFmpegError, ValueError):
        return False
    return True


class AudioTap:
    """Packets pushed in, the bytes of a stream taken out."""

    def __init__(self, streams: list[Any], note: Callable[[str], None]) -> None:
        self._pipe, self._note = _Pipe(), note
        self.format, self.streams = carrier(streams)
        if len(self.streams) < len(streams):
            lost = sorted({_codec(s) for s in streams if s not in self.streams})
            note(f"its {', '.join(lost)} audio cannot be copied and is left out")
        options = {} if self.format == "nut" else _mov_options(self.streams)
        self._out: Any = av.open(self._pipe, "w", format=self.format, container_options=options)
        self._targets = {s.index: self._out.add_stream_from_template(s) for s in self.streams}
        self.indices = list(self._targets)
        self._begin: Fraction | None = None
        self._waiting: deque[Any] | None = None
        self._newest = dict.fromkeys(self._targets, Fraction(-10**9))

    def wait(self) -> None:
        """Holds packets back until `follow` lets them go, so that nothing past the end slips out."""
        self._waiting = deque()

    def begin(self, seconds: Fraction) -> None:
        """Leaves out packets that end before this."""
        self._begin = seconds

    def push(self, packet: Any) -> None:
        """One demuxed packet of one of the streams."""
        if not packet.size or packet.dts is None or packet.stream_index not in self._targets:
            return
        self._newest[packet.stream_index] = packet.dts * packet.time_base
        if self._too_early(packet):
            return
        if self._waiting is not None:
            self._waiting.append(packet)
        else:
            self._mux(packet)

    def _too_early(self, packet: Any) -> bool:
        end = (packet.dts + (packet.duration or 0)) * packet.time_base
        return self._begin is not None and end <= self._begin

    def reached(self, seconds: Fraction) -> bool:
        """Whether every stream was seen up to this time."""
        return all(newest >= seconds for newest in self._newest.values())

    def follow(self, seconds: Fraction) -> None:
        """The video is shown up to here: packets that begin before may go."""
        while self._waiting and self._waiting[0].dts * self._waiting[0].time_base < seconds:
            self._mux(self._waiting.popleft())

    def _mux(self, packet: Any) -> None:
        if self._too_early(packet):
            return
        ticks = round(ORIGIN / packet.time_base)
        packet.dts += ticks
        packet.pts = packet.dts if packet.pts is None else packet.pts + ticks
        packet.stream = self._targets[packet.stream_index]
        try:
            self._out.mux(packet)
        except (av.FFmpegError, ValueError):
            self._note("some audio packets are damaged and were left out")

    def take(self) -> bytes:
        """What was not taken yet."""
        return self._pipe.take()

    def finish(self) -> None:
        """Writes the end of the stream; `take` once more after this."""
        if self._out is not None:
            self._out.close()
            self._out = None


class AudioFeed:
    """The packets of such a stream for a muxer, in time order."""

    def __init__(self, file: BinaryIO) -> None:
        file = io.BufferedReader(file) if isinstance(file, io.RawIOBase) else file
        head = file.read(len(NUT_MAGIC))
        joined: Any = _Joined(head, file)
        try:
            self._container = av.open(joined, "r", format="nut" if head == NUT_MAGIC else "mov",
                                      metadata_errors="replace")
        except (av.FFmpegError, OSError, ValueError) as error:
            raise FormatError("the copied audio cannot be read; decode without it (--audio drop)") from error
        streams = list(self._container.streams.audio)
        self.codecs = [_codec(s) for s in streams]
        self.rates = [s.codec_context.sample_rate for s in streams]
        self._streams, self._targets = streams, dict[int, Any]()
        self._last: dict[int, Any] = {}  # one packet a stream, until the next one tells its duration
        self._ready: deque[Any] = deque()
        self._packets: Iterator[Any] | None = iter(self._container.demux(streams))

    def attach(self, out: Any) -> None:
        """Adds its streams to a container being written; ValueError if that cannot hold one."""
        self._targets = {s.index: out.add_stream_from_template(s) for s in self._streams}
        for target in self._targets.values():
            usual = _USUAL_LAYOUTS.get(target.codec_context.layout.nb_channels)
            if usual and target.codec_context.layout.name.endswith("channels"):
                target.codec_context.layout = usual  # .mp4 refuses PCM that says no more than how many

    def fits(self, format: str) -> bool:
        """Whether a container format can hold all its streams."""
        return all(_fits(s, format) for s in self._streams)

    def until(self, seconds: Fraction | None, shift: Fraction) -> Iterator[Any]:
        """Packets that begin before `seconds` (None: all) after a move by `shift` seconds."""
        move = shift - ORIGIN
        while (packet := self._peek()) is not None:
            if seconds is not None and packet.dts * packet.time_base + move > seconds:
                return
            self._ready.popleft()
            ticks = round(move / packet.time_base)
            packet.dts, packet.pts = packet.dts + ticks, packet.pts + ticks
            packet.stream = self._targets[packet.stream_index]
            yield packet

    def _peek(self) -> Any:
        while not self._ready and self._packets is not None:
            packet = next(self._packets, None)
            if packet is None:
                self._packets = None
                self._ready.extend(sorted(self._last.values(), key=lambda p: p.dts * p.time_base))
            elif packet.size and packet.dts is not None:
                self._queue(packet)
        return self._ready[0] if self._ready else None

    def _queue(self, packet: Any) -> None:
        packet.pts = packet.dts if packet.pts is None else packet.pts
        before = self._last.get(packet.stream_index)
        if before is not None:
            before.duration = max(0, packet.dts - before.dts)
            packet.duration = packet.duration or before.duration
            self._ready.append(before)
        self._last[packet.stream_index] = packet

    def close(self) -> None:
        """Lets go of the stream."""
        self._container.close()


class _Joined:
    """A file whose first bytes were read already; only goes forward."""

    def __init__(self, head: bytes, file: BinaryIO) -> None:
        self._head, self._file = head, file

    def read(self, size: int) -> bytes:
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
            return data
        return self._file.read(size)
