"""scripts/results.py: rows of evaluations in, docs/results.md and its plots out."""

from __future__ import annotations

import importlib.util
import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "results.py"
CLIPS = ("data/still.mp4", "data/moving.mp4")
METRICS = ("psnr", "psnr:y", "ssim", "ms_ssim", "xpsnr")
Row = dict[str, Any]


@pytest.fixture(scope="module")
def results() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results_script", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def rows_of(head: Row, bpp: float, psnr: float, **more: Any) -> list[Row]:
    """Rows of two clips, the second 4 dB worse, and their summary."""
    rows = [
        {"path": path} | head | {"frames": 9, "bpp": bpp, "model_id": "ab" * 32, "entropy_mode": "lzma"}
        | {name: psnr - 4 * i if "psnr" in name else (psnr - 4 * i) / 50 for name in METRICS} | more
        for i, path in enumerate(CLIPS)
    ]  # fmt: skip
    mean = {name: sum(row[name] for row in rows) / 2 for name in METRICS}
    worst = {"psnr_worst": psnr - 4, "psnr_worst_path": CLIPS[1], "psnr_interval": [psnr - 4, psnr]}
    fps = {"encode_fps": None if head["quality"] == 1 else 11.5, "decode_fps": 22.25}
    said = {"versions": {"vidtok": "9.9"}, "settings": {"reading": {"entropy": "auto"}}}
    return [*rows, {"summary": True} | head | {"bpp": bpp, "frames": 18} | mean | worst | fps | said]


def write(path: Path, rows: list[Row]) -> None:
    ordered = sorted(rows, key=lambda row: "summary" in row)
    path.write_text("".join(json.dumps(row) + "\n" for row in [{"vidtok_results": 1}, *ordered]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model from 28 to 32 dB; x264 5 dB better at the same rates; x265 so much better that no quality is shared."""
    model = [row for q in (1, 2, 3, 4) for row in rows_of({"model": "vidtok-2", "quality": q}, 0.1 * q, 27.0 + q)]
    codecs = [
        row
        for name, better in (("x264:preset=medium", 5.0), ("svtav1:preset=8", 20.0))
        for i in (1, 2, 3, 4)
        for row in rows_of({"codec": name, "quality": 50.0 - 5 * i}, 0.1 * i - 0.02, 27.0 + better + i)
    ]
    write(tmp_path / "model.jsonl", model)
    write(tmp_path / "codecs.jsonl", codecs)
    write(tmp_path / "mode-lzma.jsonl", model)
    write(tmp_path / "mode-adaptive.jsonl", [row | {"bpp": row["bpp"] * 0.8} for row in model])
    write(tmp_path / "speed.jsonl", rows_of({"model": "vidtok-2", "quality": 2}, 0.2, 29.0))
    return tmp_path


def test_the_page_says_what_the_rows_say(results: ModuleType, folder: Path) -> None:
    page = results.page(folder, folder / "plots", "plots")
    for line in (
        "| x264 medium | crf 45 | 0.0800 |", "| vidtok-2 adaptive | quality 4 | 0.3200 | 29.00 |",
        "| adaptive | 1 | 0.0800 | -20.0 % | – | 22.25 |", "| vidtok-2 | quality 2 | 0.2000 | 27.00 | 11.50 | 22.25 |",
        "| still | 1 | 0.0800 | 28.00 | 33.00 | 48.00 |", "x264 medium is always ahead", "Versions: vidtok 9.9",
        "the qualities do not overlap", "still.mp4", "rows codecs --workers 2", "`auto` takes `lzma` here",
        "in 4 qualities beside", "**Ordinary codecs are ahead in 8 of 8 comparisons",
    ):  # fmt: skip
        assert line in page, line
    assert "None" not in page and "nan" not in page
    assert str(folder) not in page, "no paths of the machine"
    for name in ("psnr", "ms_ssim", "ssim", "xpsnr"):
        root = ElementTree.parse(folder / "plots" / f"{name}.svg").getroot()
        words = {node.text for node in root.iter("{http://www.w3.org/2000/svg}text")}
        assert {"x264 medium", "vidtok-2 lzma", "vidtok-2 adaptive", "bits per pixel, logarithmic"} <= words


def test_a_note_and_what_was_not_measured_are_said_each_time(
    results: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = folder / "results.md"
    words = "The codecs were measured beside other work."

    def write_page(*more: str) -> str:
        monkeypatch.setattr(sys, "argv", ["results.py", str(folder), "--page", str(page), *more])
        results.main()
        return page.read_text()

    assert words not in write_page()
    assert "Sizes in other modes" not in page.read_text()
    (folder / "mode-adaptive.jsonl").unlink()
    assert words in write_page("--note", words)
    assert "Sizes in other modes are in [coding.md](coding.md)." in page.read_text()
    assert words in write_page(), "kept beside the rows"
    assert words not in write_page("--note", "")


def test_codecs_between_and_outside_their_rates(results: ModuleType) -> None:
    rows = [{"bpp": 0.1, "psnr": 30.0}, {"bpp": 0.4, "psnr": 34.0}]
    assert results.at_rate(rows, 0.2, "psnr") == pytest.approx(32.0)
    assert results.at_rate(rows, 0.05, "psnr") is None
    assert results.at_rate(rows, 0.9, "psnr") == 34.0 and results.bpp_above(rows, 0.9)
    assert "ahead on b by 1.0 dB" in results.sentence(1, "x264", [("a", -3.0), ("b", 1.0)])
    assert "in 1 of 2 comparisons" in results.verdict([-3.0, 1.0])
