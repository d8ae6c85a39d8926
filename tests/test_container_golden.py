"""Golden files: written years ago, read for ever; and by a reader that shares no code."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from independent_reader import read_file
from token_files import golden_files

from vidtok.bitstream.reader import TokenReader

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
DIGESTS = json.loads((GOLDEN / "digests.json").read_text())


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("name", sorted(DIGESTS))
def test_golden(name: str) -> None:
    """The stored file has not changed, is still read, and would be written the same today."""
    data = (GOLDEN / name).read_bytes()
    assert sha256(data) == DIGESTS[name]["file"]
    with TokenReader(GOLDEN / name) as reader:
        assert sha256(np.asarray(reader.ids).astype("<u8").tobytes()) == DIGESTS[name]["ids"]
        assert reader.verify(deep=True) == []
    assert golden_files()[name] == data, "the format has changed: say so in CHANGELOG.md, run scripts/make_golden.py"


def test_all_golden_files_have_digests() -> None:
    assert sorted(path.name for path in GOLDEN.glob("*.vtok")) == sorted(DIGESTS) == sorted(golden_files())


@pytest.mark.parametrize("name", sorted(DIGESTS))
def test_independent_reader(name: str) -> None:
    """A reader written from docs/format.md finds the same."""
    theirs = read_file((GOLDEN / name).read_bytes())
    with TokenReader(GOLDEN / name) as reader:
        assert np.asarray(reader.ids).reshape(-1).tolist() == theirs["ids"]
        assert list(reader.pts) == theirs["pts"] and reader.latents == theirs["latents"]
        assert b"".join(reader.audio()) == theirs["audio"]
        assert bool(theirs["flags"] & 1) == reader.damaged_source
        assert theirs["header"].get("width") == reader.header.width
        assert theirs["header"].get("model_id") == reader.header.model_id


def test_independent_reader_shares_no_code() -> None:
    path = ROOT / "tests" / "independent_reader.py"
    assert "vidtok." not in path.read_text().split('"""')[2] and "numpy" not in path.read_text().split('"""')[2]
    command = [sys.executable, "-I", str(path), str(GOLDEN / "constant.vtok")]
    assert "latents 6" in subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_example_in_the_documentation() -> None:
    """The bytes shown in docs/format.md are those of the file it names."""
    page = (ROOT / "docs" / "format.md").read_text()
    shown = page.split("## By example")[1].split("```")[1].strip().splitlines()
    data = bytes.fromhex(" ".join(line[:29].strip() for line in shown))
    assert (GOLDEN / "empty.vtok").read_bytes().startswith(data)
    assert f"{(GOLDEN / 'empty.vtok').stat().st_size} bytes" in page
