#!/usr/bin/env python3
"""What the way source -> RGB -> written file -> RGB costs without a model, clip by clip.

    python scripts/colour_roundtrip.py ../shared/data/val/*.mp4 --frames 16

Prints the largest mean shift of a channel in 8-bit levels (the promise: below 0.3), and the PSNR over all
frames. Beside what the default crf 16 gives stands crf 0, where only 8-bit 4:2:0 itself costs.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vidtok.video import Resize, VideoReader, VideoWriter


@dataclass(frozen=True)
class Loss:
    """Mean difference per channel (written - source, levels of 255), PSNR in dB, frames compared."""

    shift: tuple[float, float, float]
    psnr: float
    frames: int

    @property
    def worst(self) -> float:
        """The shift of the channel that moved most."""
        return max(self.shift, key=abs)


def measure(source: Path, folder: Path, *, frames: int = 16, crf: float = 16, resize: Resize | None = None,
            chroma444: bool = False) -> Loss:
    """The loss of one clip written to .mp4 in `folder` and read again."""
    written = folder / f"roundtrip-{crf:g}.mp4"
    with VideoReader(source, frames=frames, resize=resize, warn=lambda note: None) as video:
        info = video.info
        with VideoWriter(written, width=info.width, height=info.height, time_base=info.time_base,
                         rate=info.rate, crf=crf, chroma444=chroma444, force=True) as out:
            for pixels, pts in video.clips(8):
                out.write(pixels, pts)
            out.close(video.last_duration)
    return compare(source, written, frames=frames, resize=resize)


def compare(source: Path, written: Path, *, frames: int, resize: Resize | None) -> Loss:
    """Frame by frame difference of two videos of one size."""
    total, squares, count, compared = np.zeros(3), 0.0, 0, 0
    with (VideoReader(source, frames=frames, resize=resize, warn=lambda note: None) as before,
          VideoReader(written, warn=lambda note: None) as after):
        for a, b in zip(before, after, strict=True):
            difference = b.pixels.astype(np.int32) - a.pixels
            total += difference.sum(axis=(0, 1))
            squares += float((difference.astype(np.int64) ** 2).sum())
            count += difference.shape[0] * difference.shape[1]
            compared += 1
    mse = squares / (3 * count)
    shift = (total / count).tolist()
    return Loss((shift[0], shift[1], shift[2]), 100.0 if mse == 0 else 10 * math.log10(255**2 / mse), compared)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", type=Path)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--resize", help="N or WxH, as in vidtok encode")
    arguments = parser.parse_args()
    resize = Resize.parse(arguments.resize) if arguments.resize else None
    print("| clip | crf 16: R G B shift | dB | crf 0: R G B shift | dB |\n|---|---|---|---|---|")
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for source in arguments.sources:
            cells = []
            for crf in (16, 0):
                loss = measure(source, Path(folder), frames=arguments.frames, crf=crf, resize=resize)
                cells += [" ".join(f"{s:+.2f}" for s in loss.shift), f"{loss.psnr:.1f}"]
                worst = max(worst, abs(loss.worst))
            print(f"| {source.name} | {' | '.join(cells)} |", flush=True)
    print(f"\nlargest shift: {worst:.3f} levels")


if __name__ == "__main__":
    main()
