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
