"""Peak memory of encode and decode: it must not grow with length, and be bounded for large frames.

    python scripts/bench_memory.py [--model NAME] [--long SECONDS] [--size WxH] [--large WxH]

Each run is a process of its own; the number is its peak resident set (VmHWM). Clips are drawn, not real: memory
does not depend on what they show.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RUN = """
import sys
from vidtok.cli import main
try:
    main(sys.argv[1:])
finally:
    words = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    print(words[0].split()[1], file=sys.stderr)
"""


def draw(path: Path, frames: int, width: int, height: int) -> None:
    """A noise texture that scrolls."""
    texture = np.random.default_rng(0).integers(0, 256, (height, 2 * width, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(30), options={"preset": "ultrafast", "crf": "35"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for t in range(frames):
            view = np.ascontiguousarray(texture[:, t % width : t % width + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
        container.mux(stream.encode(None))


def peak_mb(*arguments: str) -> float:
    """Run the command line in a fresh process; its peak resident set in MB."""
    done = subprocess.run([sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"vidtok {' '.join(arguments)} failed: {done.stderr}")
    return int(done.stderr.split()[-1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--short", type=float, default=10, help="seconds")
    parser.add_argument("--long", type=float, default=600, help="seconds")
    parser.add_argument("--size", default="160x96")
    parser.add_argument("--large", default="3840x2160", help="a few frames of this size; 0x0: none")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    large = tuple(map(int, options.large.split("x")))
    jobs = [(round(options.short * 30), width, height), (round(options.long * 30), width, height)]
    if all(large):
        jobs.append((9, *large))
    print(f"{'frames':>8} {'size':>10} {'encode MB':>10} {'decode MB':>10}")
    with tempfile.TemporaryDirectory() as folder:
        for frames, w, h in jobs:
            clip, tokens, out = (str(Path(folder) / name) for name in ("clip.mp4", "clip.vtok", "out.mp4"))
            draw(Path(clip), frames, w, h)
            encode = peak_mb("encode", clip, "-o", tokens, "--model", options.model, "--force", "--quiet")
            decode = peak_mb("decode", tokens, "-o", out, "--model", options.model, "--force", "--quiet")
            print(f"{frames:8d} {f'{w}x{h}':>10} {encode:10.0f} {decode:10.0f}", flush=True)


if __name__ == "__main__":
    main()
