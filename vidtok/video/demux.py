"""Opening a local file, choosing the video stream, and decoding it packet by packet through damage.

The file is opened by Python and handed over open, so a name never reaches FFmpeg as an address or a
pattern; whatever a container wants to open besides (playlists, references) is refused.
"""

from __future__ import annotations

import heapq
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from vidtok.errors import NoVideoError, SourceError, TooLargeError

Note = Callable[[str], None]
READ_BYTES = 1 << 18
_ENCRYPTED: tuple[Any, ...] = ("encryption_info", "encryption_init_info")
_PLAYLISTS = {"hls", "concat", "dash", "imf", "sdp", "rtsp", "ffmetadata", "webvtt", "tedcaptions"}

# FFmpeg's own words go nowhere: what matters is said once by the reader
logging.getLogger("libav").addHandler(logging.NullHandler())


class Refused(OSError):
    """A container asked for another file."""


def _refuse(url: str, flags: int, options: dict[str, str]) -> Any:
    raise Refused(f"it refers to another file ({url})")


def reason(error: BaseException) -> str:
    """The few words of a foreign error that say what is wrong."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.strip().rstrip(".")[:200].replace("\n", " ")


def open_file(path: Path) -> BinaryIO:
    """The file, open for reading; SourceError for what is missing, unreadable or a folder."""
    try:
        return open(path, "rb", buffering=0)
    except OSError as error:
        raise SourceError(f"cannot read {str(path)!r}: {reason(error)}") from error


def open_container(path: Path, file: BinaryIO) -> InputContainer:
    """The container in an open file; SourceError naming the path if there is none."""
    if os.fstat(file.fileno()).st_size == 0 and path.is_file():
        raise SourceError(f"{str(path)!r} is empty (0 bytes)")
    try:
        container = av.open(file, "r", io_open=_refuse, buffer_size=READ_BYTES, metadata_errors="replace",
                            container_options={"protocol_whitelist": "none"})
    except Refused as error:
        raise SourceError(f"{str(path)!r} is refused: {error}; pass the video file itself") from error
    except (av.FFmpegError, OSError, ValueError, RuntimeError) as error:
        raise SourceError(f"{str(path)!r} is not a video or picture that can be read: {reason(error)}") from error
    names = set(container.format.name.split(","))
    if names & _PLAYLISTS:
        container.close()
        raise SourceError(f"{str(path)!r} is a list of other files ({container.format.name}); pass the video itself")
    return container


def is_cover(stream: Any) -> bool:
    """A still picture attached to something else, as cover art is."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def choose_stream(path: Path, container: InputContainer, note: Note) -> VideoStream:
    """The first video stream that is no attached picture; says which if there are several."""
    videos = [s for s in container.streams.video if not is_cover(s)]
    if not videos:
        raise NoVideoError(f"{str(path)!r} has no video stream: {_what_instead(container)}")
    usable = [s for s in videos if s.codec_context is not None]
    if not usable:
        raise SourceError(f"{str(path)!r}: this FFmpeg has no decoder for its video stream")
    if len(videos) > 1:
        sizes = ", ".join(f"{s.codec_context.width}x{s.codec_context.height}" if s.codec_context else "unknown"
                          for s in videos)
        note(f"{len(videos)} video streams ({sizes}); the first is taken (stream {usable[0].index})")
    return usable[0]


def _what_instead(container: InputContainer) -> str:
    kinds = sorted({s.type for s in container.streams if not is_cover(s)})
    cover = " with a cover picture" if container.streams.video else ""
    if "audio" in kinds:
        return f"it is an audio file{cover}"
    return f"it has {', '.join(kinds)} only" if kinds else f"it has nothing to decode{cover}"


def check_size(path: Path, width: int, height: int, max_pixels: int) -> None:
    """TooLargeError if a frame has more pixels than allowed."""
    if width * height > max_pixels or max(width, height) > 65535:
        raise TooLargeError(f"{str(path)!r} has frames of {width}x{height} = {width * height} pixels; "
                            f"at most {max_pixels} and sides up to 65535 are allowed (--max-pixels)")


class PacketDecoder:
    """Decodes one stream of a container; survives damage and counts it.

    `packets`: seen of this stream, `discarded` of them hidden by an edit list; `errors`: packets that could
    not be decoded or were marked damaged, the last one being packet number `last_error`.

    AVI stores packets in decoding order and no display times: there the n-th frame shown gets the n-th
    smallest packet time, as many of which are known as the decoder holds frames back.
    """

    def __init__(self, path: Path, container: InputContainer, stream: VideoStream, others: list[Any],
                 on_other: Callable[[Any], None]) -> None:
        self._path, self._container, self._stream = path, container, stream
        self._others, self._on_other = others, on_other
        self.packets = self.discarded = self.errors = self.frames = self.last_error = 0
        self._times: list[int] | None = [] if container.format.name == "avi" else None

    def __iter__(self) -> Iterator[av.VideoFrame]:
        for packet in self._demux():
            if packet.stream_index != self._stream.index:
                self._on_other(packet)
                continue
            if packet.size or packet.dts is not None:
                self._look_at(packet)
            yield from self._decode(packet)

    def rest(self) -> Iterator[Any]:
        """Packets of the other streams that follow, without decoding video."""
        for packet in self._demux():
            if packet.stream_index != self._stream.index and packet.size:
                yield packet

    def _demux(self) -> Iterator[Any]:
        packets = self._container.demux([self._stream, *self._others])
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except Refused as error:
                raise SourceError(f"{str(self._path)!r} is refused: {error}") from error
            except (av.FFmpegError, OSError, ValueError):
                self._error()  # the generator is over; flush what the decoder still holds
                yield from self._flush_packets()
                return
            yield packet

    def _flush_packets(self) -> Iterator[Any]:
        packet: Any = av.Packet()
        packet.stream = self._stream
        yield packet

    def _look_at(self, packet: Any) -> None:
        self.packets += 1
        self.discarded += packet.is_discard
        if self._times is not None and packet.size and packet.dts is not None:
            heapq.heappush(self._times, packet.dts)
        if packet.is_corrupt:
            self._error()
        if self.packets == 1 and any(packet.has_sidedata(kind) for kind in _ENCRYPTED):
            raise SourceError(f"{str(self._path)!r} is encrypted; decrypt it first")

    def _error(self) -> None:
        self.errors += 1
        self.last_error = self.packets

    def _decode(self, packet: Any) -> Iterator[av.VideoFrame]:
        flush = not packet.size
        for _ in range(10_000 if flush else 1):  # a flush may hold several errors, each followed by frames
            try:
                frames = packet.decode()
            except av.EOFError:
                return
            except (av.FFmpegError, ValueError):
                self._error()
                if self._times:
                    heapq.heappop(self._times)
                if not flush:
                    return
                continue
            for frame in frames:
                self.frames += 1
                if frame.is_corrupt:
                    self._error()
                if self._times:
                    frame.pts = heapq.heappop(self._times)
                yield frame
            if flush and not frames:
                return


def matroska_cut_off(file: BinaryIO) -> bool:
    """Whether a Matroska file is shorter than its Segment says (other files: no)."""
    head = os.pread(file.fileno(), 4096, 0)
    at = head.find(b"\x18\x53\x80\x67")
    if not head.startswith(b"\x1a\x45\xdf\xa3") or at < 0 or len(head) < at + 12 or not head[at + 4]:
        return False
    first = head[at + 4]
    length = 9 - first.bit_length()
    value = int.from_bytes(head[at + 4:at + 4 + length], "big") & ((1 << 7 * length) - 1)
    unknown = value == (1 << 7 * length) - 1
    return not unknown and at + 4 + length + value > os.fstat(file.fileno()).st_size
