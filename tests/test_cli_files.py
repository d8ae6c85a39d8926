"""Commands that need no model: info, verify, repack, export, import; and how light and tidy the start is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidtok.cli.output import escape, plain, size, table

Run = Callable[..., Any]
HEAVY = ("torch", "numpy", "av", "tqdm", "vector_quantize_pytorch", "einx")


@pytest.fixture
def ids() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 1000, (7, 5, 6), dtype=np.uint16)


@pytest.fixture
def imported(run: Run, ids: np.ndarray[Any, Any], tmp_path: Path) -> Path:
    np.save(tmp_path / "ids.npy", ids)
    assert run("import", tmp_path / "ids.npy", "-o", tmp_path / "ids.vtok", "--vocabulary", 1000).code == 0
    return tmp_path / "ids.vtok"


def test_import_and_export_are_inverse(run: Run, imported: Path, ids: np.ndarray[Any, Any], tmp_path: Path) -> None:
    assert run("export", imported, "-o", tmp_path / "back.npy").code == 0
    assert np.array_equal(np.load(tmp_path / "back.npy"), ids)
    assert run("export", imported, "-o", tmp_path / "back.bin").code == 0
    assert (tmp_path / "back.bin").read_bytes() == ids.astype("<u2").tobytes()


def test_info_of_imported_ids_has_every_key(run: Run, imported: Path) -> None:
    row = json.loads(run("info", imported, "--json").out)
    wanted = (
        "model model_id frames width height fps duration grid codebooks vocabulary quality entropy segments chunks "
    )
    wanted += "file_bytes audio_bytes bpp raw_bpp precision device damaged_source"
    assert set(wanted.split()) <= set(row)
    assert row["grid"] == [7, 5, 6] and row["width"] is None and row["vocabulary"] == 1000


def test_info_tokens_counts_them(run: Run, imported: Path, ids: np.ndarray[Any, Any]) -> None:
    row = json.loads(run("info", imported, "--json", "--tokens").out)
    assert row["tokens"]["used"] == len(np.unique(ids))
    assert "perplexity" in run("info", imported, "--tokens").out


def test_verify_names_the_damage(run: Run, imported: Path) -> None:
    assert run("verify", imported, "--deep").code == 0
    data = bytearray(imported.read_bytes())
    data[len(data) // 2] ^= 4
    imported.write_bytes(data)
    ran = run("verify", imported, "--json")
    row = json.loads(ran.out)
    assert ran.code == 1 and row["ok"] is False and row["problems"] and "Error:" in ran.err


def test_verify_goes_on_after_a_file_that_is_none(run: Run, imported: Path, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    ran = run("verify", tmp_path / "x", tmp_path / "gone", imported)
    assert ran.code == 1 and "1 whole, 2 damaged or unreadable" in ran.err


def test_repack_raw_gives_the_same_bytes(run: Run, imported: Path, tmp_path: Path) -> None:
    assert run("repack", imported, "-o", tmp_path / "again.vtok", "--entropy", "raw").code == 0
    assert (tmp_path / "again.vtok").read_bytes() == imported.read_bytes()
    assert run("repack", imported, "-o", tmp_path / "again.vtok").code == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["info", "NPY"], 1, "ids.npy: not a token file"),
        (["info", "gone"], 1, "gone"),
        (["import", "NPY", "-o", "x", "--vocabulary", "10"], 1, "vocabulary of 10"),
        (["import", "NPY", "-o", "x", "--vocabulary", "ten"], 2, "--vocabulary"),
        (["export", "FILE", "-o", "x.txt"], 2, ".npy"),
        (["repack", "FILE", "-o", "x", "--entropy", "prior"], 2, "no prior for ids of model"),
        (["models", "show", "defualt"], 2, "did you mean 'default'"),
        (["compare", "a.mp4"], 2, "'B'"),
        (["eval", "x", "--metric", "psnrr"], 2, "did you mean 'psnr'"),
        (["bench", "--size", "big"], 2, "not a size"),
        (["train", "gone.toml"], 1, "gone.toml"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_gets_one_line(
    run: Run,
    imported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"NPY": tmp_path / "ids.npy", "FILE": imported}
    ran = run(*(names.get(argument, argument) for argument in arguments))
    assert (ran.code, len(ran.err.splitlines())) == (code, 1), ran.err
    assert ran.err.startswith("Error: ") and words in ran.err


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["encode", "--help"], ["info", "FILE"], ["verify", "FILE"]]
)
def test_start_imports_nothing_heavy(imported: Path, arguments: list[str]) -> None:
    names = [str(imported) if argument == "FILE" else argument for argument in arguments]
    code = (
        "import sys\nfrom vidtok.cli import main\n"
        f"try: main({names!r})\nexcept SystemExit as stop: assert stop.code == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["info", "FILE"]])
def test_start_imports_few_modules(imported: Path, arguments: list[str]) -> None:
    """What a start costs is its imports (scripts/bench_start.py has the times); bare python has about 60 modules."""
    names = [str(imported) if argument == "FILE" else argument for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "vidtok", *names], capture_output=True, text=True, check=True
    )
    modules = [line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert "click" in modules and len(modules) < 200, len(modules)


def test_a_reader_that_leaves_early_is_no_error(imported: Path) -> None:
    command = f"{sys.executable} -m vidtok info {imported} | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_words() -> None:
    assert escape("a\tb\x9b\u202e\udcffé") == "a\\tb\\x9b\\u202e\\udcffé"
    assert [size(n) for n in (7, 1500, 2_500_000, 4e9)] == ["7 B", "1.5 kB", "2.5 MB", "4.0 GB"]
    assert plain({"a": float("nan"), "b": (1, Path("x")), "c": np.float32(2)}) == {"a": None, "b": [1, "x"], "c": 2.0}
    assert table([{"a": 1, "b": None}, {"a": 22.5}], ["a", "b"]) == "a\n1\n22.50"
