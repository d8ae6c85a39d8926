"""Our SSIM and MS-SSIM against pytorch-msssim: alternating runs in one process, medians, ratio, difference.

python scripts/bench_metrics.py [--runs 7] [--frames 17] [--threads N]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import pytorch_msssim
import torch

from vidtok.metrics.table import measure

SIZES = ((256, 256), (256, 456), (720, 1280))


def frames_pair(frames: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A smooth random clip and a noisy copy, uint8 (T, H, W, 3)."""
    torch.manual_seed(0)
    coarse = torch.rand(frames, 3, height // 16 + 1, width // 16 + 1) * 255
    clean = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear").permute(0, 2, 3, 1)
    noisy = clean + torch.randn(clean.shape) * 9
    return clean.clamp(0, 255).byte().contiguous(), noisy.clamp(0, 255).byte().contiguous()


def peer(a: torch.Tensor, b: torch.Tensor, name: str) -> float:
    """pytorch-msssim on the same frames, conversion counted as ours is."""
    x, y = (frames.permute(0, 3, 1, 2).float() for frames in (a, b))
    function = pytorch_msssim.ssim if name == "ssim" else pytorch_msssim.ms_ssim
    return float(function(x, y, data_range=255))


def ours(a: torch.Tensor, b: torch.Tensor, name: str) -> float:
    value = measure(a, b, name)[name]
    assert isinstance(value, float)
    return value


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.runs} runs")
    for height, width in SIZES:
        a, b = frames_pair(args.frames if height <= 256 else 4, height, width)
        for name in ("ssim", "ms_ssim"):
            difference = abs(ours(a, b, name) - peer(a, b, name))
            mine, theirs = [], []
            for _ in range(args.runs):
                mine.append(seconds(lambda a=a, b=b, name=name: ours(a, b, name)))
                theirs.append(seconds(lambda a=a, b=b, name=name: peer(a, b, name)))
            per_frame = [1e3 * statistics.median(times) / len(a) for times in (mine, theirs)]
            ratio = statistics.median(t / m for m, t in zip(mine, theirs, strict=True))
            print(
                f"{width}x{height} {name:8} ours {per_frame[0]:7.2f} ms/frame  "
                f"pytorch-msssim {per_frame[1]:7.2f}  ratio {ratio:5.2f}  difference {difference:.1e}"
            )


if __name__ == "__main__":
    main()
