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

# a state: 22 bits of probability that the bit is 1, 10 bits of how often it was looked up
EVEN = 1 << 31


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
    states: Any,  # 2^k of them
    weights: Any,  # n * 2 * 16 * CONTEXTS
    stretch: Any,
    squash: Any,
    rates: Any,
    steps: Any,
) -> int:
    """Code all symbols. The number of bytes written, -1 where `stream` is too short for them; 0 when decoding."""
    count, limit, mask = len(levels), len(stream), len(states) - 1
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
                        other = below[at] << 12 | below[at - d]
                    elif t > 1:
                        other = symbols[at - 2 * plane] << 12 | past
                    else:
                        other = past
                    around = past * 0x1F3D + left * 0x3B29 + above * 0x6C17 + first * 0x11
                    tag = d << 3
                    s0 = ((past << 13 | first << 1 | still) * 0x2C9277B5 + (tag + 1) * 0x5851F42D) >> 9 & mask
                    s1 = ((left << 12 | above) * 0x2C9277B5 + (tag + 2) * 0x5851F42D) >> 9 & mask
                    s2 = (prefix * 0x2C9277B5 + (tag + 3) * 0x5851F42D) >> 9 & mask
                    s3 = (around * 0x2C9277B5 + (tag + 4) * 0x5851F42D) >> 9 & mask
                    other = other * 0x1F35 + first * 0x2D & 0x7FFFFFFF
                    s4 = (other * 0x2C9277B5 + (tag + 5) * 0x5851F42D) >> 9 & mask
                    level, half = levels[d], tops[d]
                    value = 0 if decoding else symbols[at]
                    base = (d * 2 + still) * 80
                    node, least = 1, 0
                    while half > 1:
                        half >>= 1
                        if least + half >= level:  # only 0 is possible
                            node <<= 1
                            continue
                        k = node * 0x9E5 & mask
                        i0, i1, i2, i3, i4 = s0 ^ k, s1 ^ k, s2 ^ k, s3 ^ k, s4 ^ k
                        p0, p1, p2, p3, p4 = states[i0], states[i1], states[i2], states[i3], states[i4]
                        x0, x1, x2 = stretch[p0 >> 20], stretch[p1 >> 20], stretch[p2 >> 20]
                        x3, x4 = stretch[p3 >> 20], stretch[p4 >> 20]
                        j = base + (node & 15) * 5
                        w0, w1, w2 = weights[j], weights[j + 1], weights[j + 2]
                        w3, w4 = weights[j + 3], weights[j + 4]
                        odds = x0 * w0 + x1 * w1 + x2 * w2 + x3 * w3 + x4 * w4 >> 16
                        if odds < -2047:
                            odds = -2047
                        elif odds > 2047:
                            odds = 2047
                        p = squash[odds + 2047]
                        middle = low + (high - low >> 16) * p + ((high - low & 0xFFFF) * p >> 16)
                        if decoding:
                            bit = 1 if code <= middle else 0
                        else:
                            bit = 1 if value & half else 0
                        if bit:
                            high = middle
                            least += half
                            goal = 0x3FFFFF
                            miss = 65536 - p << 3
                        else:
                            low = middle + 1
                            goal = 0
                            miss = -p << 3
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
                        weights[j] = w0 + (x0 * miss + 131072 >> 18)
                        weights[j + 1] = w1 + (x1 * miss + 131072 >> 18)
                        weights[j + 2] = w2 + (x2 * miss + 131072 >> 18)
                        weights[j + 3] = w3 + (x3 * miss + 131072 >> 18)
                        weights[j + 4] = w4 + (x4 * miss + 131072 >> 18)
                        n = p0 & 1023
                        states[i0] = p0 + ((goal - (p0 >> 10)) * rates[n] >> 16 << 10) + steps[n]
                        n = p1 & 1023
                        states[i1] = p1 + ((goal - (p1 >> 10)) * rates[n] >> 16 << 10) + steps[n]
                        n = p2 & 1023
                        states[i2] = p2 + ((goal - (p2 >> 10)) * rates[n] >> 16 << 10) + steps[n]
                        n = p3 & 1023
                        states[i3] = p3 + ((goal - (p3 >> 10)) * rates[n] >> 16 << 10) + steps[n]
                        n = p4 & 1023
                        states[i4] = p4 + ((goal - (p4 >> 10)) * rates[n] >> 16 << 10) + steps[n]
                        node = node << 1 | bit
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
    """stretch, squash, rates, steps.

    Logarithms and exponentials of floats, rounded to integers far from where a float could decide: tests know them all.
    """
    stretch = [round(256 * math.log((i + 0.5) / (4095.5 - i))) for i in range(4096)]
    squash = [round(65536 / (1 + math.exp(-x / 256))) for x in range(-CERTAIN, CERTAIN + 1)]
    rates = [655360 // (10 * n + 17) for n in range(1024)]
    return (
        [max(-CERTAIN, min(CERTAIN, x)) for x in stretch],
        [max(16, min(65520, p)) for p in squash],
        rates,
        [int(n < SURE) for n in range(1024)],
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
    settings: list[Symbols] = [
        np.array(levels, np.int64),
        np.array([1 << (level - 1).bit_length() for level in levels], np.int64),
        np.full(1 << log_states(symbols.size), EVEN, np.int64),
        np.full(len(levels) * 2 * 16 * CONTEXTS, WEIGHT, np.int64),
        *(np.array(table, np.int64) for table in tables()),
    ]
    fast = None if plain else compiled()
    if fast:
        return fast(decoding, stream, *data, *shape[:3], *settings), stream, data[0]
    lists = [stream.tolist(), *(array.tolist() for array in data)]
    size = run(decoding, *lists, *shape[:3], *(array.tolist() for array in settings))
    return size, np.array(lists[0], np.uint8), np.array(lists[1], np.int64)
