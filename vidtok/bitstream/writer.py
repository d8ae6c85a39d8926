"""TokenWriter: ids and timestamps in, a token file out, written from front to back without seeking."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from vidtok.bitstream.audio import AudioSpool
from vidtok.bitstream.clock import Clock
from vidtok.bitstream.header import TokenHeader
from vidtok.bitstream.layout import Layout
from vidtok.bitstream.output import OutputFile
from vidtok.bitstream.records import AUDIO, CHUNK, ChunkHead, audio_head, check_chunk_size, frame_record
from vidtok.bitstream.trailer import Index, Summary, write_trailer
from vidtok.errors import OutputError, UsageError

if TYPE_CHECKING:
    import numpy as np


class _Sink(Protocol):
    def write(self, data: bytes) -> Any: ...


class TokenWriter:
    """Writes a token file to a path (appearing there only at a clean end) or to a binary file object.

    with TokenWriter("clip.vtok", header) as sink:
        sink.write(ids, frame_pts)            # any number of latent frames at a time
        sink.finish(last_duration=1001)       # optional; leaving the block finishes as well

    How latents are handed over never changes the bytes. An exception inside the block leaves no file.
    """

    def __init__(self, target: str | os.PathLike[str] | BinaryIO, header: TokenHeader, *, force: bool = False) -> None:
        self.header = header
        self.layout = Layout(header)
        self.output = OutputFile(target, force=force) if isinstance(target, (str, os.PathLike)) else None
        self._sink: _Sink = self.output or target  # type: ignore[assignment]
        self.position = 0
        self.index = Index()
        self.latents = self.frames = self.audio_bytes = 0
        self._ids: list[np.ndarray] = []  # latent frames not stored yet
        self._waiting = 0
        self._pts: list[int] = []  # timestamps not stored yet
        self._clock = Clock(header)
        self._stages = (-1, 0)  # the segment of the last chunk, and how many stages it has
        self._audio: AudioSpool | None = None
        self.finished = False
        try:
            data = header.to_bytes()
            self.seed = int.from_bytes(data[-4:], "little")
            self._put(data)
        except BaseException:
            self.discard()
            raise
        self.header_end = self.position

    # --- what callers do ------------------------------------------------------------------------

    def write(self, ids: np.ndarray, frame_pts: Sequence[int] = ()) -> None:
        """Latent frames (n, h, w[, K]) and the timestamps, in ticks, of the frames they newly hold.

        With `header.varying` a segment may leave out its last stages: their ids are -1, as they are when read.
        """
        self._check_open()
        shape = tuple(getattr(ids, "shape", ()))
        if shape != self.header.grid_shape(shape[0] if shape else 0):
            raise UsageError(f"ids of shape {shape} were given; the header says (t, {self.header.grid_shape(0)[1:]})")
        if getattr(ids.dtype, "kind", "") not in "ui":
            raise UsageError(f"ids are integers, not {ids.dtype}")
        if len(frame_pts) and not self.header.has_frames:
            raise UsageError("timestamps were given but the header has no time_base")
        self._clock.add(frame_pts)
        self._pts.extend(map(int, frame_pts))
        if shape[0]:
            self._ids.append(ids.copy())  # callers may use their buffer again
            self._waiting += shape[0]
        self._store(final=False)

    def write_stored(self, head: ChunkHead, payloads: Sequence[bytes]) -> None:
        """The next chunk as it was read (`read_payloads`) from a file of the same grid, layout and entropy mode.

        Stages may be left out, the last ones first; nothing is coded anew.
        """
        self._check_open()
        whole = self.layout.chunk_fits(head.number, head.latents, head.frames)
        if self._waiting or self._pts or head.number != len(self.index) or not whole:
            raise UsageError(f"chunk {head.number} cannot be stored where chunk {len(self.index)} is due")
        self._clock.add(head.pts)
        self._put_chunk(head, payloads)

    def write_audio(self, data: bytes) -> None:
        """A piece of the audio stream, of any size. It is stored after the last chunk."""
        self._check_open()
        if self.header.audio is None:
            raise UsageError("audio was given but the header describes none")
        if self._audio is None:
            self._audio = AudioSpool(self.output.target.parent if self.output else None)
        try:
            self._audio.write(data)
        except OSError as error:
            raise _as_output_error(error) from error

    def end_segment(self) -> None:
        """Check that a segment ends here (the header's segment_frames says where they end)."""
        done = self.latents + self._waiting
        if not self.layout.segment_latents or done % self.layout.segment_latents:
            raise UsageError(
                f"no segment ends after {done} latent frames; segment_frames is {self.header.segment_frames}"
            )

    def finish(self, *, damaged_source: bool = False, last_duration: int | None = None) -> None:
        """Store what waits, and the trailer. `last_duration`: ticks the last frame stays (None: guessed)."""
        self._check_open()
        self._store(final=True)
        if not self.layout.frames_fit(self.latents, self.frames) or self._pts:
            raise UsageError(
                f"{self.latents} latent frames were written for {self.frames + len(self._pts)} frames; "
                f"strides of {self.header.time_stride} make other counts"
            )
        self._store_audio()
        clock = self._clock
        summary = Summary(
            latents=self.latents,
            frames=self.frames,
            audio_bytes=self.audio_bytes,
            damaged_source=damaged_source,
            first_pts=clock.first,
            last_pts=clock.last,
            last_duration=clock.usual_step() if last_duration is None else max(int(last_duration), 0),
            steady=clock.steady,
            nominal=clock.nominal,
        )
        self._put(write_trailer(summary, self.index, self.header, self.header_end, self.seed, self.position))
        self.finished = True

    def close(self, *, damaged_source: bool = False, last_duration: int | None = None) -> None:
        """Finish, if that has not been done, and make the file appear."""
        try:
            if not self.finished:
                self.finish(damaged_source=damaged_source, last_duration=last_duration)
            if self.output:
                self.output.commit()
            else:
                getattr(self._sink, "flush", lambda: None)()
        except OSError as error:
            raise _as_output_error(error) from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Give up: leave no file. Does nothing after `close`."""
        if self._audio:
            self._audio.close()
        if self.output:
            self.output.discard()

    def __enter__(self) -> TokenWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    # --- chunks ---------------------------------------------------------------------------------

    def _store(self, *, final: bool) -> None:
        """Write the chunks that are whole; all the rest if `final`."""
        while self._waiting:
            place = self.layout.place(len(self.index))
            if self._waiting < place.latents and not final:
                return
            if len(self._pts) < place.frames and not final:
                if self._waiting > place.latents:
                    raise UsageError(f"timestamps of {place.frames} frames are due, {len(self._pts)} were given")
                return
            self._write_chunk(min(place.latents, self._waiting), min(place.frames, len(self._pts)))

    def _write_chunk(self, latents: int, frames: int) -> None:
        from vidtok.bitstream.coding import encode_stages

        number = len(self.index)
        if not self.layout.chunk_fits(number, latents, frames):
            raise UsageError(f"{frames} frames cannot be those of {latents} latent frames (chunk {number})")
        stages, payloads = encode_stages(self._take(latents), number, self.header)
        head = ChunkHead(number, latents, tuple(self._pts[:frames]), stages)
        del self._pts[:frames]
        self._put_chunk(head, payloads)

    def _put_chunk(self, head: ChunkHead, payloads: Sequence[bytes]) -> None:
        check_chunk_size(head, self.header)
        segment = self.layout.place(head.number).segment
        stages = len(head.stages)
        if self._stages[0] == segment and self._stages[1] != stages:
            raise UsageError(f"segment {segment} has {self._stages[1]} stages; chunk {head.number} has {stages}")
        self._stages = segment, stages
        front, crc = frame_record(CHUNK, head.to_bytes(self.header), self.seed)
        start = self.position
        self._put(front)
        for payload in payloads:
            self._put(payload)
        self.index.add(start, self.position - start, crc)
        self.latents += head.latents
        self.frames += head.frames

    def _store_audio(self) -> None:
        for piece in self._audio.pieces() if self._audio else ():
            front, _ = frame_record(AUDIO, audio_head(piece), self.seed)
            self._put(front)
            self._put(piece)
            self.audio_bytes += len(front) + len(piece)

    def _take(self, latents: int) -> np.ndarray:
        """The first `latents` waiting latent frames as one array."""
        import numpy as np

        parts, missing = [], latents
        while missing:
            part = self._ids.pop(0)
            parts.append(part[:missing])
            if len(part) > missing:
                self._ids.insert(0, part[missing:])
            missing -= len(parts[-1])
        self._waiting -= latents
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _put(self, data: bytes) -> None:
        try:
            self._sink.write(data)
        except OSError as error:
            raise _as_output_error(error) from error
        self.position += len(data)

    def _check_open(self) -> None:
        if self.finished:
            raise UsageError("the token file has been finished; nothing can be added")


def _as_output_error(error: OSError) -> OutputError:
    return error if isinstance(error, OutputError) else OutputError(f"cannot write: {error.strerror or error}")
