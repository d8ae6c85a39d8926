"""The promise of exact streaming: chunks, tiles, batches and threads never change a bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from vidtok import checkpoint
from vidtok.errors import UsageError
from vidtok.model.layers import Block, State, TimeShift
from vidtok.model.model import Model
from vidtok.model.stream import Schedule, cut

SCHEDULES = [
    Schedule(),
    Schedule(chunk_frames=1),
    Schedule(chunk_frames=8, tile=16),
    Schedule(chunk_frames=5, tile=24, batch=3),
    Schedule(chunk_frames=100, tile=8, batch=4),
]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Model:
    return checkpoint.load(tiny_model, device="cpu")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """Frames that are half a moving gradient and half noise, so that ids differ everywhere."""
    rng = np.random.default_rng(seed)
    t, h, w, _ = np.indices(shape)
    return ((t * 9 + h * 5 + w * 3) % 200 + rng.integers(0, 56, shape)).astype(np.uint8)


def encode(model: Model, frames: np.ndarray, schedule: Schedule, step: int) -> np.ndarray:
    stream = model.encoder(*frames.shape[1:3], schedule)
    return np.concatenate([stream.push(frames[a : a + step]) for a in range(0, len(frames), step)] + [stream.flush()])


def decode(model: Model, ids: np.ndarray, frames: np.ndarray, schedule: Schedule, step: int) -> np.ndarray:
    stream = model.decoder(*frames.shape[1:3], schedule)
    return np.concatenate([stream.push(ids[a : a + step]) for a in range(0, len(ids), step)])[: len(frames)]


@pytest.mark.parametrize(("height", "width", "count"), [(48, 72, 19), (77, 131, 6), (8, 8, 6), (1, 1, 5), (40, 8, 9)])
def test_nothing_about_the_processing_changes_a_bit(model: Model, height: int, width: int, count: int) -> None:
    frames = noise(count, height, width, 3)
    ids = encode(model, frames, SCHEDULES[0], count)
    pictures = decode(model, ids, frames, SCHEDULES[0], count)
    assert pictures.shape == frames.shape
    assert ids.size < 8 or len(np.unique(ids)) > 4  # a constant would prove nothing
    for number in (1, 2):
        torch.set_num_threads(number)
        for i, schedule in enumerate(SCHEDULES):
            assert np.array_equal(encode(model, frames, schedule, i + 1), ids), (number, schedule)
            assert np.array_equal(decode(model, ids, frames, schedule, i + 1), pictures), (number, schedule)


def test_bf16_is_as_exact(tiny_model: Path) -> None:
    model = checkpoint.load(tiny_model, device="cpu", precision="bf16")
    frames = noise(6, 24, 32, 3)
    ids = encode(model, frames, SCHEDULES[0], 6)
    pictures = decode(model, ids, frames, SCHEDULES[0], 6)
    for schedule in SCHEDULES[1:4]:
        assert np.array_equal(encode(model, frames, schedule, 2), ids)
        assert np.array_equal(decode(model, ids, frames, schedule, 1), pictures)


@pytest.mark.parametrize("count", range(1, 101))
def test_every_length_comes_back(model: Model, count: int) -> None:
    frames = noise(count, 8, 16, 3)
    tokens = model.encode(frames)
    assert tokens.ids.shape == (model.geometry.latents(count), 1, 2)
    assert model.decode(tokens).shape == frames.shape


def test_a_prefix_of_the_frames_gives_a_prefix_of_the_ids(model: Model) -> None:
    frames = noise(33, 16, 24, 3)
    ids = model.encode(frames).ids
    for count in (1, 5, 17):
        assert np.array_equal(model.encode(frames[:count]).ids, ids[: model.geometry.latents(count)])


def test_frames_depend_on_look_back_and_no_further(model: Model) -> None:
    """Restarted look-back latent frames early, the decoder gives the same frames; one later, it does not."""
    frames = noise(45, 16, 16, 3)
    ids = encode(model, frames, Schedule(), 45)
    whole = decode(model, ids, frames, Schedule(), 45)
    wanted, geometry = 8, model.geometry
    first, _ = geometry.span_of_latent(wanted)
    for early, equal in ((model.look_back, True), (model.look_back - 1, False)):
        stream = model.decoder(16, 16)
        stream.restart(wanted - early)
        found = stream.push(ids[wanted - early :])[early * geometry.time :]
        assert np.array_equal(found, whole[first:]) == equal


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_the_halo_is_what_an_output_cell_sees(model: Model, half: str) -> None:
    """A change is seen as far as the halo reaches, and no further."""
    network = getattr(model.tokenizer, half)
    x = torch.randn(1, 2, 1, 10, network.inlet.weight.shape[1], generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[..., :3, :] += 1  # cells 0, 1, 2
    with torch.no_grad():
        differs = (network(x, None)[0] != network(changed, None)[0]).any(dim=-1)[0, :, 0].any(dim=0)
    assert differs.tolist() == [True] * (3 + network.halo) + [False] * (7 - network.halo)


@pytest.mark.parametrize("layer", [TimeShift(3), Block(6, 5, 3)], ids=["TimeShift", "Block"])
def test_layers_that_mix_time_give_pieces_equal_to_the_whole(layer: torch.nn.Module) -> None:
    for name, parameter in layer.named_parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(len(name)))
    shift = layer if isinstance(layer, TimeShift) else layer.shift
    assert isinstance(shift, TimeShift)
    x = torch.randn(2, 7, 3, 4, 6, generator=torch.Generator().manual_seed(1))
    state = shift.initial_state(2, 3, 4, x)
    with torch.no_grad():
        whole, _ = layer(x, state)
        pieces = []
        for a, b in ((0, 1), (1, 4), (4, 7)):
            y, state = layer(x[:, a:b], state)
            pieces.append(y)
        later, _ = layer(torch.cat([x[:, :5], torch.randn(2, 2, 3, 4, 6)], dim=1), shift.initial_state(2, 3, 4, x))
    assert torch.equal(torch.cat(pieces, dim=1), whole)
    assert torch.equal(later[:, :5], whole[:, :5])  # causal


def test_phases_count_from_the_start_of_the_segment(model: Model) -> None:
    body = model.tokenizer.encoder.body
    x = torch.zeros(1, 9, 1, 1, model.config.backbone["width"])
    with torch.no_grad():
        whole = body.phase(x, 0)
        assert torch.equal(body.phase(x[:, :4], 5), whole[:, 5:])
    rows = whole[0, :, 0, 0]
    assert torch.equal(rows[1], rows[5]) and not torch.equal(rows[1], rows[2]) and not torch.equal(rows[0], rows[4])
    assert State().latent == 0


def test_cut_covers_every_cell_once() -> None:
    for cells in (1, 5, 16, 17):
        for core in (1, 4, 16, 99):
            spans = cut(cells, core, 3)
            assert [i for span in spans for i in range(span.core_start, span.core_end)] == list(range(cells))
            assert all(0 <= span.start <= span.core_start < span.core_end <= span.end <= cells for span in spans)


def test_wrong_frames_and_ranges_are_refused(model: Model) -> None:
    with pytest.raises(UsageError, match="uint8"):
        model.encoder(8, 8).push(np.zeros((1, 8, 8, 3), np.float32))
    with pytest.raises(UsageError, match="multiple of 8"):
        model.encoder(8, 8, Schedule(tile=12))
    with pytest.raises(UsageError, match="at least 1"):
        Schedule(chunk_frames=0)
    with pytest.raises(UsageError, match=r"0 to 199, got 0 to 200"):
        model.decode_ids(np.array([[[0, 200]]]))
    with pytest.raises(UsageError, match="none empty"):
        model.encode(np.zeros((0, 8, 8, 3), np.uint8))


def test_arrays_tensors_and_batches(model: Model) -> None:
    frames = noise(5, 16, 24, 3)
    one, two = model.encode(frames), model.encode(torch.from_numpy(np.stack([frames, frames[::-1].copy()])))
    assert isinstance(two.ids, torch.Tensor) and two.ids.shape == (2, 2, 2, 3)
    assert np.array_equal(two.ids[0].numpy(), one.ids)
    back = model.decode(two)
    assert isinstance(back, torch.Tensor) and back.dtype == torch.uint8
    assert np.array_equal(back[0].numpy(), model.decode(one))
    assert model.codes(one.ids).shape == (2, 2, 3, 3)
    live = model.stream()
    pushed = [live.encode(frames[i : i + 1]) for i in range(5)]
    assert [len(p) for p in pushed] == [1, 0, 0, 0, 1]
    assert np.array_equal(np.concatenate(pushed), one.ids) and len(live.flush()) == 0
    assert np.array_equal(np.concatenate([live.decode(i[None]) for i in one.ids]), model.decode(one))
