"""`--report` of eval and compare, and what compare refuses or aligns."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from video_samples import moving, write_video

from vidtok.codec import EncodeOptions
from vidtok.compare import compare
from vidtok.errors import UsageError
from vidtok.evaluate import EvalOptions, evaluate
from vidtok.metrics.table import MetricSet, measure
from vidtok.report import Recorder, ReportOptions
from vidtok.video import VideoReader

Run = Callable[..., Any]
SMALL = ReportOptions(frames=3, side=32)


def numbers_of(page: Path) -> dict[str, Any]:
    """The rows that a page carries."""
    (found,) = re.findall(r'<script type="application/json" id="numbers">(.*?)</script>', page.read_text(), re.S)
    return dict(json.loads(found))


@pytest.mark.parametrize("held", [False, True])
def test_fresh_values_are_those_the_mean_is_made_of(held: bool) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (9, 20, 24, 3), np.uint8) for _ in range(2))
    metrics = MetricSet("psnr,ssim,flicker,psnr:video,psnr:worst,psnr:y,vif,ms_ssim", per_frame=held, watched=True)
    seen: dict[str, list[float | None]] = {}

    def take() -> None:
        for name, values in metrics.fresh_values().items():
            seen.setdefault(name, []).extend(values)

    for first, end in ((0, 4), (4, 5), (5, 9)):
        metrics.update(a[first:end], b[first:end])
        take()
    result = metrics.result()
    take()
    assert ("per_frame" in result) == held and (not held or result["per_frame"] == seen)
    assert {name: len(values) for name, values in seen.items() if values} == dict.fromkeys(
        ("psnr", "ssim", "flicker", "psnr:y", "vif"), 9
    )
    assert seen["flicker"][0] is None
    for name, values in seen.items():
        own = [value for value in values if value is not None]
        assert not values or np.mean(own) == pytest.approx(result[name], rel=1e-6)
    for name in ("psnr", "ssim"):
        single = [measure(a[t : t + 1], b[t : t + 1], name)[name] for t in range(9)]
        assert seen[name] == pytest.approx(single, rel=1e-6)


def test_evaluate_shows_what_it_measures(tiny_model: Path, clip: Path) -> None:
    options = EvalOptions(models=(str(tiny_model),), metrics=("psnr", "flicker", "tokens"))
    plain = next(iter(evaluate([clip], options)))
    with Recorder(SMALL) as recorder:
        rows = [dict(row) for row in evaluate([clip, "missing.mp4"], options, recorder=recorder)]
        (detail,) = recorder
    seen = next(row for row in rows if row.get("path") == str(clip))
    assert {k for k in seen if seen[k] != plain[k]} <= {"encode_fps", "decode_fps"}, "watching changes no number"
    assert (detail.path, detail.run, detail.frames, detail.rate) == (str(clip), str(tiny_model), 10, 24)
    for name in ("psnr", "flicker"):
        assert np.mean(detail.series[name].mean) == pytest.approx(seen[name])
    assert [preview.frame for preview in detail.previews] == [0, 4, 8]
    changes, entropy = detail.maps
    assert changes.values.shape == entropy.values.shape == (6, 8)
    assert changes.values.mean() == pytest.approx(1 - seen["repeats"], abs=1e-6)


def test_codecs_are_shown_too(clip: Path) -> None:
    options = EvalOptions(models=(), codecs=("x264:crf=20,40",), metrics=("psnr",))
    with Recorder(SMALL) as recorder:
        rows = list(evaluate([clip], options, recorder=recorder))
        details = sorted(recorder, key=lambda detail: detail.run)
    assert [detail.run for detail in details] == ["x264:preset=medium crf 20", "x264:preset=medium crf 40"]
    for detail, row in zip(details, sorted(rows[:2], key=lambda row: row["crf"]), strict=True):
        assert np.mean(detail.series["psnr"].mean) == pytest.approx(row["psnr"])
        assert detail.maps == () and len(detail.previews) == 3
        assert pickle.loads(pickle.dumps(detail)) == detail, "workers send it"


def test_eval_writes_a_page(run: Run, tiny_model: Path, clip: Path, tmp_path: Path) -> None:
    page, bad = tmp_path / "page.html", tmp_path / "<img src=x>.mp4"
    bad.write_bytes(clip.read_bytes())
    command = ("eval", clip, bad, "--model", tiny_model, "--metric", "psnr,ssim,tokens", "--report", page)
    command += ("--report-frames", "2", "--report-side", "32", "--report-clips", "1", "--json")
    ran = run(*command)
    assert ran.code == 0, ran.err
    assert "page.html: " in ran.err
    rows = [json.loads(line) for line in ran.out.splitlines()]
    carried = numbers_of(page)
    assert carried["rows"] == rows
    assert carried["provenance"]["versions"].keys() >= {"vidtok", "torch", "numpy", "python"}
    assert carried["provenance"]["model ids"] == {str(tiny_model): rows[0]["model_id"]}
    source = page.read_text()
    assert "\\u" not in source.split("<script")[0], "no letter of ours is escaped"
    assert source.count('<details class="clip"') == 1 and "1 of 2 clips" in source
    assert "&lt;img src=x&gt;.mp4" in source and "<img src=x>" not in source
    before = page.read_bytes()
    again = run(*command)
    assert (again.code, again.out) == (2, "") and "exists already; --force" in again.err
    assert page.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_page_that_cannot_be_written_stops_before_any_work(run: Run, clip: Path, tmp_path: Path) -> None:
    ran = run("compare", clip, clip, "--report", tmp_path / "no" / "page.html")
    assert ran.code == 1 and ran.out == "" and "page.html" in ran.err
    ran = run("compare", clip, clip, "--report", tmp_path)
    assert ran.code == 1 and "is a folder" in ran.err


def test_a_failing_run_leaves_no_page(run: Run, clip: Path, tmp_path: Path) -> None:
    ran = run("compare", clip, tmp_path / "none.mp4", "--report", tmp_path / "page.html")
    assert ran.code == 1 and list(tmp_path.iterdir()) == []


def test_compare_writes_a_page(run: Run, make_clip: Callable[..., Path], clip: Path, tmp_path: Path) -> None:
    other, page = make_clip(tmp_path / "other.mp4", frames=12, width=32, height=32, rate=48), tmp_path / "page.html"
    refused = run("compare", clip, other, "--report", page)
    assert refused.code == 2 and len(refused.err.splitlines()) == 1
    assert "64x48" in refused.err and "32x32" in refused.err and "--align" in refused.err and not page.exists()
    ran = run("compare", clip, other, "--align", "--metric", "psnr,ms_ssim", "--report", page, "--json")
    assert ran.code == 1 and "no ms_ssim" in ran.err, "a metric that cannot be had"
    row = json.loads(ran.out)
    assert row["aligned"] == [
        "32x32 scaled to 64x48 by bicubic interpolation",
        "48 frames/s resampled to 24, each frame the newest one not after it",
    ]
    assert (row["frames"], row["frames_left_out"], row["width"], row["height"]) == (6, 4, 64, 48)
    source = page.read_text()
    for words in row["aligned"]:
        assert f"was aligned to <bdi title=\"{clip}\">clip.mp4</bdi>: {words}" in source
    assert "4 frames of the longer video were left out" in source and "Rate and distortion" not in source
    assert "<figcaption>A</figcaption>" in source and "<figcaption>B</figcaption>" in source


def test_align_is_resize_and_fps(make_clip: Callable[..., Path], clip: Path, tmp_path: Path) -> None:
    other = make_clip(tmp_path / "other.mp4", frames=20, width=128, height=96, rate=48)
    row = compare(clip, other, "psnr", align=True)
    with VideoReader(other, resize=None) as video:
        assert video.info.rate == 48
    same = compare(clip, other, "psnr", reading=EncodeOptions(resize="64x48", fps="24"))
    assert row.pop("aligned")[0] == "128x96 scaled to 64x48 by area averages"
    assert row == same
    assert "aligned" not in compare(clip, clip, "psnr", align=True), "nothing to align"


def test_another_rate_alone_is_refused(make_clip: Callable[..., Path], clip: Path, tmp_path: Path) -> None:
    faster = make_clip(tmp_path / "faster.mp4", rate=25)
    with pytest.raises(UsageError, match=r"24 frames/s and .*faster.mp4 has 25;"):
        compare(clip, faster, "psnr")
    assert compare(clip, faster, "psnr", reading=EncodeOptions(fps="12"))["frames"] == 5


def test_frames_with_timestamps_of_their_own_are_not_refused(tmp_path: Path) -> None:
    """The mean rate of a part of a video is not that of the whole; the clocks agree all the same."""
    pixels = moving(12, 48, 32)
    pts = [0, 40, 80, 120, 160, 200, 1000, 2000, 3000, 4000, 5000, 6000]
    whole = write_video(tmp_path / "whole.mkv", pixels, pts=pts, time_base=Fraction(1, 1000))
    part = write_video(tmp_path / "part.mkv", pixels[:6], pts=pts[:6], time_base=Fraction(1, 1000))
    late = write_video(tmp_path / "late.mp4", pixels[:6], pts=[2 * t for t in pts[:6]], time_base=Fraction(1, 1000))
    with VideoReader(whole) as a, VideoReader(part) as b, VideoReader(late) as c:
        rates = {video.info.rate for video in (a, b, c)}
    assert len(rates) > 1, "else this test says nothing"
    row = compare(whole, part, "psnr")
    assert (row["frames"], row["frames_left_out"]) == (6, 6) and "aligned" not in row
    with pytest.raises(UsageError, match="--align"):
        compare(whole, late, "psnr")
