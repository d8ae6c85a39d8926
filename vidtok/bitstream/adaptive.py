"""Ids of a stage through context mixing: a mode that needs no trained model and learns from each chunk as it goes.

    byte 0    0: packed ids follow, as in raw mode;  1, 2: LZMA2, as in lzma mode;  3: context mixing

Forms 0 to 2 are those of lzma mode, and the smallest of all is kept, so this is never larger. In form 3 ids are coded
digit by digit where the header knows digits, else in parts of eight bits. Stages with the same digits help each other:
who decodes one has the ids of the one below already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vidtok.bitstream import lz, mixing
from vidtok.bitstream.bits import Ids
from vidtok.errors import FormatError

MIXED = 3
FREE_IDS, IDS_PER_BYTE = 1 << 14, 256  # form 3 holds at most so many ids, so that few bytes never mean much work


class Part(NamedTuple):
    """A symbol of an id: (id // unit % digit) >> shift, the bits above those of the next part masked off."""

    unit: int
    digit: int
    shift: int
    levels: int


def parts(vocabulary: int, digits: Sequence[int]) -> list[Part]:
    """The symbols of an id in the order in which they are coded.

    Digits of more than 256 levels are cut into bytes, the highest first; so is the whole id where digits are unknown.
    """
    found, unit = [], 1
    for digit in digits or (vocabulary,):
        top = max(0, (digit - 1).bit_length() - 1) // 8 * 8
        found.append(Part(unit, digit, top, (digit - 1 >> top) + 1))
        found += [Part(unit, digit, shift, 256) for shift in range(top - 8, -1, -8)]
        unit *= digit
    return found


def to_symbols(ids: Ids, form: Sequence[Part], dtype: npt.DTypeLike = np.int64) -> mixing.Symbols:
    """Ids (..., t, h, w) -> symbols (..., t, h, w, n) of 0 to 255."""
    wide = ids.astype(np.int64)
    symbols = np.empty((*ids.shape, len(form)), dtype)
    for k, p in enumerate(form):
        symbols[..., k] = (wide // p.unit % p.digit >> p.shift) & 255
    return symbols


def to_ids(symbols: mixing.Symbols, form: Sequence[Part], dtype: str) -> Ids:
    """The inverse; FormatError where a digit that was cut is none."""
    digits: dict[tuple[int, int], np.ndarray] = {}
    for k, p in enumerate(form):
        own = symbols[..., k].astype(np.int64) << p.shift
        digits[p.unit, p.digit] = digits[p.unit, p.digit] + own if (p.unit, p.digit) in digits else own
    ids = np.zeros(symbols.shape[:3], np.int64)
    for (unit, digit), value in digits.items():
        if int(value.max(initial=0)) >= digit:
            raise FormatError(f"a digit of {digit} levels cannot be {int(value.max())}")
        ids += value * unit
    return ids.astype(dtype)


def squeeze(part: Ids, vocabulary: int, digits: Sequence[int] = (), below: Ids | None = None) -> bytes:
    """Ids (t, h, w) below `vocabulary` to the smallest of the four forms; `below`: ids of the stage below.

    Both stages have these digits.
    """
    best = lz.squeeze(part, vocabulary)
    form = parts(vocabulary, digits)
    under = None if below is None else to_symbols(below, form)
    symbols = to_symbols(part, form)
    mixed = mixing.squeeze(symbols, under, [p.levels for p in form], len(best))
    if mixed is None:
        return best
    least = max(0, -(-(part.size - FREE_IDS) // IDS_PER_BYTE))  # zeros at the end change nothing
    mixed = bytes([MIXED]) + mixed + bytes(max(0, least - len(mixed)))
    return min(best, mixed, key=len)


def expand(
    payload: bytes | memoryview,
    shape: tuple[int, int, int],
    vocabulary: int,
    dtype: str,
    digits: Sequence[int] = (),
    below: Ids | None = None,
) -> Ids:
    """The inverse: ids (t, h, w). FormatError if the payload is not that of so many ids."""
    if not len(payload) or payload[0] != MIXED:
        return lz.expand(payload, shape, vocabulary, dtype)
    count = shape[0] * shape[1] * shape[2]
    if count > FREE_IDS + IDS_PER_BYTE * (len(payload) - 1):
        raise FormatError(f"{len(payload)} bytes are too few for {count} ids")
    form = parts(vocabulary, digits)
    under = None if below is None else to_symbols(below, form)
    return to_ids(mixing.expand(payload[1:], under, shape, [p.levels for p in form]), form, dtype)
