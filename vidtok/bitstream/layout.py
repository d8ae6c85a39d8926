"""Integers only: which latent frames and frames a chunk of a given number holds.

Chunks are counted within a segment, so that a segment always starts a chunk; every chunk but the last
of a segment is full. Number and header alone say where a chunk stands, whatever happened to the others.

    latents   0 1 2 3 | 4 5 6 | 0 1 2 3 | 4        chunk_latents 4, two segments of 7 and 5 latents
    chunk        0        1        2      3
"""

from __future__ import annotations

from typing import NamedTuple

from vidtok.bitstream.header import TokenHeader
from vidtok.geometry import ceil_div


class Place(NamedTuple):
    """Where a full chunk stands: counts over the whole video, and what it holds when full."""

    segment: int
    first_latent: int
    latents: int
    first_frame: int
    frames: int


class Layout:
    """The arithmetic of one header."""

    def __init__(self, header: TokenHeader) -> None:
        self.header = header
        self.geometry = header.geometry

    @property
    def segment_latents(self) -> int:
        """Latent frames of a whole segment, 0: there is one segment without end."""
        return self.geometry.latents(self.header.segment_frames)

    @property
    def segment_chunks(self) -> int:
        """Chunks of a whole segment, 0: there is one segment without end."""
        return ceil_div(self.segment_latents, self.header.chunk_latents)

    def place(self, chunk: int) -> Place:
        """Where chunk number `chunk` stands."""
        head, geometry = self.header, self.geometry
        segment, inside = divmod(chunk, self.segment_chunks) if head.segment_frames else (0, chunk)
        first = inside * head.chunk_latents
        latents, end = head.chunk_latents, geometry.frames(first + head.chunk_latents)
        if head.segment_frames:
            latents, end = min(latents, self.segment_latents - first), min(end, head.segment_frames)
        begin = geometry.frames(first)
        if not head.has_frames:
            return Place(segment, first, latents, 0, 0)
        return Place(
            segment=segment,
            first_latent=segment * self.segment_latents + first,
            latents=latents,
            first_frame=segment * head.segment_frames + begin,
            frames=end - begin,
        )

    def latents_before(self, chunk: int) -> int:
        """Latent frames of the same segment before chunk number `chunk`."""
        return (chunk % self.segment_chunks if self.header.segment_frames else chunk) * self.header.chunk_latents

    def chunk_of_latent(self, latent: int) -> int:
        """The chunk that holds latent frame `latent` of the whole video."""
        if not self.header.segment_frames:
            return latent // self.header.chunk_latents
        segment, inside = divmod(latent, self.segment_latents)
        return segment * self.segment_chunks + inside // self.header.chunk_latents

    def chunks(self, latents: int) -> int:
        """Chunks of a video of `latents` latent frames."""
        return self.chunk_of_latent(latents - 1) + 1 if latents else 0

    def counts(self, chunk: int, latents: int, frames: int) -> tuple[int, int]:
        """(latents, frames) that `chunk` holds in a video of `latents` and `frames`."""
        place = self.place(chunk)
        held = min(place.latents, latents - place.first_latent)
        return held, min(place.frames, frames - place.first_frame) if self.header.has_frames else 0

    def frames_fit(self, latents: int, frames: int) -> bool:
        """Whether `frames` frames make exactly `latents` latent frames."""
        if not self.header.has_frames:
            return frames == 0
        return self.geometry.total_latents(frames, self.header.segment_frames) == latents

    def chunk_fits(self, chunk: int, latents: int, frames: int) -> bool:
        """Whether a chunk of that number may hold so many latents and frames (a last one may hold fewer)."""
        place = self.place(chunk)
        if not 1 <= latents <= place.latents:
            return False
        return self.frames_fit(place.first_latent + latents, place.first_frame + frames)
