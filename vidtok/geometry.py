"""Integers only: how frames and pixels map to latent frames and grid cells, and back.

A causal tokenizer with time stride s turns the first frame of a segment into one latent frame and
every s frames after it into one more. Frames are padded at the end (last frame repeated), pixels at
the right and bottom (edge repeated); both are cut off again by the exact counts in the header.

    frames   0 | 1 2 3 4 | 5 6 7 8 | 9 . . .      s = 4, T = 10
    latents  0 |    1    |    2    |    3         t = 4, three padded frames
"""

from __future__ import annotations

from dataclasses import dataclass


def ceil_div(a: int, b: int) -> int:
    """Smallest integer >= a / b for b > 0."""
    return -(-a // b)


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Strides of a tokenizer: `time` frames and `space` pixels per grid cell."""

    time: int = 4
    space: int = 8

    def __post_init__(self) -> None:
        if self.time < 1 or self.space < 1:
            raise ValueError(f"strides are at least 1, got {self}")

    def latents(self, frames: int) -> int:
        """Latent frames that hold `frames` frames of one segment."""
        return 0 if frames <= 0 else 1 + ceil_div(frames - 1, self.time)

    def frames(self, latents: int) -> int:
        """Frames that `latents` latent frames of one segment can hold at most."""
        return 0 if latents <= 0 else 1 + (latents - 1) * self.time

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Cells (h, w) that cover height x width pixels."""
        return ceil_div(height, self.space), ceil_div(width, self.space)

    def latent_of_frame(self, frame: int) -> int:
        """The latent frame that holds frame number `frame` of a segment."""
        return ceil_div(frame, self.time)

    def total_latents(self, frames: int, segment_frames: int = 0) -> int:
        """Latent frames of a whole video cut into segments of `segment_frames` (0: one segment)."""
        if not segment_frames or frames <= segment_frames:
            return self.latents(frames)
        whole, rest = divmod(frames, segment_frames)
        return whole * self.latents(segment_frames) + self.latents(rest)

    def locate_frame(self, frame: int, segment_frames: int = 0) -> tuple[int, int]:
        """(segment, latent frame within the whole video) of frame number `frame`."""
        if not segment_frames:
            return 0, self.latent_of_frame(frame)
        segment, inside = divmod(frame, segment_frames)
        return segment, segment * self.latents(segment_frames) + self.latent_of_frame(inside)

    def span_of_latent(self, latent: int, segment_frames: int = 0) -> tuple[int, int]:
        """Frames [first, end) held by latent frame `latent` of the whole video, segment ends respected."""
        segment, inside = (0, latent) if not segment_frames else divmod(latent, self.latents(segment_frames))
        base = segment * segment_frames
        first = base + (0 if inside == 0 else 1 + (inside - 1) * self.time)
        end = base + 1 + inside * self.time
        return first, min(end, base + segment_frames) if segment_frames else end
