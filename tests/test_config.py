"""Dataclasses from tables: what is wrong is named, nothing is ignored."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from vidtok.config import apply_overrides, from_dict, load_toml, to_dict
from vidtok.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = 3
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outer:
    rate: float
    label: str | None = None
    inner: Inner = field(default_factory=Inner)
    many: tuple[Inner, ...] = ()


def test_round_trip() -> None:
    config = from_dict(Outer, {"rate": 1, "inner": {"size": 5, "names": ["a"]}, "many": [{"size": 1}, {}]})
    assert config == Outer(rate=1.0, inner=Inner(size=5, names=("a",)), many=(Inner(size=1), Inner()))
    assert from_dict(Outer, to_dict(config)) == config


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rate": 1.0, "lable": "x"}, "did you mean 'label'"),
        ({"rate": "fast"}, "rate: 'fast' is not a float"),
        ({"rate": True}, "rate: True is not a float"),
        ({"rate": 1.0, "inner": {"size": 1.5}}, "inner.size: 1.5 is not a int"),
        ({"rate": 1.0, "inner": 3}, "inner: a table is wanted"),
        ({}, "rate"),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        from_dict(Outer, values)


def test_overrides() -> None:
    values = apply_overrides({"inner": {"size": 1}}, ["inner.size=4", "rate=0.5", "label=a word", "inner.names=['x']"])
    assert values == {"inner": {"size": 4, "names": ["x"]}, "rate": 0.5, "label": "a word"}
    with pytest.raises(ConfigError, match="key=value"):
        apply_overrides({}, ["rate"])
    with pytest.raises(ConfigError, match="not a table"):
        apply_overrides({"rate": 1}, ["rate.x=2"])


def test_bad_toml_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("a = = 1")
    with pytest.raises(ConfigError, match=r"bad\.toml"):
        load_toml(path)
    with pytest.raises(ConfigError, match="No such file"):
        load_toml(tmp_path / "absent.toml")
