"""`vidtok train` as one sees it: a bar on a terminal, lines elsewhere. The trainer has tests of its own."""

from __future__ import annotations

import io
import os
import sys

import pytest

from vidtok.cli.output import Console
from vidtok.cli.train import line, state

RECORD = {
    "kind": "train",
    "step": 20,
    "loss": 0.41234,
    "psnr": 21.3,
    "quality": None,
    "clips_per_second": 8.1,
    "seconds_left": 750.4,
    "skipped_steps": 0,
}


def test_words_of_a_record() -> None:
    assert state(RECORD) == "loss 0.4123, 21.30 dB, 8.10 clips/s, left 0:12:30"
    assert state(RECORD | {"loss": None, "psnr": None}) == "loss -, - dB, 8.10 clips/s, left 0:12:30"
    assert line(RECORD, 600) == (
        "train 20/600  loss 0.4123  psnr 21.30  clips_per_second 8.10  skipped_steps 0  left 0:12:30"
    )
    assert line({"kind": "skipped", "step": 3, "reason": "the loss is nan"}, 6) == "skipped 3/6  reason the loss is nan"


def test_without_a_terminal_a_note_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    for console in (Console(), Console(quiet=True)):
        update, close = console.progress("tiny", unit=None)
        update(20, 600)
        console.note(state(RECORD), line(RECORD, 600))
        close()
    assert sys.stderr.getvalue() == line(RECORD, 600) + "\n"  # type: ignore[attr-defined]


def read_until(file: int, words: str) -> str:
    """What a terminal shows, which may come in pieces."""
    seen = b""
    while words.encode() not in seen:
        seen += os.read(file, 65536)
    return seen.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
def test_on_a_terminal_a_note_stands_beside_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    import pty

    ours, theirs = pty.openpty()
    with open(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        console = Console()
        update, close = console.progress("tiny", unit=None)
        update(20, 600)
        console.note(state(RECORD), line(RECORD, 600))
        console.say("step 21 skipped")
        seen = read_until(ours, "skipped")
        close()
        console.note("", "after the bar")
        read_until(ours, "after the bar")
    os.close(ours)
    assert "tiny" in seen and f"20/600, {state(RECORD)}" in seen and line(RECORD, 600) not in seen
    assert "it/s" not in seen and "\rstep 21 skipped" in seen
