"""Reports made up for a test: a few rows with everything that rows may have, and small pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from vidtok.report import ClipDetail, Recorder, Report, ReportOptions, run_label
from vidtok.video.info import Pixels

HOSTILE = (
    "</script><script>alert(1)</script>.mp4",
    "\"><img src=x onerror='alert(1)'>.mp4",
    "<!--<script>",
    "]]></style></title>",
    "a\u202eexe.mp4",
    "\u2066b\u2069\u200f.mp4",
    "&lt;b&gt;&amp;",
    "tab\tline\nescape\x1b[31m\x9b",
    "\udcff\udcfe.mp4",
    "javascript:alert(1)//",
    "${alert(1)}`{{7*7}}",
    "é שלום مرحبا 日本.mp4",
)


def recorded(
    source: Pixels,
    result: Pixels,
    values: Mapping[str, Sequence[float | None]],
    options: ReportOptions | None = None,
    *,
    path: str = "clip.mp4",
    run: str = "run",
    ids: np.ndarray[Any, Any] | None = None,
) -> ClipDetail:
    """What a recorder keeps of frames (T, H, W, 3) that come in one go."""
    with Recorder(options) as recorder:
        clip = recorder.clip(path, run, frames=len(source), rate=Fraction(25))
        clip.frames(source, result, values)
        if ids is not None:
            clip.tokens(ids, 12, (4, 3))
        return clip.finish()


def made_up(*, clip: str = "one.mp4", model: str = "tiny", frames: int = 4, count: int = 4, side: int = 32) -> Report:
    """Two clips, a model in two qualities and a codec in two settings; a clip that failed; a metric without values.
    `count` frames of side x side pixels, of which `frames` are shown."""
    rows: list[dict[str, Any]] = []
    details = []
    runs: list[dict[str, Any]] = [{"model": model, "quality": 1}, {"model": model, "quality": 2}]
    runs += [{"codec": "x264:preset=slow", "quality": 20.0}, {"codec": "x264:preset=slow", "quality": 30.0}]
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    source = np.stack([np.stack([x + 8 * t, y, x + y], -1) for t in range(count)]).astype(np.uint8)
    for path in (clip, "two.mp4"):
        for i, run in enumerate(runs):
            quality = {"psnr": 25.0 + 2 * (i % 2), "ssim": 0.8, "bpp": 0.1 * (1 + i % 2) + 0.01 * (i // 2)}
            size = {"frames": count, "width": side, "height": side, "encode_fps": 10.0, "decode_fps": 20.0}
            rows.append({"path": path} | run | size | quality)
            result = source + rng.integers(0, 20, source.shape, np.uint8)
            values = {"psnr": [25.0 + t % 7 for t in range(count)], "flicker": [None, *map(float, range(1, count))]}
            ids = rng.integers(0, 12, (3, 4, 4)) if "model" in run else None
            options = ReportOptions(frames=frames, side=max(16, side))
            details.append(recorded(source, result, values, options, path=path, run=run_label(run), ids=ids))
    rows.append({"path": "broken.mp4", "model": model, "quality": 1, "error": "broken.mp4: no video"})
    for run in runs:
        own = [row for row in rows if run.items() <= row.items() and "error" not in row]
        means: dict[str, Any] = {key: own[0][key] for key in ("psnr", "ssim", "bpp", "encode_fps", "decode_fps")}
        worst = {"psnr_interval": [24.12, 26.05], "psnr_worst": 25.0, "psnr_worst_path": clip}
        rows.append({"summary": True} | run | {"clips": 2, "failed": 1, "frames": 2 * count} | means | worst)
        rows[-1] |= {"lpips": None, "lpips_missing": "no weights here", "usage": 0.5}
    delta = {"bd": True, "anchor": "x264:preset=slow", "test": model}
    rows.insert(-4, delta | {"metric": "psnr", "bd_rate": -12.5, "bd_quality": 0.75, "overlap": [25.0, 27.0],
                             "overlap_share": 0.5, "bd_rate_clips": -11.5, "bd_rate_clips_interval": [-14.5, -9.5]})
    rows.insert(-4, delta | {"metric": "ssim", "bd_rate": None, "bd_rate_missing": "nothing shared"})
    return Report(
        title=f"Evaluation of {clip}",
        rows=rows,
        dialects={"psnr": "12 dialect words", "ssim": "others", "lpips": "VGG"},
        provenance={"command": f"vidtok eval {clip}", "versions": {"vidtok": "9"}, "model ids": {model: "ab" * 32}},
        clips=details,
    )
