"""What a command prints: results on stdout, words and bars on stderr, nothing that a terminal would obey."""

from __future__ import annotations

import json
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from vidtok.errors import VidtokError

Row = Mapping[str, Any]
Progress = Callable[[int, int | None], None]


def escape(text: str) -> str:
    """`text` on one line, every control, bidi or undecodable character as a backslash escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def plain(value: Any) -> Any:
    """`value` as JSON has it: paths and fractions as strings, arrays as lists, NaN and infinity as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, Path | Fraction):
        return str(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays, without importing numpy to ask
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def show(value: Any) -> str:
    """A value in a table for people."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1 else f"{value:.2f}"
    if isinstance(value, list | tuple):
        return " x ".join(show(item) for item in value)
    return escape(str(value))


def size(count: float) -> str:
    """Bytes for people: '812 B', '3.4 kB', '1.2 GB'."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def lines(row: Row, indent: str = "") -> list[str]:
    """A row as `key value` lines for people, rows within it indented."""
    out: list[str] = []
    for key, value in row.items():
        if isinstance(value, Mapping):
            out += [f"{indent}{key}", *lines(value, indent + "  ")]
        elif key.endswith("_bytes") and value is not None:
            out.append(f"{indent}{key:<{20 - len(indent)}} {value} ({size(value)})")
        else:
            out.append(f"{indent}{key:<{20 - len(indent)}} {show(value)}")
    return out


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Errors raised within say which input they are about."""
    try:
        yield
    except VidtokError as exc:
        if name not in str(exc):
            exc.args = (f"{name}: {exc}",)
        raise


@dataclass(kw_only=True)
class Console:
    """Where a command's output goes; `rows` are kept for `--csv`."""

    json: bool = False
    quiet: bool = False
    debug: bool = False
    results_on_stderr: bool = False
    rows: list[dict[str, Any]] = field(default_factory=list)
    _warned: Counter[str] = field(default_factory=Counter)
    _bar: Any = None

    def say(self, text: str) -> None:
        """Words for people, on stderr."""
        if not self.quiet:
            self._print(text, sys.stderr)

    def warn(self, text: str, name: str = "") -> None:
        """A warning about the input `name`; the same text about more inputs is only counted."""
        self._warned[text] += 1
        if self._warned[text] == 1:
            named = not name or escape(Path(name).name) in escape(text)
            self.say(f"Warning: {text}" if named else f"Warning: {name}: {text}")

    def error(self, text: str) -> None:
        """What failed, on stderr, even when quiet."""
        self._print(f"Error: {text}", sys.stderr)

    def result(self, row: Row, text: str | Sequence[str] = ()) -> None:
        """One result: a JSON line with --json, else `text`, a line or several."""
        self.rows.append(dict(row))
        stream = sys.stderr if self.results_on_stderr else sys.stdout
        if self.json:
            print(json.dumps(plain(row), allow_nan=False), file=stream, flush=True)
        else:
            for line in [text] if isinstance(text, str) else text:
                self._print(line, stream)

    def _print(self, text: str, stream: Any) -> None:
        if self._bar is not None:
            self._bar.clear()
        print(escape(text), file=stream, flush=True)

    def progress(self, label: str, unit: str | None = " frames") -> tuple[Progress, Callable[[], None]]:
        """(update(done, total), close()) of a bar on stderr; silent without a terminal.

        `unit` is what is counted, with rate and time left; None for work of uneven steps: `note` says how it goes.
        """
        if self.quiet or not sys.stderr.isatty():
            return (lambda done, total: None), (lambda: None)
        from tqdm import tqdm

        known = os.get_terminal_size(sys.stderr.fileno()).columns > 0  # tqdm shows nothing where it reads 0
        width: dict[str, Any] = {"dynamic_ncols": True} if known else {"ncols": 80, "nrows": 24}
        look = {"bar_format": "{l_bar}{bar}| {n_fmt}/{total_fmt}{postfix}"} if unit is None else {"unit": unit}
        bar = tqdm(desc=escape(label), file=sys.stderr, leave=False, **look, **width)
        self._bar = bar

        def update(done: int, total: int | None) -> None:
            if total is not None and total != bar.total:
                bar.total = max(total, done)
            bar.update(done - bar.n)

        def close() -> None:
            bar.close()
            self._bar = None

        return update, close

    def note(self, text: str, line: str) -> None:
        """How the work goes: `text` beside the bar, or `line` on stderr where no bar is shown."""
        if self._bar is None:
            self.say(line)
        else:
            self._bar.set_postfix_str(escape(text))

    def beside(self, text: str) -> None:
        """`text` beside the bar, if one is shown."""
        if self._bar is not None:
            self._bar.set_postfix_str(escape(text))

    def repeated_warnings(self) -> None:
        """Say how often warnings came that were shown once."""
        for text, count in self._warned.items():
            if count > 1:
                self.say(f"Warning: {count - 1} more inputs: {text}")


def table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Rows as aligned columns under their names; columns that are empty in every row are left out."""
    used = [name for name in columns if any(row.get(name) is not None for row in rows)]
    cells = [used, *([show(row.get(name)) for name in used] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(used))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def write_csv(path: Path, rows: Sequence[Row], force: bool) -> None:
    """Write `rows` as a table with every key as a column; lists become JSON. OutputError if it cannot be."""
    import csv
    import io

    from vidtok.bitstream.output import OutputFile

    keys = list(dict.fromkeys(key for row in rows for key in row))
    with OutputFile(path, force=force) as output:
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(keys)
        for row in rows:
            cells = [plain(row.get(key)) for key in keys]
            writer.writerow([json.dumps(cell) if isinstance(cell, list | dict) else cell for cell in cells])
        output.write(text.getvalue().encode("utf-8", "surrogateescape"))
