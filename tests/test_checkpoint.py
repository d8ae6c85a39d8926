"""Model files: content ids, names, and everything that can be wrong with them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch

from vidtok import checkpoint
from vidtok.errors import ModelError, UnknownNameError, UsageError


def test_save_and_load(tiny_model: Path) -> None:
    tokenizer, metadata = checkpoint.load_tokenizer(tiny_model)
    entry = checkpoint.describe(tiny_model)
    assert entry.name == "tiny" and entry.model_id == metadata["content_id"] and len(entry.model_id) == 64
    assert not tokenizer.training and next(tokenizer.parameters()).dtype == torch.float32
    assert checkpoint.load(tiny_model) is checkpoint.load(tiny_model)


def test_the_content_id_covers_every_weight_and_the_config(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer, metadata = checkpoint.load_tokenizer(tiny_model)
    same = checkpoint.save_tokenizer(tmp_path / "same.safetensors", tokenizer, name="another name")
    assert same == metadata["content_id"]
    tokenizer.encoder.outlet.bias[0] += 1
    assert checkpoint.save_tokenizer(tmp_path / "other.safetensors", tokenizer, name="tiny") != same


def test_a_flipped_bit_is_found(tiny_model: Path, tmp_path: Path) -> None:
    data = bytearray(tiny_model.read_bytes())
    data[-10] ^= 1
    path = tmp_path / "flipped.safetensors"
    path.write_bytes(data)
    with pytest.raises(ModelError, match="content id"):
        checkpoint.load_tokenizer(path)


def rewrite(source: Path, target: Path, **changes: str) -> Path:
    """Copy a model file with other metadata."""
    data = source.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] |= changes
    text = json.dumps(header).encode()
    target.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return target


def test_hostile_files_cost_one_clear_error(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    for data in (b"", b"12345", b"\xff" * 100, struct.pack("<Q", 2**62), struct.pack("<Q", 20) + b"[" * 20):
        path.write_bytes(data)
        with pytest.raises(ModelError):
            checkpoint.load_tokenizer(path)
    config = json.loads(checkpoint.read_metadata(tiny_model)["config"])
    huge = json.dumps(config | {"backbone": config["backbone"] | {"width": 8192, "encoder_blocks": 256}})
    endless = json.dumps(config | {"backbone": config["backbone"] | {"encoder_blocks": 10**9}})
    for text in ("", "[]", "{}", '{"kind": "conv", "surprise": 1}', '{"kind": "magic"}', huge, endless):
        with pytest.raises(ModelError):
            checkpoint.load_tokenizer(rewrite(tiny_model, path, config=text))
    path.write_bytes(tiny_model.read_bytes()[:-100])
    with pytest.raises(ModelError):
        checkpoint.load_tokenizer(path)


def test_names(tiny_model: Path, tmp_path: Path) -> None:
    assert checkpoint.find_model(tiny_model) == ("tiny", tiny_model)
    (tmp_path / "model.safetensors").write_bytes(tiny_model.read_bytes())
    assert checkpoint.find_model(tmp_path)[0] == "tiny"
    with pytest.raises(UnknownNameError, match="did you mean 'default'"):
        checkpoint.find_model("defalt")
    with pytest.raises(ModelError, match="no model file"):
        checkpoint.find_model(tmp_path / "absent.safetensors")
    with pytest.raises(UsageError, match="cuda"):
        checkpoint.load(tiny_model, device="cuda:9" if not torch.cuda.is_available() else "mps")
    with pytest.raises(UnknownNameError, match="device"):
        checkpoint.load(tiny_model, device="gpu")
    with pytest.raises(UnknownNameError, match="precision"):
        checkpoint.load(tiny_model, device="cpu", precision="fp31")


def test_every_alias_and_built_in_model_loads() -> None:
    names = [entry.name for entry in checkpoint.list_models()]
    assert names and set(checkpoint.ALIASES.values()) <= set(names)
    for name in names:
        model = checkpoint.load(name, device="cpu")
        assert checkpoint.describe(name).model_id == model.model_id
        assert checkpoint.describe(name).file_bytes <= 20 << 20


def test_a_prior_beside_a_model_is_no_model(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one.safetensors").write_bytes(tiny_model.read_bytes())
    (tmp_path / "one.prior.safetensors").write_bytes(b"")
    monkeypatch.setattr(checkpoint, "BUILT_IN", tmp_path)
    assert [entry.name for entry in checkpoint.list_models()] == ["one"]
    assert checkpoint.find_model("one") == ("one", tmp_path / "one.safetensors")
    with pytest.raises(UnknownNameError):
        checkpoint.find_model("one.prior")
