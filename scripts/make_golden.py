#!/usr/bin/env python3
"""Write tests/golden anew. Only when the format changes on purpose; the changelog then says so.

python scripts/make_golden.py
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path[:0] = [str(TESTS), str(TESTS.parent)]


def main() -> None:
    """Every golden file, and the sha256 of its bytes and of its ids."""
    import numpy as np
    from token_files import golden_files, prior_file

    from vidtok.bitstream.reader import TokenReader

    folder = TESTS / "golden"
    folder.mkdir(exist_ok=True)
    (folder / "tiny.prior.safetensors").write_bytes(prior_file())
    os.environ["VIDTOK_PRIORS"] = str(folder)
    digests = {}
    for name, data in sorted(golden_files().items()):
        (folder / name).write_bytes(data)
        with TokenReader(folder / name) as reader:
            ids = np.asarray(reader.ids).astype("<u8").tobytes()
        digests[name] = {"file": hashlib.sha256(data).hexdigest(), "ids": hashlib.sha256(ids).hexdigest()}
        print(f"{name}: {len(data)} bytes")
    (folder / "digests.json").write_text(json.dumps(digests, indent=1) + "\n")


if __name__ == "__main__":
    main()
