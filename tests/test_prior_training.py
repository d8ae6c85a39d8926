"""Training a prior: the network that torch trains is the integer one; runs are exactly resumed; files get smaller."""

from __future__ import annotations

import io
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
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
from vidtok.training.inherit import inherit
from vidtok.training.quantized import QuantizedNetwork

LEVELS = (8, 5, 5)
SIZES = {"period": 32, "embedding": 6, "state": 5, "features": 12, "hidden": 8}
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


def write_ids(
    path: Path, seed: int, latents: int = 9, free: tuple[int, ...] = (), above: bool = False, **changes: Any
) -> Path:
    """Two stages: digits that mostly stay from one latent frame to the next, and the same ids with a digit changed.

    Free ones are the same over 4 x 4 cells, and above the first stage (unless `above`) those in the middle.
    """
    header = make_header(
        vocabulary=200 * math.prod(free), digits=(*LEVELS, *free), codebooks=2, quality=2,
        grid_height=8, grid_width=10, width=80, height=64,
        chunk_latents=4, **changes,
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 200, (latents, 8, 10))
    for t in range(1, latents):
        ids[t] = np.where(rng.random((8, 10)) < 0.9, (ids[t - 1] + 1) % 200, ids[t])
    stages = [ids, ids // 8 * 8 + rng.integers(0, 2, ids.shape)]
    unit = 200
    for levels in free:
        wide = rng.integers(0, levels, (latents, 2, 3)).repeat(4, 1).repeat(4, 2)[:, :8, :10]
        stages = [stages[0] + unit * wide, stages[1] + unit * (wide if above else levels // 2)]
        unit *= levels
    with TokenWriter(path, header) as sink:
        sink.write(np.stack(stages, -1), range(4 * latents - 3))
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


@pytest.mark.parametrize(
    ("digits", "free", "block"),
    [((8, 5, 5, 3), 0, 1), ((8, 5, 5, 3, 9, 4), 2, 1), ((8, 5, 9), 1, 1), ((8, 5, 9, 4), 2, 2)],
)
def test_the_trained_network_is_the_integer_one(digits: tuple[int, ...], free: int, block: int) -> None:
    """Bits of torch's network are those of the shares that numpy finds, but for how shares are rounded."""
    sizes = {"stages": 2, "period": 3, "embedding": 7, "state": 6, "features": 16, "hidden": 5}
    what = PriorConfig(digits=digits, free=free, block=block, **sizes)
    torch.manual_seed(0)
    trained = QuantizedNetwork(what)
    with torch.no_grad():
        for p in trained.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    tensors = trained.tensors()
    assert all(np.unique(t).size > 2 for t in tensors.values())
    learned = Network(what, tensors)
    rng = np.random.default_rng(0)
    symbols = np.stack([rng.integers(0, n, (1, 3, 6, 10, 2)) for n in what.levels], -1)
    symbols[:, :, 2:, :4, :, what.tied :] = symbols[:, :1, 2:3, :1, :, what.tied :]  # some that are the same
    symbols[..., 1, what.tied :] = what.middle
    for y, x in itertools.product(range(block), repeat=2):
        symbols[:, :, y::block, x::block, :, what.tied :] = symbols[:, :, ::block, ::block, :, what.tied :]
    nats = trained(torch.from_numpy(symbols), 5)
    assert nats.shape == symbols.shape
    course = Course(learned, 5)
    for k in range(2):
        bits = Bits()
        course.run(symbols[0, ..., k, :].copy(), bits.code)
        found = float(np.concatenate(bits.found).sum())
        assert found == pytest.approx(float(nats[..., k, :].detach().sum()) / np.log(2), rel=2e-3)
    assert not nats[..., 1, what.tied :].detach().any() and (nats[:, :, ::block, ::block, 0, what.tied :] > 0).all()
    nats.mean().backward()
    still = {name for name, p in trained.named_parameters() if p.grad is None or not p.grad.any()}
    assert still == ({"free_before"} if free == 1 else set())  # of use to later free symbols only


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


def test_a_prior_starts_from_another(tmp_path: Path) -> None:
    """From a prior's file or a run, whose floats are better; what is new leaves the old symbols as they were."""
    old = PriorConfig(digits=(8, 5, 5), joint=8, stages=1, **SIZES)
    torch.manual_seed(0)
    first = QuantizedNetwork(old)
    file, run_file = tmp_path / ("old" + priors.SUFFIX), tmp_path / "last.safetensors"
    file.write_bytes(priors.to_bytes(old, first.tensors(), model_id="0" * 64))
    floats = {f"averaged.{name}": t for name, t in first.state_dict().items()}
    run_file.write_bytes(save(floats, {"run": json.dumps({"config": {"kind": "prior"}})}))
    for path in (file, run_file):
        same = QuantizedNetwork(old)
        assert inherit(same, path) == "new: nothing"
        assert all((t == first.tensors()[name]).all() for name, t in same.tensors().items())
    assert all((same.state_dict()[name] == t).all() for name, t in first.state_dict().items())  # of the run
    more = QuantizedNetwork(PriorConfig(digits=(8, 5, 5, 7), free=1, joint=8, stages=2, **SIZES))
    said = inherit(more, file)
    assert "tell from row 18" in said and "known_stage from row 1" in said and "embed," not in said.split("free_")[0]
    symbols = torch.from_numpy(np.random.default_rng(0).integers(0, 5, (1, 3, 4, 6, 1, 4)))
    assert torch.equal(more(symbols, 2)[..., :3], first(symbols[..., :3], 2))
    other = QuantizedNetwork(PriorConfig(digits=(3, 5), joint=3, stages=1, **SIZES))
    assert "tell," in inherit(other, file)
    run_file.write_bytes(save(floats, {"run": json.dumps({"config": {"kind": "tokenizer"}})}))
    with pytest.raises(ConfigError, match="neither a prior nor"):
        inherit(more, run_file)
    run_file.write_bytes(b"")
    for broken in (run_file, tmp_path / "gone"):
        with pytest.raises(ModelError, match="cannot be read"):
            inherit(more, broken)


def test_a_run_with_free_digits_starts_from_another(tmp_path: Path) -> None:
    """Digits that stay the same over areas cost little at once; where they may not be, the file is refused."""
    what = PriorConfig(digits=LEVELS, stages=2, **SIZES)
    start = tmp_path / ("start" + priors.SUFFIX)
    start.write_bytes(priors.to_bytes(what, prior_tensors(what, weight=20), model_id="0" * 64))
    for seed in range(2):
        write_ids(tmp_path / f"{seed}.vtok", seed, free=(7, 9))
    said: list[str] = []
    settings = ["model.free=2", "model.block=2", f"init={start}", "validate_every=3"]
    settings.append(f'data.validation=["{tmp_path / "0.vtok"}"]')
    path = config(tmp_path, tmp_path)
    found = priors.read(run(path, settings, output=tmp_path / "run", threads=1, warn=said.append))
    assert (found.config.digits, found.config.free) == ((*LEVELS, 7, 9), 2)
    assert len(said) == 1 and "started from" in said[0] and "tell from row 33" in said[0]
    data = TokenData(find_files([str(tmp_path / "0.vtok")]), 4, 32, 2, 2)
    cells = data.symbols[0][:4, ..., :1, -2:].copy()
    bits, plain = Bits(), Bits()
    course = Course(found, 0)
    symbols = data.symbols[0][:4, ..., 0, :].copy()
    course.run(symbols, bits.code)
    assert np.array_equal(symbols[..., -2:], cells[..., 0, :])
    apart = np.random.default_rng(0).integers(0, 5, symbols.shape)
    apart[..., -2:] = apart[:, ::2, ::2, -2:].repeat(2, 1).repeat(2, 2)
    Course(found, 0).run(apart, plain.code)
    told = [np.concatenate([b for k, b in enumerate(kept.found) if is_free(k)]).mean() for kept in (bits, plain)]
    assert told[0] < 0.7 * told[1]
    write_ids(tmp_path / "2.vtok", 2, free=(7, 9), above=True)
    with pytest.raises(ConfigError, match="or not in the middle"):
        run(path, settings, output=tmp_path / "other")


def is_free(batch: int) -> bool:
    """Of a latent frame's batches, the first are two free symbols in each of seven turns, then come 2 in 4 passes."""
    return batch % (7 * 2 + 4 * 2) < 7 * 2


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
