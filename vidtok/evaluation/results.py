"""Rows in a file, a line of JSON each, from which an interrupted evaluation goes on.

    {"vidtok_results": 1, "settings": {...}, "versions": {...}}
    {"path": ..., "model": ..., "psnr": ..., "state": {...}}     a clip; `state` is for the summaries
    {"path": ..., "error": ...}                                   a clip that failed; done again by --resume
    {"bd": true, ...} and {"summary": true, ...}                  at the end

A line is on the disk before the next clip begins. A last line that was cut off is dropped.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

import vidtok
from vidtok.bitstream.output import OutputFile
from vidtok.errors import OutputError, OutputExistsError, UsageError
from vidtok.evaluation.options import EvalOptions, Row
from vidtok.evaluation.states import pack, unpack
from vidtok.metrics.weights import sha256_of
from vidtok.video.ordinary import library_versions

VERSION = 1
KEY = "vidtok_results"
Name = tuple[str, str, str]


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    return {
        "vidtok": vidtok.__version__,
        "torch": importlib.metadata.version("torch"),
        "numpy": np.__version__,
        **library_versions(),
        "python": platform.python_version(),
    }


def name_of(row: Row) -> Name:
    """What tells the rows of clips apart: path, coder, quality."""
    return row["path"], str(row.get("model") or row.get("codec")), str(row.get("quality"))


class Results:
    """The file of an evaluation. `stored` has the rows that are whole already, with their `state`."""

    def __init__(self, path: Path, options: EvalOptions) -> None:
        self.path, self.stored = path, dict[Name, Row]()
        self._head = {KEY: VERSION, "settings": options.settings, "versions": versions()}
        if path.exists() and not options.resume and not options.encode.force:
            raise OutputExistsError(f"{str(path)!r} exists; --resume goes on from it, --force overwrites it")
        lines = self._read() if path.exists() and options.resume else []
        with OutputFile(path, force=True) as whole:
            whole.write(b"".join(_line(row) for row in [self._head, *lines]))
        try:
            self._file: BinaryIO = open(path, "ab")  # noqa: SIM115, closed by close
        except OSError as exc:
            raise OutputError(f"cannot write {str(path)!r}: {exc.strerror}") from exc

    def __enter__(self) -> Results:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def take(self, head: Row, source: Path) -> Row | None:
        """The stored row of a clip if its source is still the same file."""
        row = self.stored.get(name_of(head))
        try:
            return row if row is not None and row.get("source_sha256") == sha256_of(source) else None
        except OSError:
            return None

    def add(self, row: Row) -> None:
        """Write a row, with its `state` as text."""
        state = {"state": pack(row["state"])} if row.get("state") else {}
        try:
            self._file.write(_line(row | state))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as exc:
            raise OutputError(f"cannot write {str(self.path)!r}: {exc.strerror}") from exc

    def _read(self) -> list[Row]:
        """The lines to keep; fills `stored`. UsageError where the file is of another evaluation."""
        try:
            lines = self.path.read_bytes().split(b"\n")
        except OSError as exc:
            raise OutputError(f"cannot read {str(self.path)!r}: {exc.strerror}") from exc
        rows = [row for line in lines if (row := _parse(line)) is not None]
        if not rows or KEY not in rows[0]:
            raise UsageError(f"{self.path} is not a file of results; --force overwrites it")
        self._compare(rows[0])
        kept = []
        for row in rows[1:]:
            if "error" in row or "path" not in row or "frames" not in row:
                continue
            try:
                whole = row | {"state": unpack(row.get("state", {}))}
            except Exception:  # a damaged line can hold anything; its clip is done again
                continue
            self.stored[name_of(row)] = whole
            kept.append(row)
        return kept

    def _compare(self, head: Row) -> None:
        for part in (KEY, "settings", "versions"):
            now, then = json.loads(_line({part: self._head[part]}))[part], head.get(part)
            if now != then:
                both = (now, then) if isinstance(now, dict) and isinstance(then, dict) else ({part: now}, {part: then})
                differing = (key for key in {**both[0], **both[1]} if both[0].get(key) != both[1].get(key))
                key = next(differing, part)
                raise UsageError(
                    f"{self.path} was made with {key} {_short(both[1].get(key))}, not {_short(both[0].get(key))}; "
                    f"do the same again, or give another --output"
                )


def read_results(path: Path) -> list[Row]:
    """Rows of clips, deltas and summaries of a file of results, without `state`; UsageError if it is none."""
    try:
        rows = [row for line in path.read_bytes().split(b"\n") if (row := _parse(line)) is not None]
    except OSError as exc:
        raise UsageError(f"cannot read {path}: {exc.strerror}") from exc
    if not rows or KEY not in rows[0]:
        raise UsageError(f"{path} is not a file of results")
    return [{key: value for key, value in row.items() if key != "state"} for row in rows[1:]]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _parse(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _line(row: Row) -> bytes:
    return json.dumps(_finite(row), allow_nan=False, default=str).encode("utf-8", "surrogateescape") + b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def settled(options: EvalOptions, weights: dict[str, str]) -> Row:
    """What every summary says of how its numbers came about."""
    return {"settings": options.settings, "weights": weights, "versions": versions()}



