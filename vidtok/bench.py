"""How fast this machine encodes and decodes, next to how fast it convolves.

Runs of all models alternate, each beside a run of the machine's own convolution, so that noise hits them
alike; medians are reported, and shares are medians of the ratios within runs. FLOPs count a multiplication and
an addition as two. Peak memory is that of a fresh process.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import vidtok
from vidtok.codec import DecodeOptions, EncodeOptions, choose_quality, decode_file, encode_file
from vidtok.errors import UsageError, VidtokError
from vidtok.tokens import Tokens
from vidtok.video import VideoWriter

_MORE_FLOPS: dict[Any, Any] = {
    # called by name by the model's layers; the counter knows only aten.convolution
    torch.ops.aten.mkldnn_convolution: lambda x, weight, *_, out_shape, **__: (
        2 * math.prod(out_shape) * math.prod(weight[1:])
    ),
}

Row = dict[str, Any]
Job = Callable[[], object]
Progress = Callable[[int, int | None], None]

CONVOLUTION = (4, 256, 32, 32)  # batch, channels, height, width of the machine's own 3x3 convolution


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What is timed: `frames` of width x height; `runs` of each, after one that is not counted.

    `qualities` of each model: stages of a multi-rate model; None is its default.
    """

    qualities: tuple[int | None, ...] = (None,)
    frames: int = 17
    width: int = 256
    height: int = 256
    runs: int = 5
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    files: bool = True  # file to file too
    file_frames: int = 65
    memory: bool = True  # peak memory, in a process of its own

    def __post_init__(self) -> None:
        if min(self.frames, self.width, self.height, self.runs, self.file_frames) < 1:
            raise UsageError("frames, sides and runs are at least 1")
        if not self.qualities:
            raise UsageError("nothing to time: give at least one quality")


def bench(
    models: Iterable[str] = ("default",),
    options: BenchOptions | None = None,
    *,
    progress: Progress | None = None,
) -> list[Row]:
    """A row per model and quality.

    Keys: `encode_fps`, `decode_fps` (model only), `encode_file_fps`, `decode_file_fps` (file to file), their
    `_spread` ((max - min) / median of the runs); `encode_flops`, `decode_flops` per frame; `conv_flops` a
    second of this machine; `encode_share`, `decode_share` of it; `peak_memory_bytes`; and what was timed how.
    """
    how = options or BenchOptions()
    with _threads(how.threads), tempfile.TemporaryDirectory(prefix="vidtok-bench-") as folder:
        frames = moving_picture(how.frames, how.height, how.width)
        wanted = dict.fromkeys((name, quality) for name in models for quality in how.qualities)
        benches = [_ModelBench(*each, frames, how, Path(folder), number) for number, each in enumerate(wanted)]
        if not benches:
            raise UsageError("nothing to time: give at least one model")
        convolution = _Convolution(benches[0].place)
        jobs = {(i, name): job for i, each in enumerate(benches) for name, job in each.jobs().items()}
        timed = _alternate(jobs, convolution, how.runs, progress)
        every = [run.convolution for runs in timed.values() for run in runs]
        rate = convolution.flops / statistics.median(every)
        return [
            each.row({name: timed[n, name] for n, name in jobs if n == i}, convolution.flops) | {"conv_flops": rate}
            for i, each in enumerate(benches)
        ]


class _Run(NamedTuple):
    """Seconds of a job, and of the machine's convolution just before it."""

    job: float
    convolution: float


class _ModelBench:
    """What is run for one model at one quality."""

    def __init__(
        self, name: str, quality: int | None, frames: np.ndarray, how: BenchOptions, folder: Path, number: int
    ) -> None:
        self.name, self._how, self._frames = name, how, frames
        self._model = vidtok.load(name, device=how.device, precision=how.precision)
        self._quality = choose_quality(quality, self._model.config)
        self._tokens = self._encode()
        self._folder, self._number = folder, number

    @property
    def place(self) -> tuple[torch.device, torch.dtype]:
        """Where and in what numbers the model computes."""
        return self._model.device, self._model.dtype

    def _encode(self) -> Tokens:
        return self._model.encode(self._frames, self._quality)

    def _decode(self) -> object:
        return self._model.decode(self._tokens)

    def jobs(self) -> dict[str, Job]:
        jobs: dict[str, Job] = {"encode": self._encode, "decode": self._decode}
        return jobs | self._file_jobs() if self._how.files else jobs

    def _file_jobs(self) -> dict[str, Job]:
        source, how = self._folder / "source.mp4", self._how
        if not source.exists():
            write_moving_picture(source, how.file_frames, how.height, how.width)
        tokens, result = self._folder / f"{self._number}.vtok", self._folder / "result.mp4"
        common: dict[str, Any] = {"device": how.device, "precision": how.precision, "threads": how.threads}
        encode = EncodeOptions(model=self.name, quality=self._quality, force=True, **common)
        decode = DecodeOptions(model=self.name, force=True, **common)
        return {
            "encode_file": lambda: encode_file(source, tokens, encode, warn=_silent),
            "decode_file": lambda: decode_file(tokens, result, decode, warn=_silent),
        }

    def row(self, timed: dict[str, list[_Run]], conv_flops: int) -> Row:
        how, frames = self._how, len(self._frames)
        row: Row = {"model": self.name, "model_id": self._model.model_id, "quality": self._quality}
        row |= {"frames": frames, "width": how.width, "height": how.height, "runs": how.runs}
        row |= {"device": str(self._model.device), "precision": self._model.precision}
        row["threads"] = torch.get_num_threads()
        for name, runs in timed.items():
            seconds = [run.job for run in runs]
            count = how.file_frames if name.endswith("_file") else frames
            row[f"{name}_fps"] = count / statistics.median(seconds)
            row[f"{name}_spread"] = (max(seconds) - min(seconds)) / statistics.median(seconds)
        for name, flops in self._flops().items():
            row[f"{name}_flops"] = flops / frames
            shares = [(flops / run.job) / (conv_flops / run.convolution) for run in timed[name]]
            row[f"{name}_share"] = statistics.median(shares)
        row["peak_memory_bytes"] = peak_memory(self.name, how, self._quality) if how.memory else None
        return row

    def _flops(self) -> dict[str, int]:
        """FLOPs of the whole clip: encode and decode."""
        from torch.utils.flop_counter import FlopCounterMode

        found = {}
        for name, job in (("encode", self._encode), ("decode", self._decode)):
            with FlopCounterMode(display=False, custom_mapping=_MORE_FLOPS) as counter:
                job()
            found[name] = int(counter.get_total_flops())
        return found


class _Convolution:
    """A plain 3x3 convolution, channels last: what this machine does in the same minute."""

    def __init__(self, place: tuple[torch.device, torch.dtype]) -> None:
        batch, channels, height, width = CONVOLUTION
        device, dtype = place
        weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
        x = torch.randn(batch, channels, height, width, device=device, dtype=dtype)
        self._weight = weight.contiguous(memory_format=torch.channels_last)
        self._x = x.contiguous(memory_format=torch.channels_last)
        self._repeats = 2
        self.flops = 2 * 9 * channels * channels * batch * height * width * self._repeats

    def __call__(self) -> None:
        with torch.inference_mode():
            for _ in range(self._repeats):
                y = torch.nn.functional.conv2d(self._x, self._weight, padding=1)
        float(y.flatten()[0])  # waits for an accelerator


def _alternate(
    jobs: dict[tuple[int, str], Job], convolution: Job, runs: int, progress: Progress | None
) -> dict[tuple[int, str], list[_Run]]:
    """Each job in turn, `runs` times; one round before that is not counted."""
    timed: dict[tuple[int, str], list[_Run]] = {key: [] for key in jobs}
    for number in range(runs + 1):
        for key, job in jobs.items():
            beside, seconds = _seconds(convolution), _seconds(job)
            if number:
                timed[key].append(_Run(seconds, beside))
        if progress:
            progress(number + 1, runs + 1)
    return timed


def _seconds(job: Job) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def peak_memory(model: str, how: BenchOptions, quality: int | None = None) -> int | None:
    """Peak resident bytes of a fresh process that loads, encodes and decodes once; None if unknown."""
    request = json.dumps({"model": model, "quality": quality, "options": asdict(how)})
    found = subprocess.run(
        [sys.executable, "-m", "vidtok.bench"], input=request, capture_output=True, text=True, check=False
    )
    try:
        return int(found.stdout)
    except ValueError:
        return None


def _report_own_peak(model: str, quality: int | None, how: BenchOptions) -> int | None:
    with _threads(how.threads):
        tokenizer = vidtok.load(model, device=how.device, precision=how.precision)
        tokenizer.decode(tokenizer.encode(moving_picture(how.frames, how.height, how.width), quality))
    if torch.cuda.is_available() and how.device in ("auto", "cuda"):
        return int(torch.cuda.max_memory_allocated())
    return _peak_of_this_process()


def _peak_of_this_process() -> int | None:
    """VmHWM where there is /proc: ru_maxrss would include the process that started this one."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def moving_picture(frames: int, height: int, width: int) -> np.ndarray:
    """Something with edges, texture and motion: uint8 (T, H, W, 3)."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    texture = np.random.default_rng(0).normal(0, 12, (height, width)).astype(np.float32)
    clip = np.empty((frames, height, width, 3), np.uint8)
    for t in range(frames):
        waves = 60 * np.sin((x + 3 * t) / 17) + 40 * np.cos((y - 2 * t) / 11)
        disc = 70 * ((x - width / 2 - 4 * t) ** 2 + (y - height / 2) ** 2 < (min(height, width) / 4) ** 2)
        grey = 110 + waves + disc + np.roll(texture, t, 1)
        clip[t] = np.stack([grey, grey * 0.8 + 20, 200 - grey * 0.6], -1).clip(0, 255)
    return clip


def write_moving_picture(path: Path, frames: int, height: int, width: int) -> None:
    """The moving picture as a video of 25 frames per second."""
    with VideoWriter(
        path, width=width, height=height, time_base=Fraction(1, 25), rate=Fraction(25), force=True
    ) as writer:
        writer.write(moving_picture(frames, height, width), range(frames))


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _silent(_: str) -> None:
    """Nobody is told."""


def main() -> int:
    """`python -m vidtok.bench`: a request on stdin, this process's peak memory on stdout."""
    request = json.load(sys.stdin)
    try:
        peak = _report_own_peak(request["model"], request["quality"], BenchOptions(**request["options"]))
    except VidtokError as exc:
        print(f"Error: {exc}", file=sys.stderr)
        return 1
    print(peak if peak is not None else "")
    return 0


if __name__ == "__main__":
    sys.exit(main())
