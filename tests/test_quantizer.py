"""Quantizers against vector_quantize_pytorch, and against themselves."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidtok.errors import ConfigError, UnknownNameError
from vidtok.model.quantizer import QUANTIZERS, QuantizerConfig, build_quantizer

configs = st.one_of(
    st.builds(
        lambda levels: QuantizerConfig(kind="fsq", levels=tuple(levels)),
        st.lists(st.integers(2, 16), min_size=1, max_size=9),
    ),
    st.builds(
        lambda kind, bits: QuantizerConfig(kind=kind, bits=bits), st.sampled_from(["lfq", "bsq"]), st.integers(1, 36)
    ),
)


@settings(deadline=None, max_examples=60)
@given(configs, st.integers(0, 2**32))
def test_ids_codes_ids(config: QuantizerConfig, seed: int) -> None:
    quantizer = build_quantizer(config).eval()
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(2, 3, 4, 5, quantizer.dim, generator=generator) * 2
    codes, ids, loss, terms = quantizer.quantize(z)
    assert ids.shape == (2, 3, 4, 5) and ids.dtype == torch.int64
    assert int(ids.min()) >= 0 and int(ids.max()) < quantizer.vocabulary == math.prod(quantizer.digits)
    assert torch.allclose(quantizer.ids_to_codes(ids), codes, atol=1e-6)
    assert float(codes.abs().max()) <= 1 + 1e-6
    assert loss.item() == 0 and not terms
    again = quantizer.quantize(torch.atanh(codes * 0.999) if config.kind == "fsq" else codes)
    assert torch.equal(again.ids, ids)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("levels", [(8, 8, 8, 8, 4, 4), (8, 5, 5, 5), (2, 3, 4)])
def test_fsq_gives_the_ids_of_the_library(levels: tuple[int, ...]) -> None:
    library = pytest.importorskip("vector_quantize_pytorch")
    theirs = library.FSQ(list(levels), preserve_symmetry=True)
    ours = build_quantizer(QuantizerConfig(levels=levels))
    z = torch.randn(1, 4000, len(levels), generator=torch.Generator().manual_seed(0)) * 1.5
    codes, ids = theirs(z)
    found = ours.quantize(z)
    assert torch.equal(found.ids, ids.long())
    assert torch.allclose(found.codes, codes, atol=1e-6)
    assert torch.allclose(ours.ids_to_codes(ids.long()), theirs.indices_to_codes(ids), atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["lfq", "bsq"])
def test_lfq_and_bsq_give_the_ids_of_the_library(kind: str) -> None:
    library = pytest.importorskip("vector_quantize_pytorch")
    theirs = library.LFQ(dim=9, codebook_size=2**9, spherical=kind == "bsq").eval()
    ours = build_quantizer(QuantizerConfig(kind=kind, bits=9)).eval()
    z = torch.randn(1, 4000, 9, generator=torch.Generator().manual_seed(0))
    codes, ids, _ = theirs(z)
    found = ours.quantize(z)
    assert torch.equal(found.ids, ids)
    assert torch.allclose(found.codes, codes, atol=1e-6)


@pytest.mark.parametrize("kind", sorted(QUANTIZERS))
def test_gradients_pass_straight_through(kind: str) -> None:
    config = QuantizerConfig(levels=(5, 5, 5)) if kind == "fsq" else QuantizerConfig(kind=kind, bits=3)
    quantizer = build_quantizer(config).train()
    z = torch.randn(64, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    codes, _, loss, _ = quantizer.quantize(z)
    (codes.sum() + loss).backward()
    assert z.grad is not None and torch.isfinite(z.grad).all() and float(z.grad.abs().sum()) > 0
    assert (loss.item() != 0) == (kind != "fsq")


def test_wide_quantizers_build_no_codebook() -> None:
    quantizer = build_quantizer(QuantizerConfig(kind="bsq", bits=36)).train()
    assert sum(t.numel() for t in [*quantizer.parameters(), *quantizer.buffers()]) < 100
    assert quantizer.quantize(torch.randn(10, 36)).ids.max() < 2**36


def test_bad_configs() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'fsq'"):
        QuantizerConfig(kind="fsk", levels=(4,))
    bad = ({"levels": ()}, {"levels": (1, 4)}, {"levels": (16,) * 10}, {"kind": "lfq"}, {"kind": "bsq", "bits": 40})
    for values in bad:
        with pytest.raises(ConfigError):
            QuantizerConfig(**values)  # type: ignore[arg-type]
