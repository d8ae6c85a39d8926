"""encode and decode as commands: files, folders, pipes, resuming, and one line for what goes wrong."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture
def tokens(run: Run, clip: Path, tiny_model: Path, tmp_path: Path) -> Path:
    path = tmp_path / "clip.vtok"
    assert run("encode", clip, "-o", path, "--model", tiny_model).code == 0
    return path


@pytest.fixture
def tree(clip: Path, tmp_path: Path) -> Path:
    """in/a.mp4, in/sub/b.mp4, in/broken.mp4 and in/notes.txt"""
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    shutil.copy(clip, folder / "a.mp4")
    shutil.copy(clip, folder / "sub" / "b.mp4")
    (folder / "broken.mp4").write_bytes(b"not a video")
    (folder / "notes.txt").write_text("x")
    return folder


def process(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "vidtok", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=120, check=False, **options)


def test_encode_reports_on_stdout_and_json_has_the_keys(run: Run, clip: Path, tiny_model: Path, tmp_path: Path) -> None:
    ran = run("encode", clip, "-o", tmp_path / "x.bin", "--model", tiny_model)
    assert ran.code == 0 and "10 frames 64x48" in ran.out and ran.err == ""
    ran = run("encode", clip, "-o", tmp_path / "x.bin", "--model", tiny_model, "--json", "--force")
    row = json.loads(ran.out)
    assert {"path", "output", "frames", "width", "height", "file_bytes", "audio_bytes", "bpp", "raw_bpp"} <= set(row)
    assert row["file_bytes"] == (tmp_path / "x.bin").stat().st_size
    assert row["bpp"] == pytest.approx(row["file_bytes"] * 8 / (10 * 64 * 48))


def test_quiet_says_nothing(run: Run, clip: Path, tiny_model: Path, tmp_path: Path) -> None:
    ran = run("encode", clip, "-o", tmp_path / "x", "--model", tiny_model, "--quiet")
    assert (ran.code, ran.out, ran.err) == (0, "", "")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".npy"])
def test_decode_by_suffix(run: Run, tokens: Path, tiny_model: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"back{suffix}"
    assert run("decode", tokens, "-o", out, "--model", tiny_model).code == 0
    assert out.stat().st_size > 100


def test_decode_a_span_equals_those_frames(run: Run, tokens: Path, tiny_model: Path, tmp_path: Path) -> None:
    import numpy as np

    assert run("decode", tokens, "-o", tmp_path / "all.npy", "--model", tiny_model).code == 0
    assert run("decode", tokens, "-o", tmp_path / "part.npy", "--model", tiny_model, "--frames", "3:8").code == 0
    assert np.array_equal(np.load(tmp_path / "all.npy")[3:8], np.load(tmp_path / "part.npy"))


def test_existing_output_needs_force(run: Run, clip: Path, tokens: Path, tiny_model: Path) -> None:
    before = tokens.read_bytes()
    ran = run("encode", clip, "-o", tokens, "--model", tiny_model)
    assert ran.code == 1 and "--force" in ran.err and len(ran.err.splitlines()) == 1
    assert run("encode", clip, "-o", tokens, "--model", tiny_model, "--force").code == 0
    assert tokens.read_bytes() == before


def test_folder_is_mirrored_failures_summed_up(run: Run, tree: Path, tiny_model: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    ran = run("encode", tree, "-o", tmp_path / "out", "--model", tiny_model, "--csv", table)
    assert ran.code == 1 and "2 done, 1 failed" in ran.err and "broken.mp4" in ran.err and "notes.txt" in ran.err
    found = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.vtok"))
    assert found == ["a.vtok", "sub/b.vtok"]
    assert [row["frames"] for row in csv.DictReader(table.read_text().splitlines())] == ["10", "10"]


def test_resume_redoes_only_what_is_not_whole(run: Run, tree: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("encode", tree, "-o", out, "--model", tiny_model)
    run(*arguments)
    whole, before = (out / "sub" / "b.vtok").read_bytes(), (out / "a.vtok").stat().st_mtime_ns
    (out / "sub" / "b.vtok").write_bytes(whole[:-20])
    stale = out / "sub" / ".b.vtok.tmp-999999999-abcd"
    stale.write_bytes(b"x")
    ran = run(*arguments, "--resume")
    assert "1 done, 1 were complete already, 1 failed" in ran.err
    assert (out / "sub" / "b.vtok").read_bytes() == whole and not stale.exists()
    assert (out / "a.vtok").stat().st_mtime_ns == before


def test_resume_never_replaces_what_is_no_token_file(run: Run, clip: Path, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("a letter")
    ran = run("encode", clip, "-o", tmp_path / "x", "--model", tiny_model, "--resume")
    assert ran.code == 1 and (tmp_path / "x").read_text() == "a letter"


def test_dry_run_writes_nothing(run: Run, tree: Path, tiny_model: Path, tmp_path: Path) -> None:
    ran = run("encode", tree, "-o", tmp_path / "out", "--model", tiny_model, "--dry-run", "--json")
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert {row["action"] for row in rows} == {"write", "fail"} and not (tmp_path / "out").exists()
    assert all(row["source_bytes"] > 0 for row in rows) and rows[0]["bytes"] > 0


def test_workers_write_the_same_bytes(run: Run, tree: Path, tiny_model: Path, tmp_path: Path) -> None:
    (tree / "broken.mp4").unlink()
    assert run("encode", tree, "-o", tmp_path / "one", "--model", tiny_model).code == 0
    done = process("encode", tree, "-o", tmp_path / "two", "--model", tiny_model, "--workers", "2")
    assert done.returncode == 0, done.stderr.decode()
    for path in (tmp_path / "one").rglob("*.vtok"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_pipes(run: Run, clip: Path, tokens: Path, tiny_model: Path, tmp_path: Path) -> None:
    sent = process("encode", clip, "-o", "-", "--model", tiny_model)
    assert sent.stdout == tokens.read_bytes()
    taken = process("decode", "-", "-o", tmp_path / "back.npy", "--model", tiny_model, input=sent.stdout)
    assert taken.returncode == 0, taken.stderr.decode()
    run("decode", tokens, "-o", tmp_path / "direct.npy", "--model", tiny_model)
    assert (tmp_path / "back.npy").read_bytes() == (tmp_path / "direct.npy").read_bytes()
    shown = process("info", "-", "--json", input=sent.stdout)
    assert json.loads(shown.stdout)["frames"] == 10


def test_killed_run_leaves_only_a_hidden_file_that_the_next_removes(
    make_clip: Callable[..., Path], tiny_model: Path, tmp_path: Path
) -> None:
    video = make_clip(tmp_path / "long.mp4", frames=500, width=160, height=96)
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-m", "vidtok", "encode", str(video), "-o", str(out / "x"), "--model", str(tiny_model)]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(out.iterdir()) and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.01)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    left = [path.name for path in out.iterdir()]
    assert len(left) == 1 and left[0].startswith(".x.tmp-"), left
    done = process("encode", video, "-o", out / "x", "--model", tiny_model, "--resume")
    assert done.returncode == 0 and [path.name for path in out.iterdir()] == ["x"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["encode", "gone.mp4"], 1, "there is no such file"),
        (["encode", "text.mp4"], 1, "not a video"),
        (["encode", "empty.mp4"], 1, "empty"),
        (["encode", "CLIP", "-o", "no/such/folder/x"], 1, "cannot write"),
        (["encode", "CLIP", "--model", "defualt"], 2, "did you mean 'default'"),
        (["encode", "CLIP", "--start", "99"], 1, "--start"),
        (["encode", "CLIP", "--start", "nan"], 2, "not a time"),
        (["encode", "CLIP", "--fps", "1/0"], 2, "not a frame rate"),
        (["encode", "CLIP", "--resize", "12x"], 2, "not a size"),
        (["encode", "CLIP", "--resize", "70000"], 2, "not a size"),
        (["encode", "CLIP", "--frames", "0"], 2, "range"),
        (["encode", "CLIP", "--max-pixels", "10"], 1, "--max-pixels"),
        (["encode", "CLIP", "--entropy", "prior"], 2, "no prior for ids of model 'tiny'"),
        (["encode", "CLIP", "--threads", "0"], 2, "range"),
        (["encode", "-"], 2, "must be a file"),
        (["encode"], 2, "no input"),
        (["encode", "CLIP", "--resise", "3"], 2, "--resize"),
        (["decode", "TOKENS", "--frames", "4:4"], 2, "holds no frame"),
        (["decode", "TOKENS", "--frames", "90:99"], 2, "0:10"),
        (["decode", "TOKENS", "-o", "x.avi"], 2, ".mp4"),
        (["decode", "TOKENS", "-o", "x.npy", "--model", "OTHER"], 1, "written by model 'tiny'"),
        (["decode", "TOKENS", "-o", "x.npy"], 1, "written by model 'tiny'"),
        (["decode", "CLIP", "-o", "x.npy"], 1, "not a token file"),
        (["encod"], 2, "did you mean 'encode'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_gets_one_line(
    run: Run,
    clip: Path,
    tokens: Path,
    tiny_model: Path,
    other_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "empty.mp4").touch()
    names = {"CLIP": clip, "TOKENS": tokens, "OTHER": other_model}
    model = ["--model", tiny_model] if arguments[0] == "encode" and "--model" not in arguments else []
    target = ["-o", "out.vtok"] if arguments[0] == "encode" and len(arguments) > 1 and "-o" not in arguments else []
    ran = run(*(names.get(argument, argument) for argument in arguments), *model, *target)
    assert ran.code == code, ran.err
    assert words in ran.err and len(ran.err.splitlines()) == 1 and ran.err.startswith("Error: ")
    assert not (tmp_path / "out.vtok").exists()


def test_names_are_escaped(run: Run, tmp_path: Path) -> None:
    ran = run("encode", tmp_path / "\x1b[31mred\n\u202egone.mp4")
    assert ran.code == 1 and "\x1b" not in ran.err and "\\x1b[31mred\\n\\u202egone" in ran.err


def test_debug_shows_where(run: Run, clip: Path, tmp_path: Path) -> None:
    ran = run("decode", clip, "-o", tmp_path / "x.mp4", "--debug")
    assert ran.code == 1 and "Traceback" in ran.err


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
def test_a_terminal_sees_a_bar(clip: Path, tiny_model: Path, tmp_path: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "vidtok",
        "encode",
        str(clip),
        "-o",
        str(tmp_path / "x"),
        "--model",
        str(tiny_model),
    ]
    running = subprocess.Popen(command, stderr=theirs, stdout=subprocess.DEVNULL)
    os.close(theirs)
    seen = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # the other end was closed
            break
        if not piece:
            break
        seen += piece
    os.close(ours)
    assert running.wait() == 0 and b"clip.mp4" in seen and b"frames/s" in seen


def test_a_folder_with_one_video_makes_its_output_folder(
    run: Run, clip: Path, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "videos" / "deep").mkdir(parents=True)
    (tmp_path / "videos" / "deep" / "one.mp4").write_bytes(clip.read_bytes())
    ran = run("encode", tmp_path / "videos", "-o", tmp_path / "tokens", "--model", tiny_model)
    assert ran.code == 0, ran.err
    assert (tmp_path / "tokens" / "deep" / "one.vtok").exists()
    missing = run("encode", clip, "-o", tmp_path / "nowhere" / "clip.vtok", "--model", tiny_model)
    assert missing.code == 1 and not (tmp_path / "nowhere").exists()
