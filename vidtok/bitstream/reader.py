"""TokenReader: header, counts, timestamps and ids of a token file; only the chunks asked for are read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from io import BufferedReader
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO
from zlib import crc32

from vidtok.bitstream.layout import Layout
from vidtok.bitstream.records import (
    AUDIO,
    CHUNK,
    TRAILER,
    ChunkHead,
    check_sizes,
    check_volume,
    parse_audio,
    parse_chunk,
)
from vidtok.bitstream.source import Front, Source, read_front, read_header
from vidtok.bitstream.trailer import (
    FOOTER_BYTES,
    Index,
    Summary,
    check_positions,
    parse_footer,
    parse_trailer,
)
from vidtok.bitstream.views import Chunk, ChunkInfo, ChunkList, IdsView
from vidtok.errors import DamagedError, FormatError, TruncatedError, UnsupportedError, UsageError

if TYPE_CHECKING:
    import numpy as np

RECOVER_HINT = "`vidtok verify` names what is whole, --skip-damaged reads it"


class TokenReader:
    """Reads a token file from a path or a binary file object; a pipe only through `iter_chunks`.

    Opening reads header and trailer. A file without a sound trailer is refused, unless `recover`: then
    whatever chunks are whole can be read, `problems` says what is wrong. Not for use by two threads at once.
    """

    def __init__(self, source: str | os.PathLike[str] | BinaryIO, *, recover: bool = False) -> None:
        self.source = Source(source)
        self.recover = recover
        self.problems: list[str] = []
        self._index: Index | None = None
        self._summary: Summary | None = None
        self._last: tuple[int, np.ndarray] | None = None
        self._stages: dict[int, int] = {}  # of segments that hold fewer than others, as far as they were met
        try:
            self.header, self.seed = read_header(self.source)
            self.header_end = self._trailer_start = self.source.position
            self.layout = Layout(self.header)
            if self.seekable:
                self._open_index()
        except BaseException:
            self.close()
            raise

    # --- what is known at once ------------------------------------------------------------------

    @property
    def seekable(self) -> bool:
        """Whether chunks can be read in any order (not a pipe)."""
        return self.source.size is not None

    @property
    def index(self) -> Index:
        """Where the chunks stand."""
        if self._index is None:
            raise UsageError(f"{self.source.name} is a pipe: read it with iter_chunks first")
        return self._index

    @property
    def summary(self) -> Summary:
        """Counts and times of the trailer; on a pipe only after the last chunk."""
        if self._summary is None:
            raise UsageError(f"{self.source.name} is a pipe: its counts stand at its end; iterate first")
        return self._summary

    @property
    def frames(self) -> int:
        """Frames of the video (0 where ids were imported and none are known)."""
        return self.summary.frames

    @property
    def latents(self) -> int:
        """Latent frames of the video."""
        return self.summary.latents

    @property
    def segments(self) -> int:
        """Stretches with tokenizer state of their own."""
        return self.chunk_info(len(self.index) - 1).segment + 1 if len(self.index) else 0

    @property
    def damaged_source(self) -> bool:
        """Whether the encoder met damage in the video."""
        return self.summary.damaged_source

    @property
    def last_duration(self) -> int:
        """Ticks the last frame stays."""
        return self.summary.last_duration

    @property
    def audio_bytes(self) -> int:
        """Bytes of the audio records."""
        return self.summary.audio_bytes

    @property
    def file_bytes(self) -> int:
        """Bytes of the file (of a pipe: read so far)."""
        return self.source.position if self.source.size is None else self.source.size

    @property
    def trailer_start(self) -> int:
        """Where the records before the trailer end."""
        return self._trailer_start

    @property
    def fps(self) -> Fraction | None:
        """Frames per second if constant (timestamps rounded to their ticks count as constant), else None."""
        head, summary = self.header, self._summary
        if head.time_base is None:
            return None
        if summary is None or summary.nominal or summary.frames == 1:
            return head.fps
        return 1 / (head.frame_step * head.time_base) if summary.steady and head.frame_step else None

    @property
    def duration(self) -> float | None:
        """Seconds from the first frame's start to the last one's end; None without timestamps."""
        if self.header.time_base is None:
            return None
        summary = self.summary
        return float((summary.last_pts - summary.first_pts + summary.last_duration) * self.header.time_base)

    # --- chunks and where they stand ------------------------------------------------------------

    @property
    def chunks(self) -> Sequence[ChunkInfo]:
        """All chunks, in order."""
        return ChunkList(self)

    def chunk_info(self, number: int) -> ChunkInfo:
        """Where chunk `number` stands."""
        index = self.index
        if not 0 <= number < len(index):
            raise UsageError(f"chunk {number} is not one of the {len(index)} there are")
        place = self.layout.place(number)
        latents, frames = self.layout.counts(number, self.latents, self.frames)
        return ChunkInfo(
            number=number,
            segment=place.segment,
            first_latent=place.first_latent,
            latents=latents,
            first_frame=place.first_frame,
            frames=frames,
            offset=index.starts[number],
            bytes=index.lengths[number],
        )

    def chunk_of_latent(self, latent: int) -> int:
        """Number of the chunk that holds latent frame `latent`."""
        if not 0 <= latent < self.latents:
            raise UsageError(f"latent frame {latent} is not one of the {self.latents} there are")
        return self.layout.chunk_of_latent(latent)

    def chunks_for_latents(self, start: int, stop: int) -> range:
        """Numbers of the chunks that hold latent frames [start, stop)."""
        if not 0 <= start <= stop <= self.latents:
            raise UsageError(f"latent frames {start}:{stop} are not within 0:{self.latents}")
        if start == stop:
            return range(0)
        return range(self.layout.chunk_of_latent(start), self.layout.chunk_of_latent(stop - 1) + 1)

    def latents_for_frames(self, start: int, stop: int) -> tuple[int, int]:
        """Latent frames [first, end) that hold frames [start, stop)."""
        if not 0 <= start <= stop <= self.frames:
            raise UsageError(f"frames {start}:{stop} are not within 0:{self.frames}")
        if start == stop:
            return 0, 0
        locate, segment = self.header.geometry.locate_frame, self.header.segment_frames
        return locate(start, segment)[1], locate(stop - 1, segment)[1] + 1

    # --- ids ------------------------------------------------------------------------------------

    @property
    def ids(self) -> IdsView:
        """All ids, (t, h, w) or (t, h, w, K): slices read only the chunks they touch."""
        return IdsView(self)

    def ids_for_frames(self, start: int, stop: int) -> np.ndarray:
        """The ids of the latent frames that hold frames [start, stop)."""
        first, end = self.latents_for_frames(start, stop)
        return self.read_latents(first, end)

    def read_latents(self, start: int, stop: int) -> np.ndarray:
        """The ids of latent frames [start, stop), which are within 0 .. latents."""
        import numpy as np

        parts = []
        for number in self.chunks_for_latents(start, stop):
            first = self.layout.place(number).first_latent
            parts.append(self.read_chunk(number)[max(start - first, 0) : stop - first])
        if not parts:
            return np.empty(self.header.grid_shape(0), self.header.id_type)
        return parts[0].copy() if len(parts) == 1 else np.concatenate(parts)

    def read_chunk(self, number: int) -> np.ndarray:
        """The ids (n, h, w[, K]) of one chunk, checked; read-only, of `header.id_type`."""
        if self._last is None or self._last[0] != number:
            from vidtok.bitstream.coding import decode_stages

            try:
                head = self._chunk_head(number)
                ids = decode_stages(self._payloads(head), head, self.header)
            except FormatError as error:
                raise _name_chunk(error, number) from None
            ids.flags.writeable = False
            self._last = number, ids
        return self._last[1]

    def read_head(self, number: int) -> ChunkHead:
        """The head of one chunk, checked."""
        try:
            return self._chunk_head(number)
        except FormatError as error:
            raise _name_chunk(error, number) from None

    def read_payloads(self, number: int) -> tuple[ChunkHead, list[bytes]]:
        """Head and stored bytes per stage of one chunk, checksums of the bytes checked."""
        try:
            head = self._chunk_head(number)
            payloads = self._payloads(head)
            for payload, stage in zip(payloads, head.stages, strict=True):
                if crc32(payload) != stage.payload_crc:
                    raise DamagedError("its stored bytes are damaged: the checksum does not fit")
        except FormatError as error:
            raise _name_chunk(error, number) from None
        return head, payloads

    def _payloads(self, head: ChunkHead) -> list[bytes]:
        check_sizes(head, self.header)
        return [self.source.read(stage.payload_bytes) for stage in head.stages]

    def _chunk_head(self, number: int) -> ChunkHead:
        """The head of a chunk, held against index and trailer; the source then stands at its payload."""
        info, index = self.chunk_info(number), self.index
        if not info.bytes:
            raise DamagedError("it has been lost")
        self.source.seek(info.offset)
        front = read_front(self.source, self.seed)
        if front.kind != CHUNK or front.record_bytes != info.bytes or front.crc != index.crcs[number]:
            raise DamagedError("the index knows another chunk in its place")
        head = parse_chunk(front.head, self.header, self.layout)
        if head.number != number or (head.latents, head.frames) != (info.latents, info.frames):
            raise DamagedError(
                f"it says it is chunk {head.number} with {head.latents} latent frames, {head.frames} frames"
            )
        self.check_stages(info.segment, head)
        return head

    def check_stages(self, segment: int, head: ChunkHead) -> None:
        """DamagedError if a chunk has other stages than those of its segment that were met before."""
        known = self._stages.setdefault(segment, len(head.stages)) if self.header.varying else len(head.stages)
        if known != len(head.stages):
            raise DamagedError(f"it has {len(head.stages)} stages, another chunk of its segment {known}")

    def segment_stages(self) -> list[int]:
        """How many stages each segment holds, 0 where no chunk of it has a whole head. Reads a head of each."""
        if not self.header.varying:
            return [self.header.stages] * self.segments
        found = [0] * self.segments
        for chunk in self.chunks if self.seekable else ():
            if not found[chunk.segment]:
                with contextlib.suppress(FormatError):
                    found[chunk.segment] = len(self._chunk_head(chunk.number).stages)
        for segment, stages in self._stages.items():
            found[segment] = stages
        return found

    # --- timestamps -----------------------------------------------------------------------------

    def chunk_pts(self, number: int) -> Sequence[int]:
        """Timestamps, in ticks, of the frames of one chunk."""
        info, summary = self.chunk_info(number), self.summary
        if summary.steady and self.header.frame_step:
            step = self.header.frame_step
            first = summary.first_pts + info.first_frame * step
            return range(first, first + info.frames * step, step)
        return self.read_head(number).pts

    @property
    def pts(self) -> Sequence[int]:
        """Timestamps, in ticks, of all frames."""
        return self.all_pts()

    def all_pts(self, *, repair: bool = False) -> Sequence[int]:
        """Timestamps of all frames; with `repair` those of damaged chunks are filled in evenly."""
        summary, step = self.summary, self.header.frame_step
        if summary.steady and step:
            return range(summary.first_pts, summary.first_pts + summary.frames * step, step)
        known: list[int | None] = []
        for info in self.chunks if self.header.has_frames else ():
            try:
                known.extend(self.chunk_pts(info.number))
            except DamagedError:
                if not repair:
                    raise
                known.extend([None] * info.frames)
        from vidtok.bitstream.recovery import fill_times

        return fill_times(known, max(step, 1))

    # --- from front to back ---------------------------------------------------------------------

    def iter_chunks(
        self, *, skip_damaged: bool = False, on_audio: Callable[[bytes], None] | None = None
    ) -> Iterator[Chunk]:
        """All chunks in order, also from a pipe; audio met on the way goes to `on_audio`.

        With `skip_damaged` a damaged chunk comes with ids None and a problem instead of an error.
        """
        if not self.seekable:
            from vidtok.bitstream.pipe import iter_pipe

            yield from iter_pipe(self, skip_damaged, on_audio)
            return
        for number in range(len(self.index)):
            if on_audio:
                for piece in self._audio_before(number):
                    on_audio(piece)
            yield self._whole_chunk(number, skip_damaged)
        if on_audio:
            for piece in self._audio_before(len(self.index)):
                on_audio(piece)

    def _whole_chunk(self, number: int, skip_damaged: bool) -> Chunk:
        info, pts = self.chunk_info(number), None
        try:
            if self.header.has_frames:
                pts = self.chunk_pts(number)
            return Chunk(info, self.read_chunk(number), pts)
        except DamagedError as error:
            if not skip_damaged:
                raise
            return Chunk(info, None, pts, str(error))

    def audio(self) -> Iterator[bytes]:
        """The pieces of the audio stream, in order."""
        for number in range(len(self.index) + 1):
            yield from self._audio_before(number)

    def open_audio(self) -> BinaryIO:
        """The audio stream as a file to read from front to back; chunks may be read meanwhile."""
        from vidtok.bitstream.audio import AudioFile

        return BufferedReader(AudioFile(self.audio()))

    def _audio_before(self, number: int) -> Iterator[bytes]:
        index = self.index
        start = index.starts[number - 1] + index.lengths[number - 1] if number else self.header_end
        end = index.starts[number] if number < len(index) else self._trailer_start
        while start < end:
            self.source.seek(start)
            try:
                front = read_front(self.source, self.seed)
                start += front.record_bytes
                if start > end:
                    raise DamagedError("its record reaches into the next")
                if front.kind == AUDIO:
                    yield self._audio_piece(front)
            except UnsupportedError:
                raise
            except FormatError as error:
                if not self.recover:
                    raise DamagedError(f"audio before chunk {number}: {error}") from None
                self.problems.append(f"audio before chunk {number}: {error}")
                return

    def _audio_piece(self, front: Front) -> bytes:
        length, crc = parse_audio(front.head)
        data = self.source.read(length)
        if crc32(data) != crc:
            raise DamagedError("it is damaged: the checksum does not fit")
        return data

    def verify(self, *, deep: bool = False) -> list[tuple[int | None, str]]:
        """What is wrong, as (chunk number or None, words), by all checksums; `deep` decodes the ids too."""
        found: list[tuple[int | None, str]] = [(None, problem) for problem in self.problems]
        for number in range(len(self.index)):
            try:
                self.read_payloads(number)
                if deep:
                    self.read_chunk(number)
            except DamagedError as error:
                found.append((number, str(error)))
        return found + [(None, problem) for problem in self._verify_audio()]

    def _verify_audio(self) -> Iterator[str]:
        before, heard = len(self.problems), 0
        try:
            heard = sum(1 for _ in self.audio())
        except FormatError as error:
            yield str(error)
        yield from self.problems[before:]
        del self.problems[before:]
        if heard and self.header.audio is None:
            yield "audio records, but the header describes none"

    # --- opening and closing --------------------------------------------------------------------

    def _open_index(self) -> None:
        try:
            self._summary, self._index, self._trailer_start = self._read_index()
            check_positions(self._summary, self._index, self.header_end, self._trailer_start)
        except UnsupportedError:
            raise
        except FormatError as error:
            if not self.recover:
                raise type(error)(f"{error}; {RECOVER_HINT}") from None
            self.problems.append(str(error))
            from vidtok.bitstream.recovery import search

            self._summary, self._index, self._trailer_start = search(self, error)
        check_volume(self.latents, self.header, self.file_bytes)

    def _read_index(self) -> tuple[Summary, Index, int]:
        size = self.source.size or 0
        try:
            self.source.seek(max(size - FOOTER_BYTES, 0))
            length = parse_footer(self.source.some(FOOTER_BYTES))
        except FormatError:
            raise TruncatedError(f"the file is cut off: no end mark after {size} bytes") from None
        start = size - FOOTER_BYTES - length
        if start < self.header_end:
            raise DamagedError(f"the end of the file is damaged: a trailer of {length} bytes does not fit")
        self.source.seek(start)
        front = read_front(self.source, self.seed)
        if front.kind != TRAILER or front.record_bytes != length:
            raise DamagedError("the end of the file is damaged: it does not lead to a trailer")
        return (*self.parse_trailer(front), start)

    def parse_trailer(self, front: Front) -> tuple[Summary, Index]:
        data = self._audio_piece(front)  # the same head: length and checksum
        return parse_trailer(data, self.header, self.header_end, front.start)

    def finish_pipe(self, summary: Summary, index: Index) -> None:
        """What a pipe said at its end."""
        self._summary, self._index = summary, index

    def close(self) -> None:
        """Close the file, if it was opened here."""
        self.source.close()

    def __enter__(self) -> TokenReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _name_chunk(error: FormatError, number: int) -> FormatError:
    """The same error, naming the chunk; anything but an unsupported feature is damage."""
    if isinstance(error, UnsupportedError):
        return error
    return DamagedError(f"chunk {number}: {error}", [number])
