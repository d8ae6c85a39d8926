"""Training a prior: the network that torch trains is the integer one; runs are exactly resumed; files get smaller."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from token_files import make_header, prior_tensors

from vidtok.bitstream import priors
from vidtok.bitstream.network import Network, Numbers, PriorConfig
from vidtok.bitstream.prior import Course
from vidtok.bitstream.reader import TokenReader
from vidtok.bitstream.repack import repack
from vidtok.bitstream.writer import TokenWriter
from vidtok.errors import ConfigError, ModelError
from vidtok.training import run
from vidtok.training.ids import TokenData, find_files
from vidtok.training.quantized import QuantizedNetwork

LEVELS = (8, 5, 5)
CONFIG = """
kind = "prior"
name = "made-up"
steps = 6
batch = 2
latents = 4
size = 6
ema = 0.5
save_every = 4
log_every = 1
validate_every = 100
[data]
folders = ["FOLDER"]
[model]
embedding = 6
state = 5
features = 12
hidden = 8
[optimizer]
adam_rate = 0.01
warmup_steps = 2
"""


def write_ids(path: Path, seed: int, latents: int = 9, **changes: Any) -> Path:
    """Two stages: digits that mostly stay from one latent frame to the next, and the same ids with a digit changed."""
    header = make_header(
        vocabulary=200, digits=LEVELS, codebooks=2, quality=2, grid_height=8, grid_width=10, width=80, height=64,
        chunk_latents=4, **changes,
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 200, (latents, 8, 10))
    for t in range(1, latents):
        ids[t] = np.where(rng.random((8, 10)) < 0.9, (ids[t - 1] + 1) % 200, ids[t])
    with TokenWriter(path, header) as sink:
        sink.write(np.stack([ids, ids // 8 * 8 + rng.integers(0, 2, ids.shape)], -1), range(4 * latents - 3))
    return path


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    for seed in range(3):
        write_ids(folder / f"{seed}.vtok", seed, latents=9 - seed)
    return folder


def config(tokens: Path, tmp_path: Path) -> Path:
    path = tmp_path / "prior.toml"
    path.write_text(CONFIG.replace("FOLDER", str(tokens)))
    return path


class Bits:
    """What symbols cost, by the shares that they are coded with."""

    def __init__(self) -> None:
        self.found: list[np.ndarray] = []

    def code(self, ends: Numbers, symbols: Numbers) -> Numbers:
        places = np.arange(len(symbols))
        self.found.append(16 - np.log2(ends[symbols + 1, places] - ends[symbols, places]))
        return symbols


def test_the_trained_network_is_the_integer_one() -> None:
    """Bits of torch's network are those of the shares that numpy finds, but for how shares are rounded."""
    what = PriorConfig(digits=(8, 5, 5, 3), stages=2, period=3, embedding=7, state=6, features=16, hidden=5)
    torch.manual_seed(0)
    trained = QuantizedNetwork(what)
    with torch.no_grad():
        for p in trained.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    tensors = trained.tensors()
    assert all(np.unique(t).size > 2 for t in tensors.values())
    learned = Network(what, tensors)
    rng = np.random.default_rng(0)
    symbols = np.stack([rng.integers(0, n, (1, 3, 4, 6, 2)) for n in what.levels], -1)
    nats = trained(torch.from_numpy(symbols), 5)
    assert nats.shape == symbols.shape
    course = Course(learned, 5)
    for k in range(2):
        bits = Bits()
        course.run(symbols[0, ..., k, :].copy(), bits.code)
        found = float(np.concatenate(bits.found).sum())
        assert found == pytest.approx(float(nats[..., k, :].detach().sum()) / np.log(2), rel=2e-3)
    nats.mean().backward()
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in trained.parameters())


def test_loaded_tensors_are_those_that_were_saved(tmp_path: Path) -> None:
    what = PriorConfig(digits=(8, 5), stages=1, period=3, embedding=7, state=6, features=16, hidden=5)
    path = tmp_path / ("x" + priors.SUFFIX)
    path.write_bytes(priors.to_bytes(what, prior_tensors(what), model_id="0" * 64))
    assert {k: v.tolist() for k, v in priors.read(path).tensors.items()} == {
        k: v.tolist() for k, v in prior_tensors(what).items()
    }


def test_a_resumed_run_is_the_same_run(tokens: Path, tmp_path: Path) -> None:
    path = config(tokens, tmp_path)
    whole = run(path, output=tmp_path / "whole", threads=1)
    with pytest.raises(ConfigError, match="--resume"):
        run(path, output=tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill(record: dict[str, Any], total: int) -> None:
        if record["step"] == 5:
            raise Killed

    with pytest.raises(Killed):
        run(path, output=tmp_path / "parts", threads=1, progress=kill)
    assert json.loads((tmp_path / "parts" / "last.json").read_text())["step"] == 4
    parts = run(path, output=tmp_path / "parts", threads=1, resume=True)

    def log(folder: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (tmp_path / folder / "log.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if k not in ("clips_per_second", "seconds_left")} for line in lines]

    assert log("whole") == log("parts") and [line["step"] for line in log("whole")] == [1, 2, 3, 4, 5, 6]
    same, again = priors.read(whole), priors.read(parts)
    assert priors.content_id(same.config, same.tensors) == priors.content_id(again.config, again.tensors)


def test_what_is_trained_makes_files_smaller(
    tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_ids(tmp_path / "other.vtok", 77)
    found = run(
        config(tokens, tmp_path),
        ["steps=120", "log_every=40", f'data.validation=["{other}"]', "validate_every=60", "ema=0.9"],
        output=tmp_path / "priors",
        threads=1,
    )
    assert found.name == "model.prior.safetensors"
    lines = [json.loads(line) for line in (tmp_path / "priors" / "log.jsonl").read_text().splitlines()]
    first, *_, last = [line for line in lines if line["kind"] == "validation"]
    assert last["bits_per_id"] < 0.9 * first["bits_per_id"] and len(last["stage_bits"]) == 2
    best = json.loads((tmp_path / "priors" / "best.json").read_text())
    assert best["bits_per_id"] == min(line["bits_per_id"] for line in lines if line["kind"] == "validation")
    (tmp_path / "priors" / "best.prior.safetensors").unlink()
    monkeypatch.setenv(priors.FOLDERS, str(tmp_path / "priors"))
    out = {mode: io.BytesIO() for mode in ("lzma", "auto")}
    for mode, file in out.items():
        repack(other, file, entropy=mode)
    with TokenReader(io.BytesIO(out["auto"].getvalue())) as reader, TokenReader(other) as wanted:
        assert reader.header.entropy == "prior" and np.array_equal(reader.ids[:], wanted.ids[:])
        stored = 8 * sum(stage.payload_bytes for n in range(3) for stage in reader.read_payloads(n)[0].stages)
        assert stored / reader.ids[:].size == pytest.approx(last["bits_per_id"], rel=0.15)
    assert len(out["auto"].getvalue()) < 0.9 * len(out["lzma"].getvalue())


def test_batches_follow_from_seed_and_step(tokens: Path) -> None:
    data = TokenData(find_files([str(tokens)]), 4, 32)
    assert (data.stages, data.digits, len(data.stretches)) == (2, LEVELS, 3 + 2 + 2)
    shapes, places = set(), set()
    for step in range(20):
        batch, place = data.batch(0, step, 3, 6)
        again, _ = data.batch(0, step, 3, 6)
        assert np.array_equal(batch, again) and batch.shape[2:] == (6, 6, 2, 2)
        shapes.add(batch.shape[:2])
        places.add(place)
    assert shapes == {(3, 4), (3, 3), (3, 1)} and places == {0, 4, 8}
    assert data.batch(0, 1, 1, 64)[0].shape[2:4] == (8, 8)


def test_ids_that_cannot_be_trained_on(tokens: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no token file there"):
        find_files([str(tmp_path / "gone")])
    stranger = write_ids(tmp_path / "x.vtok", 0, model_id="f" * 64)
    with pytest.raises(ConfigError, match="another model"):
        TokenData([*find_files([str(tokens)]), stranger], 4, 32)
    unknown = write_ids(tmp_path / "y.vtok", 0, model_id=None)
    with pytest.raises(ConfigError, match="ids of a known model"):
        TokenData([unknown], 4, 32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("steps=0", "steps"),
        ("size=5", "even"),
        ("model.hidden=0", "hidden"),
        ("model.x=1", "unknown key"),
        ("batch=0", "batch"),
    ],
)
def test_configs_that_make_no_sense(tokens: Path, tmp_path: Path, change: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run(config(tokens, tmp_path), [change], output=tmp_path / "run")


def test_non_finite_numbers_end_a_run(tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: QuantizedNetwork, symbols: torch.Tensor, first: int) -> torch.Tensor:
        return self.get_parameter("tell").sum() * torch.full(symbols.shape, torch.nan)

    monkeypatch.setattr(QuantizedNetwork, "forward", forward)
    with pytest.raises(ModelError, match="3 steps in a row"):
        run(config(tokens, tmp_path), ["max_bad_steps=3"], output=tmp_path / "run", warn=lambda text: None)
