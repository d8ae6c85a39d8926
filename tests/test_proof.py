"""The same ids and the same bytes whatever numpy, BLAS and torch make of the machine: threads, SIMD, kernels, batches.

Each row is a process of its own that reads and writes all golden files (tests/proof.py): such settings are read once.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from proof import features, golden_stream

TESTS = Path(__file__).parent
DIGESTS = json.loads((TESTS / "golden" / "digests.json").read_text())
GOLDEN_STREAM = "8137efac37017dd8"
NO_SIMD = "every feature that numpy can do without"
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}  # threads that wait let others work
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def prove(settings: dict[str, str], *arguments: str) -> tuple[dict[str, Any], str]:
    """What tests/proof.py says under these settings, and the words of the libraries."""
    environment = os.environ | settings | {"OPENBLAS_VERBOSE": "2", "PYTHONWARNINGS": "ignore"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), *sys.path])}
    command = [sys.executable, str(TESTS / "proof.py"), *arguments]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1]), ran.stdout + ran.stderr


def test_golden_stream() -> None:
    assert golden_stream() == GOLDEN_STREAM


@pytest.mark.parametrize(
    ("settings", "torch"),
    [
        (dict.fromkeys(THREADS, "1") | {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}, True),
        (dict.fromkeys(THREADS, "2") | {"MKL_CBWR": "COMPATIBLE", "OPENBLAS_CORETYPE": "Sandybridge"} | PATIENT, True),
        ({"NPY_DISABLE_CPU_FEATURES": NO_SIMD, "OPENBLAS_CORETYPE": "Nehalem", "NUMBA_DISABLE_JIT": "1"}, False),
    ],
    ids=["one thread, plain torch", "two threads, other BLAS kernels", "no SIMD"],
)
def test_the_same_under_other_settings(settings: dict[str, str], torch: bool) -> None:
    settings = {name: " ".join(features()) if value == NO_SIMD else value for name, value in settings.items()}
    found, words = prove(settings, *(["--torch"] if torch else []))
    assert found["stream"] == GOLDEN_STREAM
    assert {name: (own["file"], own["ids"]) for name, own in found["files"].items()} == {
        name: ([own["file"]], [own["ids"]]) for name, own in DIGESTS.items()
    }
    if "NPY_DISABLE_CPU_FEATURES" in settings:
        assert found["features"] == []
    if "ATEN_CPU_CAPABILITY" in settings:
        assert found["torch"] == {"capability": "DEFAULT", "threads": 1}
    if "Core:" in words and platform.machine() in ("x86_64", "AMD64"):  # where OpenBLAS says what it runs with
        assert f"Core: {settings.get('OPENBLAS_CORETYPE', '')}" in words
