"""The recurrent backbone: as exact as the other, qualities that are prefixes of each other, memory that is bounded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from vidtok.errors import ConfigError, UsageError
from vidtok.model.model import Model
from vidtok.model.quantizer import QuantizerConfig
from vidtok.model.stream import Schedule
from vidtok.model.tokenizer import ModelConfig, RecurrentTokenizer, build_tokenizer
from vidtok.training.data import Clips, DataConfig
from vidtok.training.initial import _grouped, start_from_components

SIZES = {
    "coefficients": 20,
    "notes": 4,
    "width": 16,
    "hidden": 16,
    "groups": 2,
    "steps": 2,
    "context_blocks": 1,
    "encoder_blocks": 1,
    "update_blocks": 1,
    "decoder_blocks": 2,
    "delayed": 4,
    "phases": 2,
    "period": 3,
}
SCHEDULES = [Schedule(chunk_frames=1), Schedule(chunk_frames=8, tile=16), Schedule(chunk_frames=100, tile=8, batch=4)]


def make(precision: str = "fp32", **changes: int) -> Model:
    config = ModelConfig(
        kind="recurrent", qualities=3, backbone=SIZES | changes, quantizer=QuantizerConfig(levels=(4, 5, 5))
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = build_tokenizer(config).eval()
        for parameter in tokenizer.parameters():
            if not parameter.any():  # what starts at zero would hide what it does
                torch.nn.init.normal_(parameter, std=0.2)
    return Model(
        tokenizer.requires_grad_(False), name="tiny", model_id="0" * 64, device=torch.device("cpu"), precision=precision
    )


@pytest.fixture(scope="module")
def model() -> Model:
    return make()


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def noise(*shape: int) -> np.ndarray:
    t, h, w, _ = np.indices(shape)
    return ((t * 9 + h * 5 + w * 3) % 200 + np.random.default_rng(0).integers(0, 56, shape)).astype(np.uint8)


def encode(
    model: Model, frames: np.ndarray, quality: int, schedule: Schedule | None = None, step: int = 99
) -> np.ndarray:
    stream = model.encoder(*frames.shape[1:3], schedule, quality)
    return np.concatenate([stream.push(frames[a : a + step]) for a in range(0, len(frames), step)] + [stream.flush()])


def decode(
    model: Model, ids: np.ndarray, size: tuple[int, int], schedule: Schedule | None = None, step: int = 99
) -> np.ndarray:
    stream = model.decoder(*size, schedule)
    return np.concatenate([stream.push(ids[a : a + step]) for a in range(0, len(ids), step)])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("height", "width", "count"), [(48, 72, 30), (77, 131, 6), (1, 1, 17), (40, 8, 14)])
def test_nothing_about_the_processing_changes_a_bit(height: int, width: int, count: int, precision: str) -> None:
    model = make(precision)
    frames, quality = noise(count, height, width, 3), 2
    ids = encode(model, frames, quality)
    pictures = decode(model, ids, (height, width))
    assert ids.shape == (model.geometry.latents(count), *model.geometry.grid(height, width), quality)
    assert ids.size < 16 or len(np.unique(ids)) > 8
    for number in (1, 2):
        torch.set_num_threads(number)
        for i, schedule in enumerate(SCHEDULES):
            assert np.array_equal(encode(model, frames, quality, schedule, i + 1), ids), (number, schedule)
            assert np.array_equal(decode(model, ids, (height, width), schedule, i + 1), pictures), (number, schedule)


def test_the_ids_of_a_quality_are_a_prefix_of_those_of_the_next(model: Model) -> None:
    frames = noise(22, 24, 32, 3)
    one, two, three = (encode(model, frames, q) for q in (1, 2, 3))
    assert one.ndim == 3 and np.array_equal(one, three[..., 0]) and np.array_equal(two, three[..., :2])
    assert len({decode(model, ids, (24, 32)).tobytes() for ids in (one, two, three)}) == 3


def test_training_and_streaming_give_the_same_ids_and_frames(model: Model) -> None:
    """Of the first period: later ones start anew only in the stream."""
    frames = noise(9, 24, 32, 3)
    with torch.no_grad():
        trained = model.tokenizer(torch.from_numpy(frames)[None].float() / 127.5 - 1, quality=2)
    ids = encode(model, frames, 2)
    assert (trained.quantized.ids[0].numpy() == ids).mean() > 0.99  # other kernels, other last bits
    pictures = decode(model, ids, (24, 32)).astype(np.float32)
    assert np.abs(((trained.frames[0] + 1) * 127.5).clamp(0, 255).numpy() - pictures).mean() < 1
    assert trained.extra["estimate"].shape == trained.frames.shape


def test_frames_depend_on_look_back_and_no_further(model: Model) -> None:
    frames = noise(45, 16, 16, 3)
    ids = encode(model, frames, 2)
    whole = decode(model, ids, (16, 16))
    wanted = 8  # the last of a period of three
    first, _ = model.geometry.span_of_latent(wanted)
    for early, equal in ((model.look_back, True), (model.look_back - 1, False), (model.look_back + 1, True)):
        stream = model.decoder(16, 16)
        stream.restart(wanted - early)
        found = stream.push(ids[wanted - early :])[early * model.geometry.time :]
        assert np.array_equal(found, whole[first:]) == equal, early
    assert [model.tokenizer.first_needed(i) for i in range(8)] == [0, 0, 0, 3, 3, 3, 6, 6]


def test_a_new_period_knows_nothing_of_the_last(model: Model) -> None:
    frames = noise(25, 16, 16, 3)
    other = frames.copy()
    other[:9] = 255 - other[:9]  # latent frames 0, 1, 2: the first period
    assert np.array_equal(encode(model, frames, 1)[3:], encode(model, other, 1)[3:])
    assert not np.array_equal(encode(model, frames, 1)[:3], encode(model, other, 1)[:3])


def test_estimates_stay_bounded(model: Model) -> None:
    """Whatever the ids are: a memory that fed on itself without limit would end in NaN."""
    wild = make(period=4096)
    wild.tokenizer.recurrence.predict.weight.mul_(50)  # type: ignore[operator,union-attr]
    ids = np.random.default_rng(0).integers(0, wild.vocabulary, (60, 2, 2))
    with torch.no_grad():
        patches, state = wild.tokenizer.decode_patches(torch.from_numpy(ids)[None], *_start())
    assert patches.isfinite().all() and state.taps[0].abs().max() <= 28


def _start() -> tuple[object, torch.dtype]:
    from vidtok.model.layers import State

    return State(), torch.float32


def test_arrays_of_every_kind_come_back(model: Model) -> None:
    frames = noise(6, 17, 9, 3)
    for quality, shape in ((1, (3, 3, 2)), (3, (3, 3, 2, 3))):
        tokens = model.encode(frames, quality=quality)
        assert tokens.ids.shape == shape
        pictures = model.decode(tokens)
        batched = model.encode(np.stack([frames, frames[::-1]]), quality=quality)
        assert batched.ids.shape == (2, 3, 3, 2, quality)
        assert np.array_equal(model.decode(batched)[0], pictures) and pictures.shape == frames.shape
        live = model.stream(quality)
        ids = np.concatenate([live.encode(frames), live.flush()])
        assert np.array_equal(ids, tokens.ids)


def test_qualities_that_a_model_does_not_have_are_refused(model: Model) -> None:
    with pytest.raises(UsageError, match="--quality 4: this model has qualities 1 to 3"):
        model.encoder(8, 8, quality=4)
    with pytest.raises(UsageError, match="ids are"):
        model.decoder(8, 8).push(np.zeros((1, 1, 1, 4), np.int64))
    with pytest.raises(ConfigError, match="conv model has one"):
        ModelConfig(qualities=2)
    with pytest.raises(ConfigError, match="default_quality"):
        ModelConfig(kind="recurrent", qualities=2, default_quality=3)
    with pytest.raises(ConfigError, match="period is 1 to"):
        ModelConfig(kind="recurrent", backbone={"period": 0})
    with pytest.raises(ConfigError, match="levels begin with groups"):
        build_tokenizer(ModelConfig(kind="recurrent", backbone=SIZES, quantizer=QuantizerConfig(levels=(5, 5, 5))))
    with pytest.raises(ConfigError, match="quantize with fsq"):
        ModelConfig(kind="recurrent", quantizer=QuantizerConfig(kind="lfq", bits=8))
    assert isinstance(model.tokenizer, RecurrentTokenizer)


def test_the_mode_is_the_one_that_takes_away_most(model: Model) -> None:
    """Against trying all of them; and what is laid out is what the encoder meant."""
    assert isinstance(model.tokenizer, RecurrentTokenizer)
    modes, quantizer = model.tokenizer.recurrence.modes, model.tokenizer.quantizer
    draw = torch.Generator().manual_seed(0)
    off = torch.randn(200, modes.coefficients + 3, generator=draw) * torch.rand(200, 1, generator=draw) * 4
    units = modes.units(torch.rand(200, modes.coefficients + 3, generator=draw) + 0.1)
    hot, steps = modes.choose(off, units)
    codes = quantizer.ids_to_codes(quantizer.quantize(modes.latent(hot, steps, torch.zeros_like(steps))).ids)
    said, found = modes.lay_out(codes, units)
    assert torch.equal(said[:, modes.coefficients :], hot)
    left = (off[:, : modes.coefficients] - found).square().sum(-1)
    for mode in range(modes.count):
        other = codes.clone()
        other[:, 0] = mode / (modes.count - 1) * 2 - 1
        group, size = divmod(mode, modes.steps)
        wanted = off[:, group * modes.n : (group + 1) * modes.n] / units[:, group, size]
        other[:, 1:] = (wanted / modes.reach).clamp(-1, 1).mul(modes.reach).round() / modes.reach
        assert (left <= (off[:, : modes.coefficients] - modes.lay_out(other, units)[1]).square().sum(-1) + 1e-4).all()


def test_gradients_reach_every_parameter() -> None:
    tokenizer = make().tokenizer.requires_grad_(True)
    for layer in ("recurrence.predict", "encoder.analysis", "decoder.synthesis"):
        torch.nn.init.orthogonal_(tokenizer.get_buffer(f"{layer}.weight"))
    frames = torch.from_numpy(noise(8, 16, 16, 3))[None].float() / 127.5 - 1
    output = tokenizer(frames, quality=3)
    (output.frames.square().mean() + output.quantized.loss + output.extra["estimate"].square().mean()).backward()
    missing = [name for name, p in tokenizer.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


def test_an_untrained_model_is_a_coarse_transform_codec(tmp_path: Path) -> None:
    """Started from components, before any step."""
    y, x = np.mgrid[0:64, 0:64]
    picture = np.stack([x * 3 + 20 * np.sin(y / 3), y * 3 + 20 * np.cos(x / 4), (x + y) * 1.5], -1).clip(0, 255)
    _write_png(tmp_path / "still.png", picture.astype(np.uint8))
    clips = Clips(DataConfig(folders=(str(tmp_path),), short_side=64), 48, print)
    config = ModelConfig(
        kind="recurrent",
        backbone=SIZES | {"coefficients": 64, "period": 32, "groups": 8},
        quantizer=QuantizerConfig(levels=(16, *(5,) * 6)),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = build_tokenizer(config).eval()
        start_from_components(tokenizer, clips, seed=0)
    frames = torch.from_numpy(picture[None, None].repeat(13, axis=1)).float() / 127.5 - 1
    with torch.no_grad():
        found = tokenizer(frames).frames
    error = (found - frames).square().mean((0, 2, 3, 4))
    assert error.max() < 0.06, error  # 18 dB; random weights give less than 5


def _write_png(path: Path, picture: np.ndarray) -> None:
    import av

    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("png", width=picture.shape[1], height=picture.shape[0], pix_fmt="rgb24")
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def test_thrift_is_the_mean_digit_in_steps() -> None:
    config = ModelConfig(
        kind="recurrent", qualities=2, backbone=SIZES | {"thrift": 0.5}, quantizer=QuantizerConfig(levels=(4, 5, 3))
    )
    tokenizer = build_tokenizer(config)
    patches = torch.rand(2, 3, 4, 4, 768) * 2 - 1
    _, quantized, _ = tokenizer.reconstruct(patches, 2, True)
    five, three = (quantized.ids // 4 % 5 - 2).abs(), (quantized.ids // 20 - 1).abs()
    wanted = 0.5 * torch.stack([five, three]).float().mean()
    assert torch.allclose(quantized.terms["thrift"], wanted, rtol=1e-5) and wanted > 0
    quantized.terms["thrift"].backward()
    assert tokenizer.get_parameter("encoder.outlet.weight").grad is not None


def test_ids_are_about_what_varies_most_what_stands_still_and_what_moves() -> None:
    still = torch.arange(40) % 4 == 1
    order = _grouped(still, groups=8, n=2).tolist()
    assert sorted(order) == list(range(40))
    assert order[:2] == [0, 1]
    assert order[2:6] == [5, 9, 13, 17]  # two groups that stand still
    assert order[6:8] == [2, 3]  # one that moves
    assert order[8:] == sorted(order[8:])


def test_bad_weights(model: Model) -> None:
    for name in ("uncertainty", "thrift"):
        for value in (-1.0, float("nan"), float("inf")):
            with pytest.raises(ConfigError, match=name):
                ModelConfig(
                    kind="recurrent", backbone=SIZES | {name: value}, quantizer=QuantizerConfig(levels=(4, 5, 5))
                )
