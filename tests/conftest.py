"""Fixtures: small clips made with PyAV, a small untrained model, the command line in this process, and real data."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ["VIDTOK_PRIORS"] = str(ROOT / "tests" / "golden")  # the prior of golden files; children inherit it


@dataclass(frozen=True)
class Ran:
    """What a command did: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


def synthesise(path: Path, frames: int = 10, width: int = 64, height: int = 48, rate: int = 24) -> Path:
    """A clip with gradients, an edge and motion, H.264 by suffix; returns the path."""
    import av
    import numpy as np

    y, x = np.mgrid[0:height, 0:width]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(rate), options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for t in range(frames):
            picture = np.stack([(x * 3 + 5 * t) % 256, (y * 4) % 256, 128 + 60 * np.sin((x + y + 4 * t) / 9)], -1)
            picture[(x - 8 - 2 * t) ** 2 + (y - height // 2) ** 2 < 60] = (250, 240, 30)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def make_clip() -> Callable[..., Path]:
    """`make_clip(path, frames=10, width=64, height=48, rate=24)`."""
    return synthesise


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten frames of 64x48; not to be changed."""
    return synthesise(tmp_path_factory.mktemp("clip") / "clip.mp4")


def save_model(path: Path, seed: int) -> Path:
    """A model file with few channels and random weights: everything but the picture is as with a real one."""
    import torch

    from vidtok.checkpoint import save_tokenizer
    from vidtok.model.quantizer import QuantizerConfig
    from vidtok.model.tokenizer import ModelConfig, build_tokenizer

    backbone = {"width": 16, "hidden": 16, "delayed": 4, "encoder_blocks": 1, "decoder_blocks": 2}
    config = ModelConfig(backbone=backbone, quantizer=QuantizerConfig(levels=(8, 5, 5)))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer = build_tokenizer(config).eval()
        for name, parameter in tokenizer.named_parameters():
            if name.endswith(("out.weight", "phase.bias")):  # these start at zero, and would hide what they do
                torch.nn.init.normal_(parameter, std=0.3)
        save_tokenizer(path, tokenizer, name=path.stem, description="random weights")
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small untrained model called `tiny`."""
    return save_model(tmp_path_factory.mktemp("model") / "tiny.safetensors", seed=0)


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one, called `other`: the same shape, other weights."""
    return save_model(tmp_path_factory.mktemp("model") / "other.safetensors", seed=1)


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """`run("encode", path, ...)`: the command line in this process."""
    from vidtok.cli import main

    def call(*arguments: object) -> Ran:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert isinstance(stopped.value.code, int)
        return Ran(stopped.value.code, out, err)

    return call


@pytest.fixture(scope="session")
def data() -> Path:
    """Real videos beside the repository (or at VIDTOK_DATA); the test is skipped where there are none."""
    folder = Path(os.environ.get("VIDTOK_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "odd" / "expected.json").exists():
        pytest.skip(f"no test videos at {folder}; VIDTOK_DATA says where they are")
    return folder


def save_rates(path: Path, qualities: int = 3, period: int = 3, motion: tuple[float, ...] = ()) -> Path:
    """A recurrent model made by hand that every stage makes better: a few cosines, rounded, with what is left going on.

    Its networks add a little noise, so that nothing in it is without effect. `motion`: displacements, pixels a frame.
    """
    import numpy as np
    import torch

    from vidtok.checkpoint import save_tokenizer
    from vidtok.model.quantizer import QuantizerConfig
    from vidtok.model.tokenizer import ModelConfig, RecurrentTokenizer, build_tokenizer

    t, y, x = (np.cos(np.pi * (np.arange(n) + 0.5)[:, None] * np.arange(3) / n) for n in (4, 8, 8))
    shapes = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    cosines = [np.einsum("t,y,x->tyx", t[:, a], y[:, b], x[:, c]) for a, b, c in shapes]
    basis = np.stack([(c[..., None] * np.eye(3)[k]).ravel() for c in cosines for k in range(3)])
    basis /= np.linalg.norm(basis, axis=1, keepdims=True)
    backbone = {"width": 8, "hidden": 8, "delayed": 4, "phases": 2, "period": period, "coefficients": 12, "notes": 4}
    backbone |= {"groups": 4, "decoder_blocks": 1, "update_blocks": 1, "encoder_blocks": 1}
    backbone |= {"motion": motion}
    levels = (8, 5, 5, 5, *(2 * len(motion) + 1,) * 2) if motion else (8, 5, 5, 5)
    config = ModelConfig(
        kind="recurrent", backbone=backbone, quantizer=QuantizerConfig(levels=levels), qualities=qualities
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_tokenizer(config).eval()
        assert isinstance(model, RecurrentTokenizer)
        core = model.recurrence
        for layer in (core.outlet, core.guess, core.scale, core.gate, model.encoder.outlet, model.decoder.outlet):
            torch.nn.init.normal_(layer.weight, std=0.01)
        model.encoder.analysis.weight.copy_(torch.from_numpy(basis)[..., None, None])
        model.decoder.synthesis.weight.copy_(torch.from_numpy(basis.T)[..., None, None])
        core.predict.weight.copy_(torch.eye(12)[..., None, None])
        core.guess.bias.data[:12] = 3.0  # believe what was seen before
        core.scale.bias.data.copy_(torch.tensor([1.5] * 3 + [0.5] * 9))
        core.gate.bias.data.fill_(6.0)  # believe the stage below
        save_tokenizer(path, model, name=path.stem, description="made by hand")
    return path


@pytest.fixture(scope="session")
def rates_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model called `rates` of three qualities, each better than the one below."""
    return save_rates(tmp_path_factory.mktemp("model") / "rates.safetensors")
