"""Context mixing: small numbers to bytes and back, each bit coded with a probability learned from those before it.

A symbol is told bit by bit, highest first, as a path through a tree. Five contexts (what stood here a latent frame
before, what stands left and above, the symbols of this id so far, ...) each look up how often this bit was 1 where
they were met before; a small mixer, itself learning, weighs their opinions, and a binary arithmetic coder spends the
bits. The ideas are those of the PAQ family (Mahoney 2005, "Adaptive weighing of context models for lossless data
compression"); docs/coding.md has all that a reader in another language needs.

Integers only, and nothing that depends on the machine. `run` is one plain function: it works on lists as it stands, and
on arrays when numba (the extra `fast`) has compiled it, fifty times as fast. What it computes stays below 2^63 in size,
so both count the same.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Symbols = npt.NDArray[np.integer]

MAX_SYMBOL = 4096  # levels of a symbol at most
CONTEXTS = 5
CERTAIN = 2047  # largest logarithm of odds, in 1/256
SURE = 60  # times after which a probability goes on learning at the same rate
FEWEST, MOST = 12, 20  # logarithm of the number of states
WEIGHT = 19660  # of an opinion at first, in 1/65536

EVEN = 1 << 21  # of a state, at first


def run(
    decoding: bool,
    stream: Any,  # bytes, to be written or read
    symbols: Any,  # (t, h, w, n) flat, to be read or written
    below: Any,  # those of the stage below, the same shape; or empty
    latents: int,
    height: int,
    width: int,
    levels: Any,  # of each of the n symbols
    tops: Any,  # the power of two that is not below each
    states: Any,  # 2^k, two numbers each: the probability that the bit is 1, of 2^22; how often it was looked up
    weights: Any,  # n * 2 * 16 * CONTEXTS
    stretch: Any,
    squash: Any,
    rates: Any,
    after: Any,
) -> int:
    """Code all symbols. The number of bytes written, -1 where `stream` is too short for them; 0 when decoding."""
    count, limit, mask = len(levels), len(stream), len(states) - 2
    row = width * count
    plane = height * row
    layered = len(below) > 0
    low, high, code, place, at = 0, 0xFFFFFFFF, 0, 0, 0
    if decoding:
        for _ in range(4):
            code = code << 8 | (stream[place] if place < limit else 0)
            place += 1
    for t in range(latents):
        for y in range(height):
            for x in range(width):
                still, first, prefix = 1, 4095, 0
                for d in range(count):
                    past = symbols[at - plane] if t > 0 else 0
                    left = symbols[at - count] if x > 0 else 0
                    above = symbols[at - row] if y > 0 else 0
                    if layered:
                        other = below[at] * 4096 + below[at - d]
                    elif t > 1:
                        other = symbols[at - 2 * plane] * 4096 + past
                    else:
                        other = past
                    around = past * 0x1F3D + left * 0x3B29 + above * 0x6C17 + first * 0x11
                    other = other * 0x1F35 + first * 0x2D & 0x7FFFFFFF
                    salt = d * 8 * 0x5851F42D
                    s0 = (past * 8192 + first * 2 + still) * 0x2C9277B5 + 0x5851F42D + salt >> 8 & mask
                    s1 = (left * 4096 + above) * 0x2C9277B5 + 2 * 0x5851F42D + salt >> 8 & mask
                    s2 = prefix * 0x2C9277B5 + 3 * 0x5851F42D + salt >> 8 & mask
                    s3 = around * 0x2C9277B5 + 4 * 0x5851F42D + salt >> 8 & mask
                    s4 = other * 0x2C9277B5 + 5 * 0x5851F42D + salt >> 8 & mask
                    level, half = levels[d], tops[d]
                    value = 0 if decoding else symbols[at]
                    base = (d * 2 + still) * 80
                    node, least = 1, 0
                    while half > 1:
                        half >>= 1
                        if least + half >= level:  # only 0 is possible
                            node += node
                            continue
                        k = node * 0x13CA & mask
                        i0, i1, i2 = s0 ^ k, s1 ^ k, s2 ^ k  # three at most in a line: Python makes tuples of more
                        i3, i4 = s3 ^ k, s4 ^ k
                        q0, q1, q2 = states[i0], states[i1], states[i2]
                        q3, q4 = states[i3], states[i4]
                        m0, m1, m2 = i0 + 1, i1 + 1, i2 + 1
                        m3, m4 = i3 + 1, i4 + 1
                        n0, n1, n2 = states[m0], states[m1], states[m2]
                        n3, n4 = states[m3], states[m4]
                        x0, x1, x2 = stretch[q0 >> 10], stretch[q1 >> 10], stretch[q2 >> 10]
                        x3, x4 = stretch[q3 >> 10], stretch[q4 >> 10]
                        j0 = base + (node & 15) * 5
                        j1, j2 = j0 + 1, j0 + 2
                        j3, j4 = j0 + 3, j0 + 4
                        w0, w1, w2 = weights[j0], weights[j1], weights[j2]
                        w3, w4 = weights[j3], weights[j4]
                        odds = x0 * w0 + x1 * w1 + x2 * w2 + x3 * w3 + x4 * w4 >> 16
                        if odds < -2047:
                            odds = -2047
                        elif odds > 2047:
                            odds = 2047
                        p = squash[odds + 2047]
                        middle = low + ((high - low) * p >> 16)
                        if decoding:
                            bit = 1 if code <= middle else 0
                        else:
                            bit = 1 if value & half else 0
                        if bit:
                            high = middle
                            least += half
                            goal = 0x3FFFFF
                            miss = 524288 - p * 8
                        else:
                            low = middle + 1
                            goal = 0
                            miss = p * -8
                        while (low ^ high) < 0x1000000:
                            if decoding:
                                code = (code & 0xFFFFFF) << 8 | (stream[place] if place < limit else 0)
                            else:
                                if place >= limit:
                                    return -1
                                stream[place] = high >> 24
                            place += 1
                            low = (low & 0xFFFFFF) << 8
                            high = (high & 0xFFFFFF) << 8 | 255
                        weights[j0] = w0 + (x0 * miss + 131072 >> 18)
                        weights[j1] = w1 + (x1 * miss + 131072 >> 18)
                        weights[j2] = w2 + (x2 * miss + 131072 >> 18)
                        weights[j3] = w3 + (x3 * miss + 131072 >> 18)
                        weights[j4] = w4 + (x4 * miss + 131072 >> 18)
                        states[i0] = q0 + ((goal - q0) * rates[n0] >> 16)
                        states[i1] = q1 + ((goal - q1) * rates[n1] >> 16)
                        states[i2] = q2 + ((goal - q2) * rates[n2] >> 16)
                        states[i3] = q3 + ((goal - q3) * rates[n3] >> 16)
                        states[i4] = q4 + ((goal - q4) * rates[n4] >> 16)
                        states[m0], states[m1], states[m2] = after[n0], after[n1], after[n2]
                        states[m3], states[m4] = after[n3], after[n4]
                        node += node + bit
                    if decoding:
                        symbols[at] = least
                    if d == 0:
                        first = least
                    if t == 0 or least != past:
                        still = 0
                    prefix = prefix * 0x5D3 + least + 1 & 0x7FFFFFFF
                    at += 1
    if decoding:
        return 0
    for size in range(5):  # as few bytes as name a number from low to high, followed by zeros
        number = high >> 32 - 8 * size << 32 - 8 * size
        if number >= low:
            if place + size > limit:
                return -1
            for i in range(size):
                stream[place + i] = number >> 24 - 8 * i & 255
            return place + size
    return -1


@functools.cache
def tables() -> tuple[list[int], list[int], list[int], list[int]]:
    """stretch, squash, and by how often a state was looked up: the rate at which it learns, and the next number.

    Logarithms and exponentials of floats, rounded to integers far from where a float could decide: tests know them all.
    """
    stretch = [round(256 * math.log((i + 0.5) / (4095.5 - i))) for i in range(4096)]
    squash = [round(65536 / (1 + math.exp(-x / 256))) for x in range(-CERTAIN, CERTAIN + 1)]
    rates = [655360 // (10 * n + 17) for n in range(SURE + 1)]
    return (
        [max(-CERTAIN, min(CERTAIN, x)) for x in stretch],
        [max(16, min(65520, p)) for p in squash],
        rates,
        [min(n + 1, SURE) for n in range(SURE + 1)],
    )


@functools.cache
def compiled() -> Callable[..., int] | None:
    """`run` as numba compiles it; None where there is no numba, or NUMBA_DISABLE_JIT tells it not to compile."""
    try:
        import numba
    except ImportError:
        return None
    if getattr(numba.config, "DISABLE_JIT", 0):
        return None
    try:
        fast: Callable[..., int] = numba.njit(cache=True)(run)
    except RuntimeError:  # nowhere to keep what was compiled, such as a read-only installation: compile in each process
        fast = numba.njit(run)
    return fast


def log_states(count: int) -> int:
    """Logarithm of how many states `count` symbols have."""
    return min(MOST, max(FEWEST, (18 * count).bit_length()))


def squeeze(
    symbols: Symbols, below: Symbols | None, levels: Sequence[int], limit: int, *, plain: bool = False
) -> bytes | None:
    """Symbols (t, h, w, n), each below its level, to at most `limit` bytes; None where they need more.

    `below`: symbols of the same shape that the decoder will have. `plain` does without numba.
    """
    stream = np.zeros(limit, np.uint8)
    size, stream, _ = _call(False, stream, symbols, below, symbols.shape, levels, plain)
    return None if size < 0 else stream[:size].tobytes()


def expand(
    payload: bytes | memoryview,
    below: Symbols | None,
    shape: tuple[int, int, int],
    levels: Sequence[int],
    *,
    plain: bool = False,
) -> Symbols:
    """The inverse: symbols (t, h, w, n). Any bytes mean symbols of some kind; a missing end reads as zeros."""
    full = (*shape, len(levels))
    stream, symbols = np.frombuffer(payload, np.uint8).copy(), np.zeros(full, np.int64)
    return _call(True, stream, symbols, below, full, levels, plain)[2].reshape(full)


def _call(
    decoding: bool,
    stream: npt.NDArray[np.uint8],
    symbols: Symbols,
    below: Symbols | None,
    shape: tuple[int, ...],
    levels: Sequence[int],
    plain: bool,
) -> tuple[int, npt.NDArray[np.uint8], Symbols]:
    """`run` from a fresh start, on arrays or on lists: (its result, stream, symbols)."""
    if max(levels, default=1) > MAX_SYMBOL:
        raise ValueError(f"symbols have at most {MAX_SYMBOL} levels, got {list(levels)}")
    under = np.zeros(0, np.int64) if below is None else below
    data = [np.ascontiguousarray(array, np.int64).reshape(-1) for array in (symbols, under)]
    settings: list[npt.NDArray[np.integer]] = [
        np.array(levels, np.int64),
        np.array([1 << (level - 1).bit_length() for level in levels], np.int64),
        np.tile(np.array([EVEN, 0], np.int32), 1 << log_states(symbols.size)),
        np.full(len(levels) * 2 * 16 * CONTEXTS, WEIGHT, np.int64),
        *(np.array(table, np.int64) for table in tables()),
    ]
    fast = None if plain else compiled()
    if fast:
        return fast(decoding, stream, *data, *shape[:3], *settings), stream, data[0]
    lists = [stream.tolist(), *(array.tolist() for array in data)]
    size = run(decoding, *lists, *shape[:3], *(array.tolist() for array in settings))
    return size, np.array(lists[0], np.uint8), np.array(lists[1], np.int64)
