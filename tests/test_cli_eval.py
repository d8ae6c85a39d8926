"""`vidtok eval` and `vidtok compare`: rows, tables, files of results, what is said where."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def nothing_at_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("VIDTOK_LPIPS_WEIGHTS", "VIDTOK_FVD_WEIGHTS", "VIDTOK_I3D_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))


def rows_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_eval_with_codecs_and_a_file_of_results(
    run: Callable[..., Any], clip: Path, tiny_model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "results.jsonl"
    command = ["eval", clip, "--model", tiny_model, "--codec", "x264:crf=20,30,40", "--codec", "vp9:crf=20,40,60",
               "--metric", "psnr,flicker", "-o", path]  # fmt: skip
    ran = run(*command, "--json")
    assert ran.code == 0, ran.err
    rows = rows_of(ran.out)
    assert [row["metric"] for row in rows if row.get("bd")] == ["psnr", "flicker"]
    assert rows[-1]["summary"] and rows[-1]["codec"] == "vp9:preset=2" and rows[-1]["dialects"]["psnr"]
    lines = rows_of(path.read_text())
    assert lines[0]["vidtok_results"] == 1 and len(lines) == 1 + len(rows)
    again = run(*command)
    assert again.code == 1 and "--resume goes on from it" in again.err
    ran = run(*command, "--resume")
    assert ran.code == 0, ran.err
    assert "overlap" in ran.out and "flicker: 0..255" in ran.out and "x264:preset=medium" in ran.out
    ran = run(*command, "--resume", "--frames", "3")
    assert ran.code == 2 and "made with reading" in ran.err


def test_what_cannot_be_had_is_said_once(run: Callable[..., Any], clip: Path, make_clip: Any, tmp_path: Path) -> None:
    other = make_clip(tmp_path / "other.mp4")
    command = ["eval", clip, other, "--no-model", "--codec", "x264:crf=30", "--metric", "psnr,lpips", "--offline"]
    ran = run(*command)
    assert ran.code == 1
    assert ran.err.count("no lpips: no weights for lpips vgg") == 1 and "leave out --offline" in ran.err
    assert "Traceback" not in ran.err and ran.out.count("x264:preset=medium") == 3
    strict = run(*command, "--strict")
    assert strict.code == 2 and "(--strict)" in strict.err and not strict.out


def test_a_protocol_brings_its_metrics(run: Callable[..., Any], clip: Path) -> None:
    base = ["eval", clip, "--no-model", "--codec", "x264:crf=30", "--offline", "--json", "--protocol"]
    ran = run(*base, "ucf101-larp-128")
    row, summary = rows_of(ran.out)
    assert ran.code == 1 and {"psnr:video", "lpips:vgg", "fvd:larp"} <= set(row) and row["fvd:larp"] is None
    assert summary["settings"]["protocol"] == "ucf101-larp-128"
    row, _ = rows_of(run(*base, "mcl-jcv-256", "--metric", "ssim").out)
    assert "psnr" not in row and row["ssim"] > 0.5
    for arguments, words in ((["mcl-jcv"], "did you mean"), (["mcl-jcv-256", "--resize", "64"], "leave out 64")):
        ran = run(*base, *arguments)
        assert ran.code == 2 and words in ran.err


def test_compare_frame_by_frame(run: Callable[..., Any], clip: Path, make_clip: Any, tmp_path: Path) -> None:
    other = make_clip(tmp_path / "other.mp4", frames=8)
    ran = run("compare", clip, other, "--metric", "psnr,xpsnr,fvd", "--per-frame", "--json", "--offline")
    (row,) = rows_of(ran.out)
    assert ran.code == 1 and row["fvd"] is None and "StyleGAN" in row["dialects"]["fvd"]
    assert len(row["per_frame"]["psnr"]) == len(row["per_frame"]["xpsnr"]) == row["frames"] == 8
    assert "per_frame" not in run("compare", clip, other, "--per-frame").out
