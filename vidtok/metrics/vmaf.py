"""VMAF (Netflix), model vmaf_v0.6.1, by an ffmpeg with libvmaf that is on PATH: frames through a pipe, constant memory.

Source and result lie side by side in one raw 4:4:4 video, BT.709 limited range, so that one pipe is enough; the filter
graph cuts them apart again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import weakref
from functools import lru_cache
from pathlib import Path

import numpy as np

from vidtok.errors import UsageError
from vidtok.video.filters import ToYuv444
from vidtok.video.info import Pixels

MODEL = "vmaf_v0.6.1"
SECONDS_TO_FINISH = 600


def find_vmaf() -> str:
    """The ffmpeg on PATH; UsageError where there is none, or none with libvmaf."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise UsageError("vmaf needs an ffmpeg with libvmaf on PATH; there is no ffmpeg")
    if not _has_libvmaf(program):
        raise UsageError(f"vmaf needs an ffmpeg with libvmaf on PATH; {program} has no libvmaf")
    return program


@lru_cache(maxsize=4)
def _has_libvmaf(program: str) -> bool:
    try:
        listed = subprocess.run(
            [program, "-hide_banner", "-filters"], capture_output=True, text=True, timeout=60, errors="replace"
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return any(line.split()[1:2] == ["libvmaf"] for line in listed.stdout.splitlines())


class VmafProcess:
    """One ffmpeg measuring one clip. Ended with this object if it is not finished."""

    def __init__(self, program: str, width: int, height: int) -> None:
        self._to_yuv = ToYuv444()
        self._folder = tempfile.TemporaryDirectory(prefix="vidtok-vmaf-")
        self._log = Path(self._folder.name, "vmaf.json")
        self._words = open(Path(self._folder.name, "words"), "w+b")  # noqa: SIM115, closed by finish
        side = f"{width}:{height}"
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        graph = (
            f"[0:v]split[a][b];[a]crop={side}:0:0[source];[b]crop={side}:{width}:0[result];"
            f"[result][source]libvmaf=log_fmt=json:log_path=vmaf.json:model=version={MODEL}:n_threads={threads}"
        )
        raw = ["-f", "rawvideo", "-pix_fmt", "yuv444p", "-s", f"{2 * width}x{height}", "-r", "25"]
        self._process = subprocess.Popen(
            [program, "-hide_banner", "-nostats", *raw, "-i", "-", "-lavfi", graph, "-f", "null", "-"],
            cwd=self._folder.name,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._words,
        )
        weakref.finalize(self, _end, self._process)

    def push(self, reference: Pixels, other: Pixels) -> None:
        """Frames (T, H, W, 3) uint8."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it ended early: `finish` says why
            for pair in zip(reference, other, strict=True):
                planes = [self._to_yuv(pixels) for pixels in pair]
                self._process.stdin.write(np.concatenate(planes, 2).tobytes())

    def finish(self) -> tuple[list[float], str]:
        """VMAF of each frame, or the reason why there is none."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            code = self._process.wait(SECONDS_TO_FINISH)
            found = json.loads(self._log.read_text()) if code == 0 else {}
            return [float(frame["metrics"]["vmaf"]) for frame in found["frames"]], ""
        except (OSError, ValueError, KeyError, subprocess.TimeoutExpired):
            return [], f"ffmpeg failed: {self._last_words()}"
        finally:
            self._words.close()
            _end(self._process)
            self._folder.cleanup()

    def _last_words(self) -> str:
        self._words.seek(0)
        lines = self._words.read().decode(errors="replace").split("\n")
        return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "it said nothing")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
