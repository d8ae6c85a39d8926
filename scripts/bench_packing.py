#!/usr/bin/env python3
"""Speed of packing ids, beside np.packbits on a matrix of bits in the same run.

    python scripts/bench_packing.py [--ids 2000000] [--repeats 5]

Million ids per second, median of alternating runs; the last columns are the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from vidtok.bitstream.bits import pack, unpack

WIDTHS = (1, 8, 10, 12, 13, 14, 16, 17, 18, 20, 36)


def pack_plain(ids: np.ndarray, bits: int) -> bytes:
    """The obvious way: a matrix of bits."""
    matrix = (ids[:, None] >> np.arange(bits, dtype=ids.dtype)) & ids.dtype.type(1)
    return np.packbits(matrix.astype(np.uint8).reshape(-1), bitorder="little").tobytes()


def unpack_plain(data: bytes, count: int, bits: int, kind: str) -> np.ndarray:
    """Its way back."""
    raw = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits, bitorder="little")
    weights = np.ones(1, kind) << np.arange(bits, dtype=kind)
    return (raw.reshape(count, bits) * weights).sum(1, dtype=kind)


def rates(count: int, repeats: int, *calls: Callable[[], object]) -> list[float]:
    """Million ids per second of each call, median of alternating runs."""
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for spent, call in zip(seconds, calls, strict=True):
            begin = time.perf_counter()
            call()
            spent.append(time.perf_counter() - begin)
    return [count / statistics.median(spent) / 1e6 for spent in seconds]


def main() -> None:
    """One line per width."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", type=int, default=2_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"{'bits':>4} {'pack':>8} {'unpack':>8} {'packbits':>9} {'unpackbits':>10} {'x':>6} {'x':>6}")
    for bits in WIDTHS:
        kind = "u2" if bits <= 16 else "u4" if bits <= 32 else "u8"
        ids = np.random.default_rng(bits).integers(0, 1 << bits, options.ids, dtype=kind)
        data = pack(ids, bits)
        assert data == pack_plain(ids, bits)
        assert np.array_equal(unpack(data, ids.size, bits, kind), ids)

        def ours(ids: np.ndarray = ids, bits: int = bits) -> object:
            return pack(ids, bits)

        def back(data: bytes = data, bits: int = bits, kind: str = kind) -> object:
            return unpack(data, options.ids, bits, kind)

        def plain(ids: np.ndarray = ids, bits: int = bits) -> object:
            return pack_plain(ids, bits)

        def plain_back(data: bytes = data, bits: int = bits, kind: str = kind) -> object:
            return unpack_plain(data, options.ids, bits, kind)

        a, b, c, d = rates(options.ids, options.repeats, ours, back, plain, plain_back)
        print(f"{bits:4} {a:8.0f} {b:8.0f} {c:9.1f} {d:10.1f} {a / c:6.1f} {b / d:6.1f}")


if __name__ == "__main__":
    main()
