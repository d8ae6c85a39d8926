#!/usr/bin/env python3
"""Sizes of token files in every entropy mode, and how fast ids are coded, all in one run.

    python scripts/bench_coding.py FILE_OR_FOLDER... [--quality N] [--modes raw lzma prior] [--plain]

Sizes are whole files, the same chunks for every mode; the ratios are means over files. Speeds are million ids a second
through `repack` from raw (to code) and through reading all ids (to decode). Mode prior needs a prior of the files'
model, one that ships or one in $VIDTOK_PRIORS. --plain adds the adaptive mode without numba.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from vidtok.bitstream import mixing
from vidtok.bitstream.header import ENTROPY
from vidtok.bitstream.reader import TokenReader
from vidtok.bitstream.repack import repack


def coded(data: bytes, mode: str, quality: int | None = None) -> bytes:
    """The same ids in another mode."""
    out = io.BytesIO()
    repack(io.BytesIO(data), out, entropy=mode, quality=quality)
    return out.getvalue()


def read(data: bytes) -> int:
    """Read all ids; how many there are."""
    with TokenReader(io.BytesIO(data)) as reader:
        return int(np.asarray(reader.ids[:]).size)


def main() -> None:
    """A line per file, then means, then speeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--quality", type=int)
    parser.add_argument("--plain", action="store_true", help="measure the adaptive mode without numba too (slow)")
    parser.add_argument("--modes", nargs="+", choices=list(ENTROPY), default=list(ENTROPY))
    options = parser.parse_args()
    files = [f for path in options.paths for f in (sorted(path.rglob("*.vtok")) if path.is_dir() else [path])]
    modes = [(mode, mode) for mode in options.modes]
    fast = mixing.compiled()
    if options.plain:
        modes.append(("adaptive", "plain"))
    warm = coded(files[0].read_bytes(), "raw", options.quality)
    for mode in options.modes:
        read(coded(warm, mode))  # compiles, loads
    sizes, spent, count = [], {name: [0.0, 0.0] for _, name in modes}, 0
    print(f"{'bytes of':>24}" + "".join(f"{name:>12}" for _, name in modes))
    for file in files:
        raw = coded(file.read_bytes(), "raw", options.quality)
        row = []
        for mode, name in modes:
            mixing.compiled = (lambda: None) if name == "plain" else (lambda: fast)  # type: ignore[assignment]
            begin = time.perf_counter()
            data = coded(raw, mode)
            middle = time.perf_counter()
            ids = read(data)
            spent[name][0] += middle - begin
            spent[name][1] += time.perf_counter() - middle
            row.append(len(data))
        count += ids
        sizes.append(row)
        print(f"{file.stem:>24}" + "".join(f"{size:12d}" for size in row), flush=True)
    table = np.array(sizes, float)
    for k, base in [(k, name) for k, (_, name) in enumerate(modes) if name in ("raw", "lzma")]:
        print(f"{'of ' + base:>24}" + "".join(f"{ratio:12.4f}" for ratio in (table / table[:, k : k + 1]).mean(0)))
    for i, word in enumerate(("coded", "read")):
        print(f"{'M ids/s ' + word:>24}" + "".join(f"{count / spent[name][i] / 1e6:12.4f}" for _, name in modes))


if __name__ == "__main__":
    main()
