"""Names of files and models, and numbers, as parts of an HTML page: no name can become markup or hide itself."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

LONG = 12  # characters that any screen has in a line
SEPARATORS = "-_/.:=,+@"


def printable(value: object) -> str:
    """One line of text: control, bidi and undecodable characters become backslash escapes that can be seen."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(value))


def text(value: object) -> str:
    """For the inside of an element or of an attribute in quotes."""
    return html.escape(printable(value), quote=True)


def breakable(value: object) -> str:
    """For the inside of an element: a long name may go on in the next line after a separator, rather than anywhere."""
    pieces = re.findall(f".*?[{SEPARATORS}]+|.+", printable(value)) if len(str(value)) > LONG else [value]
    return "<wbr>".join(text(piece) for piece in pieces)


def name(value: object, title: object = None) -> str:
    """A name among other words: its writing direction stays its own. `title`: the name in full."""
    full = "" if title is None else f' title="{text(title)}"'
    return f"<bdi{full}>{breakable(value)}</bdi>"


def data(value: object) -> str:
    """JSON for the inside of a script element of type application/json; ASCII, and without <, > and &."""
    found = json.dumps(_plain(value), allow_nan=False, separators=(",", ":"))
    return found.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def number(value: object) -> str:
    """A number for people; '–' where there is none. Names of metrics say the unit."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if not math.isfinite(value):
            return "–"
        return f"{value:.4f}" if abs(value) < 1 else f"{value:.2f}"
    return printable(value)


def _plain(value: Any) -> Any:
    """`value` as JSON has it; NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, Path | Fraction):
        return str(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
