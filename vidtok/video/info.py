"""What a reader knows of a video before its frames come, and one frame."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class ColourTags:
    """How the source's numbers mean colours; H.273 code points, 2 = unspecified.

    `matrix` 0 is RGB; `range` 1 limited, 2 full. `guessed`: matrix or range was not in the file.
    """

    matrix: int
    range: int
    primaries: int = 2
    transfer: int = 2
    guessed: bool = False

    @property
    def hdr(self) -> str:
        """"PQ", "HLG", or "" for the usual kind."""
        return {16: "PQ", 18: "HLG"}.get(self.transfer, "")


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What is known when a source is open. Sizes in pixels, upright; times in ticks of `time_base` seconds.

    `width`, `height`: of the frames that come out; `source_width`, `source_height`: before any resize.
    `rotation`: degrees clockwise that were applied after mirroring left-right if `mirrored`.
    `frames_hint`, `duration_hint` (seconds): what headers announce; for progress bars, never to rely on.
    """

    width: int
    height: int
    source_width: int
    source_height: int
    rotation: int
    mirrored: bool
    sample_aspect: Fraction
    time_base: Fraction
    rate: Fraction | None
    colour: ColourTags
    pixel_format: str
    bit_depth: int
    alpha: bool
    chroma444: bool
    codec: str
    container: str
    stream_index: int
    first_pts: int
    frames_hint: int | None
    duration_hint: float | None
    audio_streams: tuple[str, ...] = ()


@dataclass(frozen=True)
class Frame:
    """One picture: `pixels` (H, W, 3) uint8 RGB, full range; `pts` and `duration` in ticks of the time base."""

    pixels: Pixels
    pts: int
    duration: int
