"""What `info` says that each part costs: it adds up to the file, whatever file it is."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_files import golden_files, make_file, make_header, make_ids, prior_header

from vidtok.bitstream.container import Audio
from vidtok.bitstream.parts import NAMES, parts
from vidtok.bitstream.reader import TokenReader
from vidtok.bitstream.records import frame_record
from vidtok.bitstream.wire import varint
from vidtok.bitstream.writer import TokenWriter

GOLDEN = Path(__file__).parent / "golden"


def of(data: bytes, **how: Any) -> dict[str, Any]:
    with TokenReader(io.BytesIO(data), **how) as reader:
        found = parts(reader)
    check(found, len(data))
    return found


def check(found: dict[str, Any], size: int) -> None:
    """The parts are the whole file, in bytes, per cent and bits per pixel; the stages are the ids."""
    assert tuple(found) == NAMES
    assert sum(part["bytes"] for part in found.values()) == size
    assert all(part["bytes"] >= 0 for part in found.values())
    assert sum(part["percent"] for part in found.values()) == pytest.approx(100)
    assert found["ids"]["bytes"] == sum(stage["bytes"] for stage in found["ids"]["stages"])


@pytest.mark.parametrize("name", sorted(golden_files()))
def test_golden_files_add_up(name: str) -> None:
    data = (GOLDEN / name).read_bytes()
    found = of(data)
    assert found["other"]["bytes"] == 0
    with TokenReader(io.BytesIO(data)) as reader:
        payloads = [reader.read_payloads(number)[1] for number in range(len(reader.chunks))]
        heads = sum(info.bytes for info in reader.chunks) - sum(len(p) for stages in payloads for p in stages)
        assert found["timestamps"]["bytes"] + found["framing"]["bytes"] == heads
        assert (found["timestamps"]["bytes"] > 0) == (reader.header.has_frames and len(reader.chunks) > 0)
        if reader.frames and reader.header.width:
            pixels = reader.frames * reader.header.width * (reader.header.height or 0)
            assert sum(p["bpp"] for p in found.values()) == pytest.approx(8 * len(data) / pixels)
        else:
            assert {part["bpp"] for part in found.values()} == {None}
    for k, stage in enumerate(found["ids"]["stages"]):
        assert stage["bytes"] == sum(len(own) for stages in payloads for own in stages[k : k + 1])


def test_known_costs() -> None:
    """A file whose every byte is known: 10 bits an id, and timestamps of one, two and four bytes."""
    header = make_header(chunk_latents=2, frame_step=0, fps=None)
    pts = [0, 1, 2, 3, 4, 70, 71, 10_000_000, 10_000_001]
    out = io.BytesIO()
    with TokenWriter(out, header) as sink:
        sink.write(make_ids(header, 3), pts)
    found = of(out.getvalue())
    assert found["header"]["bytes"] == len(header.to_bytes())
    assert found["ids"]["bytes"] == 15 + 8 and found["ids"]["bits_per_id"] == pytest.approx(8 * 23 / 18)
    # chunk 0: count, first; distances change by 1, 0, 0, 0; chunk 1: count, first (70), then 1 - 0, 9999929 - 1 ...
    assert found["timestamps"]["bytes"] == (1 + 1 + 4) + (1 + 2 + 1 + 4 + 4)
    assert found["framing"]["bytes"] == 2 * (2 + 1 + 4 + (1 + 8) + 4)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_any_file_adds_up(data: st.DataObject) -> None:
    stages = data.draw(st.integers(1, 3))
    entropy = data.draw(st.sampled_from(["raw", "lzma", "adaptive", "prior"]))
    changes: dict[str, Any] = {
        "chunk_latents": data.draw(st.integers(1, 5)),
        "grid_height": data.draw(st.integers(1, 4)),
        "grid_width": data.draw(st.integers(1, 4)),
        "codebooks": stages if stages > 1 else data.draw(st.integers(0, 1)),
        "segment_frames": data.draw(st.sampled_from([0, 3, 9])),
        "audio": Audio("nut", "") if data.draw(st.booleans()) else None,
    }
    header = prior_header(**changes) if entropy == "prior" else make_header(entropy=entropy, **changes)
    frames = data.draw(st.integers(1 if entropy == "prior" else 0, 12))
    sound = data.draw(st.binary(max_size=30)) if header.audio else b""
    found = of(make_file(header, frames, audio=sound))
    assert found["other"]["bytes"] == 0 and (found["audio"]["bytes"] > len(sound)) == bool(sound)
    assert len(found["ids"]["stages"]) == stages


def test_what_cannot_be_told_is_other() -> None:
    """Records of a kind that is passed over, and chunks whose heads are damaged, and what has been cut off."""
    data = make_file(make_header(), 19)
    with TokenReader(io.BytesIO(data)) as reader:
        first, last = reader.chunks[0], reader.chunks[-1]
        end, start, seed = reader.header_end, reader.trailer_start, reader.seed
    broken = bytearray(data)
    broken[first.offset + 5] ^= 1
    assert of(bytes(broken))["other"]["bytes"] == first.bytes
    front, _ = frame_record(b"z", varint(3), seed)
    more = data[:start] + front + b"abc"
    found = of(more, recover=True)
    assert found["other"]["bytes"] == len(front) + 3 and found["index"]["bytes"] == 0
    assert of(data[: start - 1], recover=True)["other"]["bytes"] == last.bytes - 1
    assert of(data[: end + 4], recover=True)["other"]["bytes"] == 4


def test_memory_does_not_grow_with_the_ids() -> None:
    header = make_header(grid_height=60, grid_width=80, width=640, height=480, chunk_latents=8)
    data = make_file(header, 160)
    with TokenReader(io.BytesIO(data)) as reader:
        tracemalloc.start()
        found = parts(reader)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert found["ids"]["percent"] > 99 and len(data) > 200_000 and peak < 50_000


def test_info_says_it(run: Callable[..., Any], tmp_path: Path) -> None:
    path = GOLDEN / "lzma_stages.vtok"
    row = json.loads(run("info", path, "--json").out)
    check(row["parts"], path.stat().st_size)
    text = run("info", path).out.splitlines()
    assert text[-9].split() == ["parts", "bytes", "bpp", "per", "cent", "bits/id"]
    shown = {line.split()[0]: line.split() for line in text[-9:] if not line.startswith("    ")}
    assert {"header", "ids", "timestamps", "framing", "index"} | {"parts"} == set(shown)
    assert int(shown["ids"][1]) == row["parts"]["ids"]["bytes"]
    assert sum("stage " in line for line in text[-9:]) == 3


def test_info_of_a_pipe_needs_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; sys.argv = ['vidtok', 'info', '-', '--json']; from vidtok.cli import main\n"
        "try: main()\n"
        "finally: assert not {'torch', 'numpy', 'av'} & set(sys.modules), 'heavy modules'"
    )
    data = (GOLDEN / "everything.vtok").read_bytes()
    shown = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True)
    assert shown.returncode == 0, shown.stderr
    check(json.loads(shown.stdout)["parts"], len(data))
    assert np.isclose(sum(p["bpp"] for p in json.loads(shown.stdout)["parts"].values()), 8 * len(data) / (9 * 21 * 16))
