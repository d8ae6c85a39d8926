"""Frames and latent frames, back and forth."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vidtok.geometry import Geometry

strides = st.builds(Geometry, time=st.integers(1, 9), space=st.integers(1, 33))


def test_the_numbers_in_the_docstring() -> None:
    geometry = Geometry(time=4, space=8)
    assert [geometry.latents(n) for n in (0, 1, 2, 5, 6, 10, 17, 49)] == [0, 1, 2, 2, 3, 4, 5, 13]
    assert geometry.grid(77, 131) == (10, 17)
    assert geometry.grid(1, 1) == (1, 1)


@given(strides, st.integers(1, 500))
def test_latents_hold_all_frames_and_none_is_spare(geometry: Geometry, frames: int) -> None:
    latents = geometry.latents(frames)
    assert geometry.frames(latents) >= frames
    assert geometry.frames(latents - 1) < frames


@given(strides, st.integers(1, 300), st.integers(0, 60))
def test_every_frame_lies_in_the_span_of_its_latent_frame(
    geometry: Geometry, frames: int, segment_frames: int
) -> None:
    seen = []
    for latent in range(geometry.total_latents(frames, segment_frames)):
        first, end = geometry.span_of_latent(latent, segment_frames)
        for frame in range(first, min(end, frames)):
            segment, located = geometry.locate_frame(frame, segment_frames)
            assert located == latent
            assert segment == (frame // segment_frames if segment_frames else 0)
            seen.append(frame)
    assert seen == list(range(frames))
