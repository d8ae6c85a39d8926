"""Motion: vectors are found, what is known follows them, and nothing else about a recurrent model changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import save_rates
from hypothesis import given, settings
from hypothesis import strategies as st

from vidtok import checkpoint
from vidtok.errors import ConfigError
from vidtok.geometry import Geometry
from vidtok.model.model import Model
from vidtok.model.motion import Motion, luma
from vidtok.model.quantizer import QuantizerConfig, build_quantizer
from vidtok.model.stream import Schedule
from vidtok.model.tokenizer import ModelConfig, RecurrentTokenizer, build_tokenizer

TABLE = (0.25, 0.5, 1.0, 2.0, 3.0, 5.0)
STILL = len(TABLE)
LEVELS = 2 * STILL + 1


@pytest.fixture(scope="module")
def motion() -> Motion:
    return Motion(TABLE, (LEVELS, LEVELS), Geometry(time=4, space=8))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """The same model made by hand, with motion and without."""
    folder = tmp_path_factory.mktemp("model")
    return {
        name: checkpoint.load(save_rates(folder / f"{name}.safetensors", period=8, motion=table))
        for name, table in (("moving", TABLE), ("still", ()))
    }


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def panning(count: int, height: int, width: int, dx: float, dy: float) -> np.ndarray:
    """A smooth texture (count, height, width, 3) that looks, j frames later, like itself at (x + j dx, y + j dy)."""
    t, y, x = np.meshgrid(np.arange(count), np.arange(height), np.arange(width), indexing="ij")
    draw = np.random.default_rng(0)
    total = np.zeros((count, height, width, 3))
    for _ in range(24):
        a, b = draw.uniform(-0.6, 0.6, 2)
        total += np.cos(a * (x + t * dx) + b * (y + t * dy) + draw.uniform(0, 6))[..., None] * draw.uniform(5, 12, 3)
    return (total + 128).clip(0, 255).astype(np.uint8)


def vector(dx: float, dy: float) -> tuple[int, int]:
    table = [-d for d in reversed(TABLE)] + [0.0, *TABLE]
    return table.index(dx), table.index(dy)


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (1, 0), (-2, 3), (0.5, -0.25), (-5, 1), (0.25, 5)])
def test_the_motion_of_a_picture_is_found(motion: Motion, dx: float, dy: float) -> None:
    grey = luma(torch.from_numpy(panning(5, 128, 160, dx, dy)).float() / 127.5 - 1)
    found = motion.search(grey[:1], grey[None, 1:])
    assert found.shape == (1, 16, 20, 2)
    assert (found[0, 3:-3, 3:-3] == torch.tensor(vector(dx, dy))).all(-1).float().mean() > 0.95


def test_two_motions_are_told_apart(motion: Motion) -> None:
    left, right = panning(5, 64, 160, 2, 0), panning(5, 64, 160, 0, -1)
    both = np.concatenate([left[:, :, :80], right[:, :, 80:]], axis=2)
    grey = luma(torch.from_numpy(both).float() / 127.5 - 1)
    found = motion.search(grey[:1], grey[None, 1:])[0]
    assert (found[:, 1:8] == torch.tensor(vector(2, 0))).all(-1).float().mean() > 0.9
    assert (found[:, 12:] == torch.tensor(vector(0, -1))).all(-1).float().mean() > 0.9


def test_what_does_not_move_stands_still(motion: Motion) -> None:
    """A flat picture, and one with a little noise."""
    picture = torch.from_numpy(panning(1, 64, 80, 0, 0)).float().mean(-1)
    noise = torch.randn(5, 64, 80, generator=torch.Generator().manual_seed(0))
    for frames in (torch.full((5, 64, 80), 7.0), picture + noise):
        found = motion.search(frames[:1], frames[None, 1:])
        assert (found == STILL).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_any_pictures_give_digits(h: int, w: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    before, now = torch.rand(2, 8 * h, 8 * w, generator=draw), torch.rand(2, 4, 8 * h, 8 * w, generator=draw)
    found = Motion(TABLE, (LEVELS, LEVELS), Geometry(time=4, space=8)).search(before * 255, now * 255)
    assert found.shape == (2, h, w, 2) and int(found.min()) >= 0 and int(found.max()) < LEVELS


def test_digits_codes_and_vectors(motion: Motion) -> None:
    """Every digit survives the quantizer, and stands for its displacement."""
    digits = torch.cartesian_prod(torch.arange(LEVELS), torch.arange(LEVELS))
    quantizer = build_quantizer(QuantizerConfig(levels=(LEVELS, LEVELS)))
    quantized = quantizer.quantize(motion.latent(digits))
    assert torch.equal(quantized.ids, digits[:, 0] + LEVELS * digits[:, 1])
    vectors = motion.vectors(quantizer.ids_to_codes(quantized.ids))
    assert torch.equal(vectors, motion.table[digits]) and not motion.vectors(torch.zeros(2)).any()
    assert float(motion.features(vectors).abs().max()) == 1


def test_frames_follow_vectors(motion: Motion) -> None:
    clip = torch.from_numpy(panning(5, 64, 64, 1, -2)).float()
    moved = motion.frames(clip[:1], torch.tensor([1.0, -2.0]).expand(1, 8, 8, 2))[0]
    inside = (slice(None), slice(8, -8), slice(8, -8))
    assert (moved - clip[1:])[inside].abs().max() < 1.5  # rounded to bytes, and clipped
    assert (motion.frames(clip[:1], torch.zeros(1, 8, 8, 2)) - clip[:1, None]).abs().max() < 1e-2
    cells = torch.arange(64.0).view(1, 1, 8, 8, 1)
    one_cell = motion.cells(cells, torch.tensor([2.0, 0.0]).expand(1, 8, 8, 2))  # 8 pixels in 4 frames
    assert torch.allclose(one_cell[..., :-1, :], cells[..., 1:, :], atol=1e-4)


def encode(
    model: Model, frames: np.ndarray, quality: int = 1, step: int = 99, refine: int = 0, **how: int
) -> np.ndarray:
    stream = model.encoder(*frames.shape[1:3], Schedule(**how), quality, refine)
    return np.concatenate([stream.push(frames[a : a + step]) for a in range(0, len(frames), step)] + [stream.flush()])


def decode(model: Model, ids: np.ndarray, frames: np.ndarray, step: int = 99, **how: int) -> np.ndarray:
    stream = model.decoder(*frames.shape[1:3], Schedule(**how))
    return np.concatenate([stream.push(ids[a : a + step]) for a in range(0, len(ids), step)])[: len(frames)]


def error(model: Model, frames: np.ndarray) -> float:
    """Mean squared error of the last four latent frames."""
    found = decode(model, encode(model, frames), frames).astype(float)
    return float(np.square(found - frames)[-16:].mean())


def test_what_moves_is_coded_better(models: dict[str, Model]) -> None:
    frames = panning(29, 64, 96, 2, -1)
    assert error(models["moving"], frames) < 0.8 * error(models["still"], frames)
    standing = np.repeat(frames[:1], 29, axis=0)
    assert error(models["moving"], standing) == pytest.approx(error(models["still"], standing), rel=0.05)


@pytest.mark.parametrize("refine", [0, 2])
def test_nothing_about_the_processing_changes_a_bit(models: dict[str, Model], refine: int) -> None:
    model = models["moving"]
    frames = panning(38, 37, 59, 1.3, -0.6)
    ids = encode(model, frames, 2, refine=refine)
    pictures = decode(model, ids, frames)
    assert len(np.unique(ids[..., 0] // (8 * 5**3))) > 3  # vectors
    for count in (1, 2):
        torch.set_num_threads(count)
        for step, how in ((1, {"chunk_frames": 1}), (7, {"chunk_frames": 12, "tile": 16}), (38, {"chunk_frames": 99})):
            assert np.array_equal(encode(model, frames, 2, step, refine, **how), ids), (count, how)
            assert np.array_equal(decode(model, ids, frames, step, **how), pictures), (count, how)


def test_motion_is_said_once_and_not_at_a_start(models: dict[str, Model]) -> None:
    """In the first stage; a higher quality adds to the ids of a lower one; a period begins with nothing to move."""
    model, frames = models["moving"], panning(41, 40, 48, 2, 1)
    one, three = encode(model, frames, 1), encode(model, frames, 3)
    assert np.array_equal(one, three[..., 0])
    said = three // (8 * 5**3)
    middle = STILL + LEVELS * STILL
    assert (said[..., 1:] == middle).all()
    assert (said[[0, 8], ..., 0] == middle).all() and (said[1:8, ..., 0] != middle).mean() > 0.9
    pictures = decode(model, three, frames)
    stream = model.decoder(*frames.shape[1:3])
    stream.restart(8)
    assert np.array_equal(stream.push(three[8:])[: len(frames) - 29], pictures[29:])
    elsewhere = three.copy()
    elsewhere[..., 1:] = elsewhere[..., 1:] % (8 * 5**3)  # says motion where none is looked for
    assert np.array_equal(decode(model, elsewhere, frames), pictures)


def test_training_and_streaming_give_the_same_ids(models: dict[str, Model]) -> None:
    model, frames = models["moving"], panning(17, 40, 48, 1, 0)
    with torch.no_grad():
        trained = model.tokenizer(torch.from_numpy(frames)[None].float() / 127.5 - 1, quality=2)
    ids = encode(model, frames, 2)
    assert (trained.quantized.ids[0].numpy() == ids).mean() > 0.99
    pictures = decode(model, ids, frames).astype(np.float32)
    assert np.abs(((trained.frames[0] + 1) * 127.5).clamp(0, 255).numpy() - pictures).mean() < 1


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_any_ids_decode(models: dict[str, Model], seed: int) -> None:
    model = models["moving"]
    ids = np.random.default_rng(seed).integers(0, model.vocabulary, (5, 3, 4, 2))
    assert model.decode_ids(ids, height=20, width=30).shape == (17, 20, 30, 3)


def test_gradients_reach_what_motion_adds(models: dict[str, Model]) -> None:
    tokenizer = build_tokenizer(models["moving"].config)
    frames = torch.from_numpy(panning(13, 32, 32, 2, 0))[None].float() / 127.5 - 1
    for layer in ("recurrence.predict", "encoder.analysis", "decoder.synthesis"):
        torch.nn.init.orthogonal_(tokenizer.get_buffer(f"{layer}.weight"))
    output = tokenizer(frames, quality=2)
    (output.frames.square().mean() + output.extra["estimate"].square().mean()).backward()
    slope = tokenizer.get_parameter("recurrence.move.weight").grad
    assert slope is not None and bool(slope.any())


def test_bad_configs() -> None:
    levels = QuantizerConfig(levels=(16, 5, 5, 7))
    config = ModelConfig(kind="recurrent", backbone={"motion": [0.5, 1]}, quantizer=levels)
    with pytest.raises(ConfigError, match="two digits of 5 levels"):
        build_tokenizer(config)
    for table, wrong in (((0.0, 1.0), "rising"), ((2.0, 1.0), "rising"), ((float("nan"),), "rising"), ((65.0,), "64")):
        with pytest.raises(ConfigError, match=wrong):
            Motion(table, (2 * len(table) + 1,) * 2, Geometry(time=4, space=8))
    with pytest.raises(ConfigError, match="even space stride"):
        Motion((1.0,), (3, 3), Geometry(time=4, space=7))


def test_a_model_without_motion_has_nothing_of_it(models: dict[str, Model], tmp_path: Path) -> None:
    still = models["still"].tokenizer
    assert isinstance(still, RecurrentTokenizer) and still.motion is None
    assert not [name for name, _ in still.named_parameters() if "move" in name]
