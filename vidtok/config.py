"""Frozen dataclasses <-> TOML and JSON: every key known, typed and checked, nothing silently ignored."""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from vidtok.errors import ConfigError, UnknownNameError

C = TypeVar("C")


def from_dict(cls: type[C], values: Mapping[str, Any], where: str = "") -> C:
    """Build dataclass `cls` from nested mappings; unknown keys, missing keys and wrong types raise ConfigError."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where or cls.__name__}: a table is wanted, got {values!r}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            raise ConfigError(f"{where or cls.__name__}: {UnknownNameError('key', key, fields)}")
        arguments[key] = _convert(hints[key], value, f"{where}.{key}" if where else key)
    try:
        return cls(**arguments)
    except TypeError as exc:
        raise ConfigError(f"{where or cls.__name__}: {exc}") from exc
    except ConfigError as exc:
        raise exc if where == "" else ConfigError(f"{where}: {exc}") from exc


def to_dict(config: Any) -> dict[str, Any]:
    """The inverse of `from_dict`; tuples become lists, so that JSON and TOML agree."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def load_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file as a dict; ConfigError names file and line."""
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: not valid TOML: {exc}") from exc


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Set `a.b=value` items in a nested dict; values are TOML, bare words are taken as strings."""
    for item in overrides:
        dotted, sep, text = item.partition("=")
        if not sep:
            raise ConfigError(f"{item!r}: overrides look like key=value")
        *parents, leaf = dotted.strip().split(".")
        table = values
        for name in parents:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{item!r}: {name} is not a table")
        try:
            table[leaf] = tomllib.loads(f"v = {text}")["v"]
        except tomllib.TOMLDecodeError:
            table[leaf] = text
    return values


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, value, where)
    if origin in (types.UnionType, typing.Union):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        for option in options:
            if option is not type(None):
                try:
                    return _convert(option, value, where)
                except ConfigError:
                    continue
    elif origin is tuple and isinstance(value, (list, tuple)):
        item = typing.get_args(hint)[0]
        return tuple(_convert(item, v, where) for v in value)
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif (hint is int and isinstance(value, int) and not isinstance(value, bool)) or (
        hint in (str, bool) and isinstance(value, hint)
    ):
        return value
    elif origin is dict and isinstance(value, Mapping):
        return dict(value)
    name = getattr(hint, "__name__", str(hint)) if origin is None else str(hint)
    raise ConfigError(f"{where}: {value!r} is not a {name}")
