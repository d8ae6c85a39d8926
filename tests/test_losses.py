"""Losses: each distortion against what it is said to be, terms with schedules, and the entropies of quantizers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from vidtok.config import from_dict, to_dict
from vidtok.errors import ConfigError, UnknownNameError, UsageError
from vidtok.metrics.structure import WEIGHTS
from vidtok.model.quantizer import Quantized, QuantizerConfig, build_quantizer
from vidtok.training.losses import LOSSES, LossConfig, build, ms_ssim, total


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pair(frames: int = 3, height: int = 24, width: int = 20, noise: float = 0.2, batch: int = 2) -> tuple[Tensor, ...]:
    """Smooth clips and the same with noise, (B, T, H, W, 3) in [-1, 1]."""
    generator = torch.Generator().manual_seed(height)
    small = torch.rand(batch * frames, 3, 6, 6, generator=generator) * 2 - 1
    y = functional.interpolate(small, (height, width), mode="bicubic").clamp(-1, 1)
    y = y.movedim(1, -1).unflatten(0, (batch, frames)).contiguous()
    return (y + noise * torch.randn(y.shape, generator=generator)).clamp(-1, 1), y


def gradient(function: object, x: Tensor, y: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    (found,) = torch.autograd.grad(function(x, y), x)  # type: ignore[operator]
    return found


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_distortions_are_least_for_equal_clips_and_train(name: str) -> None:
    loss, (x, y) = LOSSES[name], pair()
    least = loss(y, y)
    near, far = loss(torch.lerp(y, x, 0.3), y), loss(x, y)
    assert least.shape == () and least < near < far
    assert torch.allclose(loss(x, y), loss(y, x), rtol=1e-5)
    parts = torch.stack([loss(x[:1], y[:1]), loss(x[1:], y[1:])]).mean()
    assert torch.allclose(parts, far, rtol=1e-4), "the mean over equal parts of a batch is that of the batch"
    for a in (x, y):  # also where nothing is left to improve
        assert torch.isfinite(gradient(loss, a, y)).all()
    assert loss(x - 0.01 * gradient(loss, x, y).sign(), y) < far
    single = loss(x[:, :1], y[:, :1])
    assert torch.isfinite(single) and (name == "temporal") == (single == 0)


def test_temporal_sees_changes_of_the_error_only() -> None:
    _, y = pair()
    assert LOSSES["temporal"](y + 0.25, y) < 1e-6
    flicker = torch.tensor([0.0, 0.5, 0.0]).view(1, 3, 1, 1, 1)
    assert LOSSES["temporal"](y + flicker, y).item() == pytest.approx(0.5, rel=1e-5)


def test_charbonnier_is_a_smooth_l1() -> None:
    x, y = pair()
    assert abs(LOSSES["charbonnier"](x, y) - LOSSES["l1"](x, y)) < 1e-3
    assert gradient(LOSSES["charbonnier"], y, y).abs().max() == 0


@pytest.mark.parametrize(("height", "width", "noise"), [(161, 175, 0.1), (176, 162, 1.0)])
def test_ms_ssim_is_that_of_pytorch_msssim(height: int, width: int, noise: float) -> None:
    library = pytest.importorskip("pytorch_msssim")

    def theirs(x: Tensor, y: Tensor) -> Tensor:
        a, b = ((v.flatten(0, 1).movedim(-1, 1) + 1) / 2 for v in (x, y))
        return 1 - library.ms_ssim(a, b, data_range=1)  # type: ignore[no-any-return]

    x, y = pair(2, height, width, noise, batch=1)
    assert ms_ssim(x, y).item() == pytest.approx(theirs(x, y).item(), abs=1e-5)
    ours, wanted = gradient(ms_ssim, x, y), gradient(theirs, x, y)
    assert functional.cosine_similarity(ours.flatten(), wanted.flatten(), dim=0) > 0.99999
    assert ours.norm().item() == pytest.approx(wanted.norm().item(), rel=1e-4)


@pytest.mark.parametrize(("side", "scales"), [(160, 4), (81, 4), (80, 3), (40, 2), (20, 1), (11, 1)])
def test_short_frames_have_fewer_scales(side: int, scales: int) -> None:
    library = pytest.importorskip("pytorch_msssim.ssim")
    x, y = pair(1, side, side + 9)
    a, b = ((v.flatten(0, 1).movedim(-1, 1) + 1) / 2 for v in (x, y))
    window = library._fspecial_gauss_1d(11, 1.5).repeat(3, 1, 1, 1)
    wanted = torch.ones(2, 3)
    for scale, weight in enumerate(WEIGHTS[:scales]):
        if scale:
            padding = [size % 2 for size in a.shape[2:]]
            a, b = (functional.avg_pool2d(v, 2, padding=padding) for v in (a, b))
        ssim, contrast = library._ssim(a, b, 1.0, window, size_average=False)
        wanted *= (ssim if scale == scales - 1 else contrast) ** (weight / sum(WEIGHTS[:scales]))
    assert ms_ssim(x, y).item() == pytest.approx(1 - wanted.mean().item(), abs=1e-5)


def test_ms_ssim_has_a_gradient_where_the_original_has_none() -> None:
    library = pytest.importorskip("pytorch_msssim")
    _, y = pair(1, 176, 176, batch=1)
    grain = 0.3 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    x, y = 0.5 * y - grain, 0.5 * y + grain  # fine detail is opposed, coarse is alike
    found = gradient(ms_ssim, x, y)
    assert torch.isfinite(found).all() and found.abs().max() > 0 and ms_ssim(x - 0.01 * found.sign(), y) < ms_ssim(x, y)
    a, b = ((v[0].movedim(-1, 1) + 1) / 2 for v in (x, y))
    assert not gradient(lambda a, b: library.ms_ssim(a, b, data_range=1), a, b).any()
    assert torch.isfinite(gradient(ms_ssim, -y, y)).all()
    y = y[:, :, :48, :48]
    with pytest.raises(UsageError, match="10x48 are too small"):
        ms_ssim(y[:, :, :10], y[:, :, :10])


def test_schedules_are_linear_between_points_and_constant_outside() -> None:
    config = LossConfig(kind="l1", weight=2.0, schedule=((10, 0.0), (20, 1.0), (40, 0.5)))
    assert [config.weight_at(step) for step in (0, 10, 15, 20, 30, 40, 99)] == [0, 0, 1, 2, 1.5, 1, 1]
    assert LossConfig(kind="l1", weight=3.0).weight_at(7) == 3


def test_total_adds_what_it_says() -> None:
    x, y = pair()
    x.requires_grad_()
    terms = build([LossConfig(kind="l2"), LossConfig(kind="temporal", weight=0.5, schedule=((0, 0.0), (10, 1.0)))])
    for step, factor in ((0, 0.0), (5, 0.25), (10, 0.5)):
        value, shares = total(terms, x, y, step)
        wanted = {"l2": LOSSES["l2"](x, y).item(), "temporal": factor * LOSSES["temporal"](x, y).item()}
        assert shares == pytest.approx(wanted, rel=1e-6)
        assert value.item() == pytest.approx(sum(shares.values()), rel=1e-6)
        found, by_hand = (
            torch.autograd.grad(v, x)[0] for v in (value, LOSSES["l2"](x, y) + factor * LOSSES["temporal"](x, y))
        )
        assert torch.allclose(found, by_hand, atol=1e-8)
    alone, _ = total(build([LossConfig(kind="root4")]), x, y, 0)
    assert alone.item() == LOSSES["root4"](x, y).item()


def test_total_measures_in_fp32() -> None:
    x, y = pair()
    terms = build([LossConfig(kind="ms_ssim"), LossConfig(kind="l1")])
    coarse = x.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, _ = total(terms, coarse, y, 0)
    assert value.dtype == torch.float32 and value == total(terms, coarse.float(), y, 0)[0]


def test_a_bad_value_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES, "l1", lambda x, y: (x - y).sum() / 0 * 0)
    x, y = pair()
    value, shares = total(build([LossConfig(kind="l2"), LossConfig(kind="l1")]), x, y, 0)
    assert math.isnan(value.item()) and [name for name, v in shares.items() if math.isnan(v)] == ["l1"]


def test_a_term_of_weight_zero_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(x: Tensor, y: Tensor) -> Tensor:
        raise AssertionError("computed")

    monkeypatch.setitem(LOSSES, "ms_ssim", never)
    x, y = pair()
    terms = build([LossConfig(kind="l1"), LossConfig(kind="ms_ssim", schedule=((5, 0.0), (6, 1.0)))])
    assert total(terms, x, y, 5)[1]["ms_ssim"] == 0
    with pytest.raises(AssertionError, match="computed"):
        total(terms, x, y, 6)


def quantized(config: QuantizerConfig, samples: int = 500) -> Quantized:
    z = torch.randn(samples, config.bits, generator=torch.Generator().manual_seed(1)) * 0.5
    z[:, 0] += 0.3 * z[:, -1]
    return build_quantizer(config).train().quantize(z.requires_grad_())


def test_entries_multiply_the_terms_of_the_quantizer() -> None:
    x, y = pair()
    found = quantized(QuantizerConfig(kind="lfq", bits=5))
    assert found.loss.item() == pytest.approx(sum(v.item() for v in found.terms.values()))
    plain, shares = total(build([LossConfig(kind="l1")]), x, y, 0, found)
    assert plain.item() == pytest.approx(LOSSES["l1"](x, y).item() + found.loss.item(), rel=1e-6)
    assert list(shares) == ["l1", "commitment", "sample_entropy", "batch_entropy"]
    entry = LossConfig(kind="batch_entropy", weight=3.0, schedule=((0, 0.0), (4, 1.0)))
    terms = build([LossConfig(kind="l1"), entry])
    for step, factor in ((0, 0.0), (2, 1.5), (9, 3.0)):
        value, weighted = total(terms, x, y, step, found)
        assert weighted == pytest.approx({**shares, "batch_entropy": factor * shares["batch_entropy"]})
        assert value.item() == pytest.approx(sum(weighted.values()), rel=1e-5)
    assert list(total(terms, x, y, 0)[1]) == ["l1"], "without a latent there are only distortions"
    nameless = Quantized(found.codes, found.ids, found.loss)
    assert total(build([LossConfig(kind="l1")]), x, y, 0, nameless)[1]["quantizer"] == pytest.approx(found.loss.item())
    fsq = build_quantizer(QuantizerConfig(levels=(4, 4))).quantize(torch.randn(9, 2))
    assert list(total(build([LossConfig(kind="l1")]), x, y, 0, fsq)[1]) == ["l1"]
    with pytest.raises(ConfigError, match="no such term"):
        total(terms, x, y, 0, fsq)


@pytest.mark.parametrize("kind", ["lfq", "bsq"])
@pytest.mark.parametrize("bits", [1, 4, 7])
def test_grouped_entropies_are_those_of_the_whole_codebook(kind: str, bits: int) -> None:
    config = QuantizerConfig(kind=kind, bits=bits, commitment=0.5, entropy=2.0, batch_entropy=3.0, entropy_group=bits)
    quantizer = build_quantizer(config).train()
    z = torch.randn(300, bits, generator=torch.Generator().manual_seed(bits)) * 0.4 + 0.2
    if kind == "bsq":
        z = functional.normalize(z, dim=-1)
    book = quantizer.ids_to_codes(torch.arange(2**bits))
    scale = float(book.abs().max())
    chances = (-torch.cdist(z.double(), book.double()).square() / scale**2).softmax(-1)

    def entropy(p: Tensor) -> Tensor:
        return -torch.special.xlogy(p, p).sum(-1) / math.log(2) / bits

    terms = {name: float(value) for name, value in quantizer.quantize(z).terms.items()}
    assert terms["sample_entropy"] == pytest.approx(2 * float(entropy(chances).mean()), rel=1e-4)
    assert terms["batch_entropy"] == pytest.approx(-3 * float(entropy(chances.mean(0))), rel=1e-4)
    nearest = book[chances.argmax(-1)]
    assert terms["commitment"] == pytest.approx(0.5 * float((z - nearest).square().mean()) / scale**2, rel=1e-4)


def test_larger_groups_see_that_bits_go_together() -> None:
    z = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0)).sign() * torch.ones(1, 6)  # all six alike

    def batch_entropy(group: int) -> float:
        config = QuantizerConfig(kind="lfq", bits=6, entropy=1.0, entropy_group=group)
        return -float(build_quantizer(config).train().quantize(3 * z).terms["batch_entropy"])

    found = {group: batch_entropy(group) for group in (1, 2, 3, 4, 6)}
    wanted = {1: 1, 2: 1 / 2, 3: 1 / 3, 4: 1 / 3, 6: 1 / 6}  # one bit a group, over six bits
    assert found == pytest.approx(wanted, abs=1e-3)


def test_eighteen_bits_build_no_codebook() -> None:
    config = QuantizerConfig(kind="bsq", bits=18, entropy_group=9)
    quantizer = build_quantizer(config).train()
    z = torch.randn(2, 3, 8, 8, 18, requires_grad=True)
    largest = 0

    def note(tensor: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = quantizer.quantize(z).loss
    loss.backward()
    assert z.grad is not None and torch.isfinite(z.grad).all() and z.grad.abs().sum() > 0
    assert largest <= 384 * 2**5, "samples times the patterns of half a group, at most"


def test_configs_come_from_tables_and_are_checked() -> None:
    config = from_dict(LossConfig, {"kind": "temporal", "weight": 1, "schedule": [[0, 0], [1000, 1]]})
    assert config.schedule == ((0.0, 0.0), (1000.0, 1.0)) and from_dict(LossConfig, to_dict(config)) == config
    with pytest.raises(UnknownNameError, match="did you mean 'l1'"):
        LossConfig(kind="l11")
    with pytest.raises(UnknownNameError, match="did you mean 'vgg'"):
        LossConfig(kind="lpips", net="vgg16")
    for values in (
        {"weight": -1.0},
        {"weight": math.nan},
        {"schedule": ((0.0,),)},
        {"schedule": ((5.0, 1.0), (5.0, 2.0))},
        {"schedule": ((0.0, -1.0),)},
        {"download": True},
    ):
        with pytest.raises(ConfigError, match="'l1'"):
            LossConfig(kind="l1", **values)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="twice"):
        build([LossConfig(kind="l1"), LossConfig(kind="l1", weight=2.0)])
    for losses in ([], [LossConfig(kind="commitment")]):
        with pytest.raises(ConfigError, match="at least one distortion"):
            build(losses)
    with pytest.raises(ConfigError, match="entropy_group"):
        QuantizerConfig(kind="lfq", bits=9, entropy_group=0)
    with pytest.raises(ConfigError, match="not negative"):
        QuantizerConfig(kind="lfq", bits=9, batch_entropy=-0.1)
