"""Our PSNR, SSIM and MS-SSIM against torchmetrics and pytorch-msssim: alternating runs in one process, medians.

python scripts/bench_metrics.py [--runs 7] [--frames 16] [--threads N] [--size WxH] [--peer NAME] [--cpu]

Frames are uint8 on both sides, conversion counts. The ratio is how many times as fast as the peer ours is, the median
over the runs; the difference is between the means over frames. Exits with 1 where a difference is larger than 1e-4 (of
PSNR: dB). SSIM of torchmetrics is over the whole picture with reflected borders; what is compared is its inside, where
the window (11 taps, sigma 1.5, as ours) needs no border. With --cpu both sides run in one thread and its CPU time is
what is compared, for machines with other work beside this.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

import pytorch_msssim
import torch
from torchmetrics.functional import image as tm

from vidtok.metrics.table import measure

SIZES = ("256x256", "1280x720")
MOST = 1e-4
BORDER = 5

Pair = tuple[torch.Tensor, torch.Tensor]
Clock = Callable[[], float]


def frames_pair(frames: int, height: int, width: int) -> Pair:
    """A smooth random clip and a noisy copy, uint8 (T, H, W, 3)."""
    torch.manual_seed(0)
    coarse = torch.rand(frames, 3, height // 16 + 1, width // 16 + 1) * 255
    clean = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear").permute(0, 2, 3, 1)
    noisy = clean + torch.randn(clean.shape) * 9
    return clean.clamp(0, 255).byte().contiguous(), noisy.clamp(0, 255).byte().contiguous()


def floats(pair: Pair) -> Pair:
    """(T, 3, H, W) float32, 0..255, as the peers take them."""
    x, y = (frames.permute(0, 3, 1, 2).float() for frames in pair)
    return x, y


def torchmetrics_psnr(pair: Pair) -> float:
    x, y = floats(pair)
    return float(tm.peak_signal_noise_ratio(x, y, data_range=(0.0, 255.0), reduction="none", dim=(1, 2, 3)).mean())


def torchmetrics_ssim(pair: Pair) -> float:
    x, y = floats(pair)
    found = tm.structural_similarity_index_measure(x, y, data_range=255.0, return_full_image=True)
    return float(found[1][..., BORDER:-BORDER, BORDER:-BORDER].mean())


def torchmetrics_ms_ssim(pair: Pair) -> float:
    x, y = floats(pair)
    return float(tm.multiscale_structural_similarity_index_measure(x, y, data_range=255.0))


def msssim_ssim(pair: Pair) -> float:
    return float(pytorch_msssim.ssim(*floats(pair), data_range=255))


def msssim_ms_ssim(pair: Pair) -> float:
    return float(pytorch_msssim.ms_ssim(*floats(pair), data_range=255))


@dataclass(frozen=True)
class Case:
    """What of ours is timed against which functions of a peer, one for each metric."""

    metrics: tuple[str, ...]
    peer: str
    functions: tuple[Callable[[Pair], float], ...]


CASES = (
    Case(("psnr",), "torchmetrics", (torchmetrics_psnr,)),
    Case(("ssim",), "torchmetrics", (torchmetrics_ssim,)),
    Case(("ms_ssim",), "torchmetrics", (torchmetrics_ms_ssim,)),
    Case(("ssim",), "pytorch-msssim", (msssim_ssim,)),
    Case(("ms_ssim",), "pytorch-msssim", (msssim_ms_ssim,)),
    Case(("psnr", "ssim", "ms_ssim"), "torchmetrics", (torchmetrics_psnr, torchmetrics_ssim, torchmetrics_ms_ssim)),
)


def seconds(function: Callable[[], object], clock: Clock) -> float:
    start = clock()
    function()
    return clock() - start


def run(case: Case, pair: Pair, runs: int, clock: Clock) -> tuple[str, float]:
    """A line, and the largest difference."""

    def ours() -> list[float]:
        found = measure(*pair, case.metrics)
        return [float(found[name]) for name in case.metrics]

    def theirs() -> list[float]:
        return [function(pair) for function in case.functions]

    with torch.inference_mode():
        apart = max(abs(a - b) for a, b in zip(ours(), theirs(), strict=True))
        times = [(seconds(ours, clock), seconds(theirs, clock)) for _ in range(runs)]
    mine, peer = (1e3 * statistics.median(side) / len(pair[0]) for side in zip(*times, strict=True))
    ratio = statistics.median(t / m for m, t in times)
    height, width = pair[0].shape[1:3]
    size = f"{width}x{height}"
    names = "+".join(case.metrics)
    words = f"ours {mine:7.2f} ms/frame, {case.peer:14} {peer:8.2f}, ratio {ratio:5.2f}, difference {apart:.1e}"
    return f"{size:9} {names:17} {words}", apart


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--size", metavar="WxH", action="append", help=f"as often as wanted; default: {SIZES}")
    parser.add_argument("--peer", choices=sorted({case.peer for case in CASES}), help="only this one")
    parser.add_argument("--cpu", action="store_true", help="CPU time of one thread instead of the wall clock")
    args = parser.parse_args()
    if args.threads or args.cpu:
        torch.set_num_threads(1 if args.cpu else args.threads)
    clock = time.thread_time if args.cpu else time.perf_counter
    peers = ", ".join(f"{name} {version(name)}" for name in ("torchmetrics", "pytorch-msssim"))
    what = f"{torch.get_num_threads()} threads, {args.runs} runs{', CPU time' if args.cpu else ''}"
    print(f"torch {torch.__version__}, {peers}, {what}", flush=True)
    worst = 0.0
    for size in args.size or SIZES:
        width, height = map(int, size.split("x"))
        pair = frames_pair(args.frames, height, width)
        for case in (case for case in CASES if args.peer in (None, case.peer)):
            line, apart = run(case, pair, args.runs, clock)
            worst = max(worst, apart)
            print(line, flush=True)
    print(f"largest difference {worst:.1e}, at most {MOST:.0e} is asked")
    return 0 if worst <= MOST else 1


if __name__ == "__main__":
    sys.exit(main())
