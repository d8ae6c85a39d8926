"""Audio packets copied untouched: out of a source into a NUT byte stream, and out of that into a video file.

NUT carries nearly every codec with exact timestamps (ticks of one sample), can be written and read as a
stream, and is described in public.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, BinaryIO

import av


class _Pipe(io.RawIOBase):
    """Bytes written are kept until taken; cannot seek, so the muxer writes a stream."""

    def __init__(self) -> None:
        self.bytes = bytearray()

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, data: Any) -> int:
        self.bytes += data
        return len(data)

    def take(self) -> bytes:
        data = bytes(self.bytes)
        self.bytes.clear()
        return data


class AudioTap:
    """Packets pushed in, NUT bytes taken out. Times stay those of the source."""

    def __init__(self, streams: list[Any], note: Callable[[str], None]) -> None:
        self._pipe = _Pipe()
        self._note = note
        self._out: Any = av.open(self._pipe, "w", format="nut")
        self._targets: dict[int, Any] = {}
        for stream in streams:
            self._targets[stream.index] = self._out.add_stream_from_template(stream)

    def begin(self, seconds: Fraction) -> None:
        """Packets that end before this are left out from now on."""

    def push(self, packet: Any) -> None:
        """One demuxed packet of one of the streams."""
        if not packet.size or packet.dts is None:
            return
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
    """Packets of a NUT stream for a muxer, in time order."""

    def __init__(self, file: BinaryIO, out: Any) -> None:
        self._container = av.open(file, "r", format="nut", metadata_errors="replace")
        self._targets = {s.index: out.add_stream_from_template(s) for s in self._container.streams.audio}
        streams = self._container.streams.audio
        self._rates = tuple(s.codec_context.sample_rate for s in streams)
        self.words = ", ".join(s.codec_context.name for s in streams)
        self._packets: Iterator[Any] = iter(self._container.demux(self._container.streams.audio))
        self._next: Any = None

    def rates(self) -> tuple[int, ...]:
        """Samples per second of each stream."""
        return self._rates

    def until(self, seconds: Fraction | None, shift: Fraction) -> Iterator[Any]:
        """Packets that begin before `seconds` (None: all), moved by `shift` seconds."""
        while (packet := self._peek()) is not None:
            begin = packet.dts * packet.time_base + shift
            if seconds is not None and begin > seconds:
                return
            self._next = None
            ticks = round(shift / packet.time_base)
            packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
            packet.stream = self._targets[packet.stream_index]
            yield packet

    def _peek(self) -> Any:
        while self._next is None:
            self._next = next(self._packets, None)
            if self._next is None:
                return None
            if not self._next.size or self._next.dts is None:
                self._next = None
        return self._next

    def close(self) -> None:
        """Lets go of the stream."""
        self._container.close()
