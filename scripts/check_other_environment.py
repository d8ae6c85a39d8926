#!/usr/bin/env python3
"""Read and write the golden files in other environments, with other versions of what token files need, and compare.

    python scripts/check_other_environment.py
    python scripts/check_other_environment.py "numpy==1.26.4 torch==2.6.0" "numpy==2.1.3 numba==0.61.0"
    python scripts/check_other_environment.py --python python3.13

Each argument is an environment: requirements as pip takes them, with spaces between. For each a virtual environment is
made in a temporary folder and tests/proof.py runs in it: all golden files are read in several ways and written anew, by
this checkout, and ids and bytes have to be those of tests/golden/digests.json. torch is tried where it is named.

Exit status: 0 all environments agree, 1 one differs or fails, 2 one could not be made (and the others agree).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

USUAL = ["numpy==1.26.4 safetensors==0.4.0", "numpy==2.0.2 safetensors==0.4.5 numba==0.60.0", "numpy safetensors"]
NEEDED = ("numpy", "safetensors")
COLUMNS = ("python", "numpy", "safetensors", "numba", "torch", "read", "written", "stream", "result")


class NotMadeError(Exception):
    """The environment cannot be had here."""


def call(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program that sees nothing of this one's packages."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return subprocess.run([str(c) for c in command], env=kept | environment, capture_output=True, text=True)


def make(folder: Path, requirements: list[str], python: str) -> Path:
    """A virtual environment with these requirements and what they lack of the needed; its python."""
    for tool in ("venv", "virtualenv"):  # some systems leave ensurepip out of python3
        made = call(python, "-m", tool, folder)
        if made.returncode == 0:
            break
    else:
        raise NotMadeError(last_line(made.stdout + made.stderr))
    own = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    named = {requirement.split("=")[0].split("<")[0].split(">")[0] for requirement in requirements}
    wanted = [*requirements, *(name for name in NEEDED if name not in named)]
    done = call(own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted)
    if done.returncode:
        raise NotMadeError(last_line(done.stderr))
    return own


def last_line(words: str) -> str:
    return next((line for line in reversed(words.splitlines()) if line.strip()), "no words").strip()


def compare(found: dict[str, Any], golden: dict[str, dict[str, str]], stream: str) -> dict[str, Any]:
    """A row of the table."""
    same = {
        key: sum(found["files"].get(name, {}).get(key) == [digests[key]] for name, digests in golden.items())
        for key in ("ids", "file")
    }
    whole = len(golden)
    right = same == {"ids": whole, "file": whole} and found["stream"] == stream
    return found["versions"] | {
        "read": f"{same['ids']}/{whole}",
        "written": f"{same['file']}/{whole}",
        "stream": "same" if found["stream"] == stream else "OTHER",
        "result": "same" if right else "DIFFERS",
    }


def check(requirements: list[str], python: str, golden: dict[str, dict[str, str]], stream: str) -> dict[str, Any]:
    """Make an environment, run the proof in it, compare."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            own = make(Path(folder) / "environment", requirements, python)
        except NotMadeError as error:
            return {"result": f"not made: {error}"}
        torch = ["--torch"] if any(word.startswith("torch") for word in requirements) else []
        ran = call(own, ROOT / "tests" / "proof.py", *torch, PYTHONPATH=str(ROOT), PYTHONDONTWRITEBYTECODE="1")
        if ran.returncode:
            return {"result": f"FAILED: {last_line(ran.stderr)}"}
        return compare(json.loads(ran.stdout.splitlines()[-1]), golden, stream)


def main() -> int:
    """A table, a row for each environment as it is done."""
    from proof import golden_stream  # of the environment this runs in: the tests hold it against a number

    from vidtok.cli.output import table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environments", nargs="*", metavar="REQUIREMENTS", default=USUAL)
    parser.add_argument("--python", default=sys.executable, help="the Python to make them with (this one)")
    options = parser.parse_args()
    golden = json.loads((ROOT / "tests" / "golden" / "digests.json").read_text())
    stream, rows = golden_stream(), []
    for words in options.environments:
        print(f"making {words}", file=sys.stderr, flush=True)
        rows.append({"environment": words} | check(words.split(), options.python, golden, stream))
    print(table(rows, ("environment", *COLUMNS)))
    results = [row["result"] for row in rows]
    if any(result != "same" and not result.startswith("not made") for result in results):
        return 1
    return 2 if any(result != "same" for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
