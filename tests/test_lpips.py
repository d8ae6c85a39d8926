"""LPIPS: the stored numbers of the lpips wheel, weights found where they are said to be, and never fetched unasked."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from vidtok.errors import ModelError, UnknownNameError, UsageError
from vidtok.metrics import lpips, weights
from vidtok.metrics.lpips import BACKBONES, VARIABLE, Lpips, find_weights, load_lpips
from vidtok.training.losses import LossConfig, build, total

PEERS = Path(os.environ.get("VIDTOK_PEERS", Path(__file__).parents[2] / "shared/peers")) / "metrics"


def backbone(net: str) -> dict[str, Tensor]:
    """Deterministic weights under torchvision's names, by the rule of the stored numbers."""
    tensors = {}
    for key, tensor in Lpips(net).features.state_dict(prefix="features.").items():
        noise = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(tuple(tensor.shape))
        scale = (2 / tensor[0].numel()) ** 0.5 if tensor.ndim == 4 else 0.02
        tensors[key] = torch.from_numpy((noise * scale).astype(np.float32))
    return tensors


@pytest.fixture(autouse=True)
def nothing_at_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No variable, an empty torch.hub folder, no network; one thread."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(weights, "_download", refuse)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def alex(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("alex") / "alexnet-owt-7be5be79.safetensors"
    save_file(backbone("alex"), path)
    return path


def pictures(seed: int = 0, count: int = 2, side: int = 40) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.skipif(not PEERS.is_dir(), reason="the stored numbers are not here")
@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_the_numbers_of_the_wheel(net: str, tmp_path: Path) -> None:
    folder = PEERS / f"lpips_{net}"
    torch.save({**backbone(net), "classifier.0.weight": torch.zeros(3)}, tmp_path / BACKBONES[net].file)
    network = load_lpips(net, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    with np.load(folder / "fixture.npz") as arrays:
        images = {name: torch.from_numpy(arrays[name]) for name in arrays if name.startswith("img")}
    for result in manifest["results"]:
        x, y = (images[f"img{result['pair']}_{side}"].movedim(-1, 0)[None].float() / 127.5 - 1 for side in "ab")
        assert network(x, y).item() == pytest.approx(result["distance_float64"], rel=1e-5)
        assert network(x, x).item() == 0


@pytest.mark.parametrize("net", sorted(BACKBONES))
def test_heads_are_in_the_package(net: str, tmp_path: Path) -> None:
    heads = lpips.load_file(lpips.HEADS)
    shapes = [tuple(head.shape) for head in Lpips(net).heads]
    assert [tuple(heads[f"{net}.lin{i}.model.1.weight"].shape) for i in range(5)] == shapes
    assert all(float(head.min()) >= 0 for head in heads.values())
    assert "Richard Zhang" in lpips.HEADS.with_name("lpips_heads.LICENSE.txt").read_text()


def test_gradients_are_finite_also_where_all_features_are_zero(tmp_path: Path) -> None:
    tensors = backbone("alex")
    tensors["features.10.bias"] -= 1e4  # the last map is zero everywhere
    save_file(tensors, tmp_path / "dead.safetensors")
    network = load_lpips("alex", tmp_path / "dead.safetensors")
    assert not network.maps(pictures())[-1].any()
    x = pictures(1).requires_grad_()
    (found,) = torch.autograd.grad(network(x, pictures(2)).sum(), x)
    assert torch.isfinite(found).all() and found.abs().sum() > 0
    black = torch.zeros(1, 3, 40, 40).requires_grad_()
    (found,) = torch.autograd.grad(network(black, black.detach().clone()).sum(), black)
    assert torch.isfinite(found).all()


def test_it_is_a_loss_and_trains_only_the_reconstruction(alex: Path) -> None:
    state = torch.get_rng_state()
    terms = build([LossConfig(kind="lpips", net="alex", path=str(alex), weight=2.0)])
    assert torch.equal(torch.get_rng_state(), state), "building draws no random numbers"
    x, y = (pictures(seed, 6).view(2, 3, 3, 40, 40).movedim(2, -1) for seed in (3, 4))
    x.requires_grad_()
    value, shares = total(terms, x, y, 0)
    (found,) = torch.autograd.grad(value, x)
    network = load_lpips("alex", alex)
    assert not any(p.requires_grad for p in network.parameters())
    wanted = 2 * network(pictures(3, 6), pictures(4, 6)).mean()
    assert value.item() == pytest.approx(wanted.item(), rel=1e-5) and shares == {"lpips": value.item()}
    assert total(terms, x - 0.01 * found.sign(), y, 0)[0] < value


def test_weights_are_found_by_path_variable_and_cache(alex: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = Path(torch.hub.get_dir()) / "checkpoints" / BACKBONES["alex"].file
    cached.parent.mkdir(parents=True)
    torch.save(backbone("alex"), cached)
    assert find_weights("alex") == cached
    monkeypatch.setenv(VARIABLE, str(alex.parent))
    assert find_weights("alex") == alex
    other = cached.with_name("other.pth")
    cached.rename(other)
    assert find_weights("alex", other) == other
    x, y = pictures(5), pictures(6)
    assert torch.equal(load_lpips("alex", other)(x, y), load_lpips("alex")(x, y))


def test_a_whole_state_of_the_package_brings_its_own_heads(alex: Path, tmp_path: Path) -> None:
    slices = {"0": 1, "3": 2, "6": 3, "8": 4, "10": 5}
    state = {
        f"net.slice{slices[k.split('.')[1]]}.{k.removeprefix('features.')}": v for k, v in backbone("alex").items()
    }
    heads = {k.removeprefix("alex."): 2 * v for k, v in lpips.load_file(lpips.HEADS).items() if k.startswith("alex.")}
    torch.save({**state, **heads}, tmp_path / "whole.pth", _use_new_zipfile_serialization=False)
    whole, plain = load_lpips("alex", tmp_path / "whole.pth"), load_lpips("alex", alex)
    assert torch.allclose(whole(pictures(), pictures(1)), 2 * plain(pictures(), pictures(1)))


def test_missing_weights_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=rf"path of vgg16-397923af.pth.*{VARIABLE}.*download = true") as caught:
        load_lpips("vgg")
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=r"path says .*nowhere"):
        build([LossConfig(kind="lpips", path=str(tmp_path / "nowhere"))])
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(ModelError, match=f"{VARIABLE} says"):
        load_lpips("vgg")
    with pytest.raises(UnknownNameError, match="did you mean 'alex'"):
        load_lpips("alexnet")


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("pwned",)


@pytest.mark.filterwarnings("ignore")
def test_odd_files_are_refused(alex: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "noise.pth").write_bytes(b"this is no file of weights")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "noise.safetensors").write_bytes(b"\x00" * 40)
    (tmp_path / "cut.pth").write_bytes(alex.read_bytes()[:1000])
    torch.save({"features.0.weight": Hostile()}, tmp_path / "hostile.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    for name in ("noise.pth", "empty.pth", "noise.safetensors", "cut.pth", "hostile.pth", "list.pth"):
        with pytest.raises(ModelError, match=name) as caught:
            load_lpips("alex", tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()
    with pytest.raises(ModelError, match="does not hold the vgg backbone"):
        load_lpips("vgg", alex)


def test_a_download_is_asked_for_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "published" / BACKBONES["alex"].file
    source.parent.mkdir()
    torch.save(backbone("alex"), source)
    monkeypatch.undo()  # the real download, but from a file
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(lpips.Backbone, "url", property(lambda self: source.as_uri()))
    with pytest.raises(ModelError, match="invalid hash value"):
        load_lpips("alex", download=True)
    assert not list((tmp_path / "hub").rglob("*alexnet*")), "a wrong file is not kept"
    good = replace(BACKBONES["alex"], sha256=hashlib.sha256(source.read_bytes()).hexdigest())
    monkeypatch.setitem(BACKBONES, "alex", good)
    load_lpips("alex", download=True)
    source.unlink()
    load_lpips("alex")  # kept, and found without asking again
    with pytest.raises(ModelError, match="cannot download"):
        load_lpips("vgg", download=True)


@pytest.mark.parametrize(("net", "smallest"), [("alex", 31), ("vgg", 16)])
def test_pictures_that_are_too_small(net: str, smallest: int) -> None:
    network = Lpips(net)
    assert len(network.maps(pictures(side=smallest))) == 5
    with pytest.raises(UsageError, match=f"sides of {smallest}"):
        network(pictures(side=smallest - 1), pictures(side=smallest - 1))
