"""--refine: better ids for the same decoder, the same bytes however it is computed, nothing changed where it is off."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vidtok import checkpoint
from vidtok.bitstream.container import TokenReader
from vidtok.bitstream.repack import repack
from vidtok.codec import DecodeOptions, EncodeOptions, decode_clips, encode_file
from vidtok.errors import UsageError
from vidtok.model.layers import HAS_ONEDNN, Conv
from vidtok.model.model import Model
from vidtok.model.patches import to_patches
from vidtok.model.stream import Schedule
from vidtok.model.tokenizer import RecurrentTokenizer


@pytest.fixture(scope="module")
def model(rates_model: Path) -> Model:
    """One whose encoder guesses badly: there is something to find."""
    loaded = checkpoint.load(rates_model)
    tokenizer = copy.deepcopy(loaded.tokenizer)
    assert isinstance(tokenizer, RecurrentTokenizer)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        torch.nn.init.normal_(tokenizer.encoder.outlet.weight, std=0.2)
    return Model(tokenizer, name="bad", model_id=loaded.model_id, device=loaded.device)


@pytest.fixture(scope="module")
def frames(make_clip: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Fourteen frames, 34 x 46: sides that are no multiples of a stride, and a little noise."""
    from vidtok.video import VideoReader

    with VideoReader(make_clip(tmp_path_factory.mktemp("clip") / "c.mp4", frames=14, width=46, height=34)) as video:
        pixels = np.stack([frame.pixels for frame in video])
    noise = np.random.default_rng(0).integers(-9, 10, pixels.shape)
    return (pixels + noise).clip(0, 255).astype(np.uint8)


def ids_of(
    model: Model, frames: np.ndarray, quality: int, refine: int, pieces: int = 99, **schedule: Any
) -> np.ndarray:
    stream = model.encoder(*frames.shape[1:3], Schedule(**schedule), quality, refine)
    parts = [stream.push(frames[i : i + pieces]) for i in range(0, len(frames), pieces)]
    return np.concatenate([*parts, stream.flush()])


def psnr(model: Model, ids: np.ndarray, frames: np.ndarray) -> float:
    found = model.decode_ids(ids, frames=len(frames), height=34, width=46).astype(float)
    return float(10 * np.log10(255**2 / ((found - frames) ** 2).mean((1, 2, 3))).mean())


def size_of(ids: np.ndarray) -> float:
    """Mean bits of digits off the middle, as refining counts them."""
    digits = np.stack([ids // 8 // 5**k % 5 for k in range(3)])
    return float(np.log2(1 + abs(digits - 2)).mean())


@pytest.mark.parametrize("quality", [1, 2])
def test_it_buys_distortion_and_rate(model: Model, frames: np.ndarray, quality: int) -> None:
    plain, better = (ids_of(model, frames, quality, steps) for steps in (0, 8))
    gained = psnr(model, better, frames) - psnr(model, plain, frames)
    saved = size_of(plain) - size_of(better)
    assert gained > 0.1 and saved > -0.02, (gained, saved)
    assert (plain % 8 == better % 8)[0].reshape(30, -1)[:, 0].all()  # modes of the first latent frame stay


def test_no_latent_frame_gets_worse_than_its_start(model: Model, frames: np.ndarray) -> None:
    """The cost that is made small, of the first latent frame: there nothing else has changed."""
    plain, better = (ids_of(model, frames[:1], 1, steps) for steps in (0, 6))
    tokenizer = model.tokenizer

    def error(ids: np.ndarray) -> int:
        patches, _ = tokenizer.decode_ids(torch.from_numpy(ids)[None], None)
        padded = np.pad(frames[:1], ((0, 0), (0, 6), (0, 2), (0, 0)), "edge").repeat(4, 0)
        wanted = to_patches(torch.from_numpy(padded)[None], model.geometry)
        return int((patches.long() - wanted.long()).square().sum())

    first, last = error(plain), error(better)
    values = 5 * 6 * 768
    price = 20 * first / values * 90  # of the bits of a digit, of which there are 90
    assert last + price * size_of(better) < first + price * size_of(plain)


def test_bytes_do_not_depend_on_how(model: Model, frames: np.ndarray) -> None:
    whole = ids_of(model, frames, 2, 3)
    assert not np.array_equal(whole, ids_of(model, frames, 2, 0))
    threads = torch.get_num_threads()
    try:
        for pieces, count, schedule in ((1, 1, {}), (5, 2, {"chunk_frames": 1}), (99, 4, {"tile": 16, "batch": 3})):
            torch.set_num_threads(count)
            assert np.array_equal(ids_of(model, frames, 2, 3, pieces, **schedule), whole), (pieces, count, schedule)
    finally:
        torch.set_num_threads(threads)


def test_a_lower_quality_is_a_prefix_of_a_higher_one(model: Model, frames: np.ndarray) -> None:
    best = ids_of(model, frames, 3, 2)
    assert np.array_equal(ids_of(model, frames, 2, 2), best[..., :2])
    assert np.array_equal(ids_of(model, frames, 1, 2), best[..., 0])


def test_files(run: Callable[..., Any], clip: Path, rates_model: Path, tiny_model: Path, tmp_path: Path) -> None:
    def encoded(name: str, **options: Any) -> bytes:
        encode_file(clip, tmp_path / name, EncodeOptions(model=rates_model, segment_frames=5, force=True, **options))
        return (tmp_path / name).read_bytes()

    plain = encoded("plain", quality=3)
    assert encoded("off", quality=3, refine=0) == plain
    refined = encoded("refined", quality=3, refine=3)
    assert refined != plain and encoded("again", quality=3, refine=3, chunk_frames=1, threads=1) == refined
    repack(tmp_path / "refined", tmp_path / "cut", quality=2)
    assert (tmp_path / "cut").read_bytes() == encoded("two", quality=2, refine=3)
    with TokenReader(tmp_path / "refined") as reader:  # decoded as any other, from the middle too
        whole = np.concatenate([pixels for pixels, _ in decode_clips(reader, DecodeOptions(model=rates_model))])
        options = DecodeOptions(model=rates_model, frames=(6, 9))
        part = np.concatenate([pixels for pixels, _ in decode_clips(reader, options)])
    assert np.array_equal(part, whole[6:9])
    chosen = encoded("target", target_psnr=1, refine=3)  # whichever takes fewer bytes
    assert chosen == min((encoded(f"one{n}", quality=1, refine=n) for n in (0, 3)), key=len)
    out = tmp_path / "x.vtok"
    ran = run("encode", clip, "-o", out, "--model", tiny_model, "--refine", 2)
    assert (ran.code, len(ran.err.splitlines())) == (2, 1) and "only recurrent models" in ran.err and not out.exists()
    assert run("encode", clip, "-o", out, "--model", rates_model, "--refine", -1).code == 2
    assert run("encode", clip, "-o", out, "--model", rates_model, "--refine", 1).code == 0
    for make in (lambda: EncodeOptions(refine=-1), lambda: checkpoint.load(tiny_model).encoder(8, 8, refine=1)):
        with pytest.raises(UsageError, match="--refine"):
            make()


def test_arrays_take_it_too(model: Model, frames: np.ndarray) -> None:
    both = np.stack([frames[:5], frames[5:10]])
    ids = model.encode(both, 2, refine=2).ids
    assert np.array_equal(ids[1], ids_of(model, frames[5:10], 2, 2))


@pytest.mark.skipif(not HAS_ONEDNN, reason="without oneDNN there is one path only")
@pytest.mark.parametrize("kernel", [1, 3])
def test_slopes_of_fixed_convolutions(kernel: int) -> None:
    """Those of autograd, through the exact kernel; bit for bit whatever stands beside them."""
    draw = torch.Generator().manual_seed(0)
    conv = Conv(7, 5, kernel).eval().requires_grad_(False)
    with torch.no_grad():
        conv.bias.uniform_(-1, 1, generator=draw)
    x, slope = torch.randn(2, 3, 6, 9, 7, generator=draw), torch.randn(2, 3, 6, 9, 5, generator=draw)
    own = x.clone().requires_grad_(True)
    y = conv(own)
    (found,) = torch.autograd.grad(y, own, slope)
    other = x.clone().requires_grad_(True)
    image = other.reshape(6, 6, 9, 7).permute(0, 3, 1, 2)
    wanted = F.conv2d(image, conv.weight, conv.bias, padding=kernel // 2).permute(0, 2, 3, 1).reshape(y.shape)
    assert torch.allclose(y, wanted, atol=1e-5)
    assert torch.allclose(found, torch.autograd.grad(wanted, other, slope)[0], atol=1e-5)
    with torch.no_grad():
        assert torch.equal(conv(x), y)
    one = x[1:, 1:2].clone().requires_grad_(True)
    (alone,) = torch.autograd.grad(conv(one), one, slope[1:, 1:2].contiguous())
    assert torch.equal(alone, found[1:, 1:2])
