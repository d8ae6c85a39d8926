"""Ordinary codecs beside models, curves and deltas, sets of clips, protocols, files of results, workers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vidtok.bench import write_moving_picture
from vidtok.cli.eval import PROTOCOLS as NAMES
from vidtok.codec import EncodeOptions, open_source
from vidtok.errors import OutputExistsError, UnknownNameError, UsageError
from vidtok.evaluate import EvalOptions, evaluate
from vidtok.evaluation import curves, protocols
from vidtok.evaluation.codecs import label, parse_codec
from vidtok.evaluation.results import read_results
from vidtok.evaluation.summary import interval
from vidtok.metrics import DIALECTS, TokenStatistics, parse_metrics, weights
from vidtok.metrics.bd import Curve, bd_rate
from vidtok.metrics.fid import INCEPTION
from vidtok.metrics.fvd import STYLEGANV
from vidtok.metrics.i3d import PUBLISHED
from vidtok.metrics.lpips import BACKBONES
from vidtok.metrics.table import measure
from vidtok.metrics.weights import TRUST, sha256_of
from vidtok.video import Resize
from vidtok.video.ordinary import ENCODERS, OrdinaryOptions, OrdinaryWriter, read_ordinary, without_settings


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three clips of 64x80 and a file that is none."""
    folder = tmp_path_factory.mktemp("clips")
    for name, frames in (("a", 12), ("b", 20), ("c", 9)):
        write_moving_picture(folder / f"{name}.mp4", frames, 64, 80)
    (folder / "broken.mp4").write_bytes(b"this is no video" * 100)
    return folder


def frames_of(path: Path, reading: EncodeOptions | None = None) -> np.ndarray:
    with open_source(path, reading or EncodeOptions()) as video:
        return np.stack([frame.pixels for frame in video])


def run(clips: Path, **options: Any) -> list[dict[str, Any]]:
    return list(evaluate([clips], EvalOptions(**({"metrics": ("psnr",)} | options))))


def without_speed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if not k.endswith("_fps")} for row in rows]


# codecs


@pytest.mark.parametrize(
    ("text", "rates"),
    [("x264", [18, 22, 27, 31, 36, 40]), ("x265:crf=23", [23]), ("vp9:crf=30,20", [20, 30]), ("av1:crf=35.5", [35.5]),
     ("svt-av1:crf=20..60..20", [20, 40, 60]), ("h264:crf=0..51", [0, 10, 20, 31, 41, 51]),
     ("x264:crf=20..22", [20, 21, 22])],
)  # fmt: skip
def test_rates_of_a_codec(text: str, rates: list[float]) -> None:
    assert [point.crf for point in parse_codec(text)] == rates


def test_words_of_a_codec() -> None:
    (point,) = parse_codec("x264:crf=20:preset=slow:tune=grain:keyint=30:chroma=444")
    assert label(point) == "x264:preset=slow:tune=grain:keyint=30:chroma=444" and point.chroma444
    assert label(parse_codec("vp9")[0]) == "vp9:preset=2"
    for text, words in (
        ("mpeg2", "unknown codec 'mpeg2'"), ("x264:qp=3", "unknown key of --codec x264 'qp'"),
        ("x264:crf=40..18", "the lower one first"), ("x264:crf=52", "takes 0 to 51"), ("x264:crf=", "wants one value"),
        ("x264:crf=a..b", "crf=a..b; give"), ("x264:crf=1..9..0", "crf=1..9..0; give"),
        ("svtav1:chroma=444", "takes 420$"), ("vp9:preset=fast", "presets of vp9 are numbers"),
        ("x264:keyint=x", "not a number of frames"), ("x264:keyint=²", "not a number of frames"),
        ("x264:crf=1..inf", "crf=1..inf; give"), ("x264:crf=0..inf..1", "give 23"), ("x264:crf=nan", "takes 0 to 51"),
        ("x264:crf=18.5..18", "the lower one first"), ("x264:crf=1:crf=2", "wants one value"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            parse_codec(text)


@pytest.mark.parametrize("codec", list(ENCODERS))
def test_a_codec_gives_all_frames_back_in_their_colours(codec: str, tmp_path: Path) -> None:
    """Levels stay (the classic mistakes shift them by 8 and more), more crf is fewer bytes and less quality."""
    t, y, x = np.mgrid[:10, :64, :80].astype(np.float64)
    clip = np.stack([110 + 90 * np.sin(x / 17 + t / 5), 120 + 60 * np.cos(y / 13), 90 + y + t], -1).astype(np.uint8)
    found = []
    for crf in (15, 45):
        options = OrdinaryOptions(codec=codec, crf=crf, preset=ENCODERS[codec].preset)
        with OrdinaryWriter(tmp_path / "packets", options, 80, 64, None) as writer:
            for frame in clip:
                writer.write(frame)
            size = writer.finish()
        assert (tmp_path / "packets").stat().st_size == size == sum(writer.packet_bytes)
        back = np.stack(list(read_ordinary(tmp_path / "packets", writer)))
        assert back.shape == clip.shape
        found.append((size, measure(clip, back, "psnr")["psnr"]))
        if crf == 15:
            assert np.abs((back.astype(float) - clip).mean((0, 1, 2))).max() < 1
    assert found[0][0] > found[1][0] and found[0][1] > found[1][1] and found[0][1] > 35


@pytest.mark.parametrize("codec", list(ENCODERS))
@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_and_equal_frames_come_back(codec: str, count: int, tmp_path: Path) -> None:
    """Two equal frames of x265 once made a decoder with threads wait for ever."""
    options = OrdinaryOptions(codec=codec, crf=35, preset={"svtav1": "8", "vp9": "4"}.get(codec, "veryfast"))
    with OrdinaryWriter(tmp_path / "packets", options, 128, 72, None) as writer:
        for _ in range(count):
            writer.write(np.full((72, 128, 3), 90, np.uint8))
        writer.finish()
    assert len(list(read_ordinary(tmp_path / "packets", writer))) == count


def test_settings_written_as_text_do_not_count() -> None:
    nal = {name: b"\0\0\0\1" + bytes([kind, 5 if kind == 6 else 0]) + name.encode() * 9
           for name, kind in (("sps", 0x67), ("settings", 6), ("idr", 0x65))}  # fmt: skip
    assert without_settings(b"".join(nal.values())) == nal["sps"] + nal["idr"]
    assert without_settings(b"\0\0\1\x06\x01abc") == b"\0\0\1\x06\x01abc"


def test_odd_and_small_sizes(tmp_path: Path) -> None:
    for codec, size, words in (("svtav1", (81, 64), "even sides"), ("svtav1", (48, 64), "sides of 64"),
                               ("x264", (8, 80), "sides of 16")):  # fmt: skip
        options = OrdinaryOptions(codec=codec, crf=30, preset=ENCODERS[codec].preset)
        with pytest.raises(UsageError, match=words):
            OrdinaryWriter(tmp_path / "x", options, *size, None)
    with pytest.raises(UsageError, match="preset quick"):
        OrdinaryWriter(tmp_path / "x", OrdinaryOptions(codec="x264", crf=30, preset="quick"), 64, 64, None)


def test_rows_curves_and_deltas(clips: Path, tiny_model: Path, tmp_path: Path) -> None:
    codecs = ("x264:crf=20..40:preset=ultrafast", "vp9:crf=30")
    rows = run(clips, models=(str(tiny_model),), codecs=codecs, metrics=("psnr", "flicker"), save=tmp_path / "both")
    clip_rows = [row for row in rows if "path" in row and "error" not in row]
    assert rows[-1]["summary"] and len(clip_rows) == 3 * 8
    assert sum("error" in row for row in rows) == 8, "a broken file is a row for every coder"
    x264 = [row for row in clip_rows if row.get("codec") == "x264:preset=ultrafast" and row["path"].endswith("a.mp4")]
    assert [row["quality"] for row in x264] == [row["crf"] for row in x264] == [20, 24, 28, 32, 36, 40]
    assert "model" not in x264[0] and (x264[0]["frames"], x264[0]["width"], x264[0]["height"]) == (12, 80, 64)
    assert x264[0]["bpp"] == x264[0]["file_bytes"] * 8 / (12 * 80 * 64)
    bpps = [row["bpp"] for row in x264]
    assert bpps == sorted(bpps, reverse=True)
    assert x264[0]["source_sha256"] == sha256_of(clips / "a.mp4")
    saved = tmp_path / "both/a.x264.ultrafast.crf20.mp4"
    both = frames_of(saved)
    assert both.shape == (12, 64, 160, 3) and measure(frames_of(clips / "a.mp4"), both[:, :, 80:], "psnr")["psnr"] > 20
    assert not [row for row in rows if row.get("bd")], "one curve and two points are nothing to compare"


def test_deltas_of_two_codecs(clips: Path) -> None:
    codecs = ("x264:crf=20,26,32,38:preset=medium", "x264:crf=20,26,32,38:preset=ultrafast", "vp9:crf=60")
    rows = run(clips, models=(), codecs=codecs, metrics=("psnr", "flicker", "psnr:y"))
    summaries = [row for row in rows if row.get("summary")]
    deltas = [row for row in rows if row.get("bd")]
    assert [(row["metric"], row["test"]) for row in deltas] == [(m, "x264:preset=ultrafast") for m in
                                                                ("psnr", "flicker", "psnr:y")]  # fmt: skip
    pair = [
        Curve(tuple(r["bpp"] for r in rows), tuple(r["psnr"] for r in rows))
        for rows in ([r for r in summaries if r["codec"] == name] for name in ("x264:preset=medium",
                                                                              "x264:preset=ultrafast"))
    ]  # fmt: skip
    psnr = deltas[0]
    assert psnr["anchor"] == "x264:preset=medium"
    assert psnr["bd_rate"] == pytest.approx(bd_rate(*pair)) and psnr["bd_rate"] > 0 > psnr["bd_quality"]
    assert psnr["bd_rate_cubic"] == pytest.approx(bd_rate(*pair, "cubic"))
    low, high = psnr["overlap"]
    assert low == max(min(c.qualities) for c in pair) and high == min(max(c.qualities) for c in pair)
    assert 0 < psnr["overlap_share"] <= 1 and psnr["clips"] == 3 and psnr["clips_overlapping"] == 3
    assert psnr["bd_rate_clips_interval"][0] <= psnr["bd_rate_clips"] <= psnr["bd_rate_clips_interval"][1]
    flicker = deltas[1]
    assert flicker["overlap"][0] < flicker["overlap"][1] and flicker["overlap"][0] > 0, "in its own units"
    far = run(clips, models=(), codecs=("x264:crf=10,12", "x264:crf=45,48:preset=fast"), anchor="x264:preset=fast")
    (refused,) = [row for row in far if row.get("bd")]
    assert refused["anchor"] == "x264:preset=fast" and refused["bd_rate"] is None
    assert "qualities do not overlap" in refused["bd_rate_missing"] and refused["clips_overlapping"] == 0
    assert refused["bd_quality"] is None and "rates do not overlap" in refused["bd_quality_missing"]
    beside = [{"codec": "a", "quality": i, "bpp": 0.1 * i, "psnr": 30.0 + i} for i in (1, 2, 3)]
    below = [{"model": "b", "quality": i, "bpp": 0.1 * i, "psnr": 20.0 + i} for i in (1, 2, 3)]
    (row,) = curves.deltas([], [*beside, *below], ("psnr",), "a")
    assert row["bd_rate"] is None and row["bd_quality"] == pytest.approx(-10), "rates overlap, qualities do not"
    assert "overlap" not in row and row["rate_overlap"] == pytest.approx([0.1, 0.3]) and row["rate_overlap_share"] == 1
    for anchor in ("vp8", "vp9"):
        options = EvalOptions(models=(), codecs=("x264:crf=10,12", "vp9:crf=30"), anchor=anchor)
        with pytest.raises(UnknownNameError, match="anchor"):
            next(evaluate([clips], options))  # before any work
    nothing = run(clips / "broken.mp4", models=(), codecs=("x264:crf=10,12", "vp9:crf=30,40"))
    assert [row.get("bd") for row in nothing] == [None] * 8, "where no clip could be measured there is no curve"


# summaries


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=50))
def test_intervals_hold_the_mean_and_do_not_change(values: list[float]) -> None:
    low, high = interval(values)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert [low, high] == interval(values)
    assert interval([values[0]] * 5) == pytest.approx([values[0]] * 2)


def test_intervals_are_of_the_mean() -> None:
    values = np.random.default_rng(3).normal(30, 4, 400)
    low, high = interval(values.tolist())
    half = 1.96 * values.std() / math.sqrt(400)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1)


def test_summaries_say_how_they_came_about(clips: Path, tiny_model: Path) -> None:
    rows = run(clips, models=(str(tiny_model),), per_frame=True, metrics=("psnr", "tokens"))
    *clip_rows, summary = [row for row in rows if "error" not in row]
    low, high = summary["psnr_interval"]
    assert low < summary["psnr"] < high and summary["bpp_interval"][0] <= summary["bpp"]
    assert summary["settings"]["reading"]["resize"] is None and summary["settings"]["metrics"] == ["psnr", "tokens"]
    assert "vidtok" in summary["versions"] and "libavcodec" in summary["versions"]
    assert summary["settings"]["dialects"]["psnr"].startswith("dB")
    for row in clip_rows:
        assert row["psnr"] == pytest.approx(np.mean(row["per_frame"]["psnr"])) and "state" not in row
    assert json.dumps(rows)


class Logits(torch.nn.Module):
    """Stands for StyleGAN-V's file: its interface, and the mean colours of a clip as features."""

    def forward(
        self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        found = x.mean([3, 4]).flatten(1)
        return torch.cat([found, torch.zeros(found.shape[0], 400 - found.shape[1])], 1)


@pytest.fixture
def detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "detector" / "i3d_torchscript.pt"
    path.parent.mkdir()
    torch.jit.script(Logits()).save(str(path))
    monkeypatch.setenv(TRUST, sha256_of(path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    for name in ("VIDTOK_FVD_WEIGHTS", "VIDTOK_LPIPS_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    return path.parent


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_fvd_of_a_set(clips: Path, detector: Path) -> None:
    """In the summary only, with the number of samples, a warning about it, and an interval over clips."""
    said: list[str] = []
    options = EvalOptions(models=(), codecs=("x264:crf=35:preset=ultrafast",), metrics=("fvd", "psnr"),
                          weights=str(detector), fvd=protocols.Sampling(frames=9))  # fmt: skip
    *clip_rows, summary = list(evaluate([clips], options, warn=said.append))
    assert all("fvd" not in row for row in clip_rows)
    assert summary["fvd_samples"] == 1 + 2 + 1 and any("fvd is from 4 samples" in text for text in said)
    assert summary["fvd"] > 0 and summary["fvd_interval"][0] <= summary["fvd"] <= summary["fvd_interval"][1]
    assert summary["weights"] == {"i3d_torchscript.pt": sha256_of(detector / "i3d_torchscript.pt")}
    one = [*evaluate([clips / "c.mp4"], options)][-1]
    assert one["fvd"] is None and one["fvd_missing"].startswith("1 samples of 9 frames")


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_what_cannot_be_had_is_null_beside_its_reason(clips: Path, detector: Path) -> None:
    names = ("psnr", "lpips:vgg", "fvd:i3d400-stretch")
    options: dict[str, Any] = {"models": (), "codecs": ("x264:crf=35",), "metrics": names}
    *clip_rows, summary = [row for row in run(clips / "a.mp4", **options) if "error" not in row]
    for row in (*clip_rows, summary):
        for name in names[1:]:
            assert row[name] is None and "--offline" in row[f"{name}_missing"]
        assert row["psnr"] > 20
    with pytest.raises(UsageError, match=r"lpips:vgg: .*\(--strict\)"):
        run(clips, **options, encode=EncodeOptions(strict=True))


# protocols


@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_protocols(name: str) -> None:
    protocol = protocols.PROTOCOLS[name]
    options = EvalOptions(protocol=name, metrics=protocol.metrics)
    assert parse_metrics(protocol.metrics) == protocol.metrics == options.metrics
    assert options.fvd == protocol.fvd and options.settings["protocol"] == name
    for key, value in protocol.reading.items():
        assert getattr(options.encode, key) == options.settings["reading"][key] == value
    Resize.parse(str(protocol.reading["resize"]))
    page = (Path(__file__).parent.parent / "docs/evaluation.md").read_text()
    assert f"`{name}`" in page, "docs/evaluation.md does not know it"
    assert name in NAMES.split(", "), "--help does not know it"


def test_the_page_on_evaluation_has_every_name() -> None:
    page = (Path(__file__).parent.parent / "docs/evaluation.md").read_text()
    for name in DIALECTS:
        assert f"`{name}`" in page or name.startswith("fvd:i3d400"), name
    for codec in ENCODERS:
        assert f"`{codec}`" in page, codec
    for file in (*(backbone.file for backbone in BACKBONES.values()), STYLEGANV.file, PUBLISHED.file, INCEPTION.file):
        assert f"`{file}`" in page, file
    for variable in (STYLEGANV.variable, PUBLISHED.variable, INCEPTION.variable, TRUST):
        assert f"`{variable}`" in page, variable


def test_protocols_are_not_mixed_with_other_wishes(clips: Path) -> None:
    with pytest.raises(UsageError, match="--protocol ucf101-larp-128 has --resize 128x128:crop; leave out 64"):
        EvalOptions(protocol="ucf101-larp-128", encode=EncodeOptions(resize="64"))
    with pytest.raises(UsageError, match="leave out --fps"):
        EvalOptions(protocol="tokenbench", encode=EncodeOptions(fps="12"))
    with pytest.raises(UsageError, match="leave out --frames"):
        EvalOptions(protocol="mcl-jcv-256", encode=EncodeOptions(frames=20))
    with pytest.raises(UsageError, match="the first 16 frames of a clip are a sample"):
        EvalOptions(protocol="ucf101-larp-128", fvd=protocols.Sampling(take="whole"))
    with pytest.raises(UnknownNameError, match="did you mean 'mcl-jcv-256'"):
        EvalOptions(protocol="mcl-jcv-255")
    options = EvalOptions(protocol="ucf101-bsq-128", models=(), codecs=("x264:crf=30",), metrics=("psnr",))
    row = next(row for row in evaluate([clips / "b.mp4"], options) if "frames" in row)
    assert (row["frames"], row["width"], row["height"]) == (16, 80, 64), "128x128 does not enlarge"


def test_crops_are_the_centre_of_what_covers(clips: Path) -> None:
    assert Resize.parse("32x32:crop").scaled(80, 64) == (40, 32) and Resize.parse("32x32:crop").size(80, 64) == (32, 32)
    assert Resize.parse("100x100:crop").size(80, 64) == (80, 64)
    assert Resize.parse("128x64:crop", enlarge=True).scaled(80, 64) == (128, 102)
    scaled = frames_of(clips / "a.mp4", EncodeOptions(resize="40x32"))
    cropped = frames_of(clips / "a.mp4", EncodeOptions(resize="32x32:crop"))
    assert (cropped == scaled[:, :, 4:36]).all()
    for text in ("32:crop", "32x32:", "32x32:cut"):
        with pytest.raises(UsageError, match="not N, WxH or WxH:crop"):
            Resize.parse(text)


# results, workers


def interrupted(inputs: list[Path], options: EvalOptions, after: int) -> None:
    rows = evaluate(inputs, options)
    for _ in range(after):
        next(rows)
    rows.close()


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_an_interrupted_run_goes_on(clips: Path, tiny_model: Path, detector: Path, tmp_path: Path) -> None:
    """The rest is done, the rows are those of a run in one go, summaries too; a line cut off is done again."""
    wanted: dict[str, Any] = {
        "models": (str(tiny_model),), "codecs": ("x264:crf=30:preset=ultrafast",), "weights": str(detector),
        "metrics": ("psnr", "tokens", "fvd"), "fvd": protocols.Sampling(frames=9),
    }  # fmt: skip
    whole = list(evaluate([clips], EvalOptions(**wanted)))
    path = tmp_path / "results.jsonl"
    interrupted([clips], EvalOptions(**wanted, results=path), 3)
    with path.open("ab") as file:
        file.write(b'{"path": "cut o')
    with pytest.raises(OutputExistsError, match="--resume goes on from it"):
        next(evaluate([clips], EvalOptions(**wanted, results=path)))
    seen: list[str] = []
    again = EvalOptions(**wanted, results=path, resume=True)
    resumed = list(evaluate([clips], again, begin=lambda i, n, name: seen.append(f"{i}/{n} {name}")))
    assert seen == ["4/8 b.mp4", "7/8 c.mp4", "8/8 c.mp4"], "the broken file has no frames to tell of"

    def order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return sorted(without_speed(rows), key=lambda row: (row.get("path", "~"), str(row.get("model"))))

    for mine, theirs in zip(order(resumed), order(whole), strict=True):
        assert mine.keys() == theirs.keys()
        for key, value in theirs.items():
            assert mine[key] == (pytest.approx(value) if isinstance(value, float) else value), key
    assert [row for row in read_results(path) if row.get("summary")] == json.loads(json.dumps(resumed[-2:]))
    third = list(evaluate([clips], again))
    assert order(third) == order(resumed)


def test_only_the_same_evaluation_goes_on(clips: Path, tmp_path: Path) -> None:
    path, copy = tmp_path / "results.jsonl", tmp_path / "a.mp4"
    copy.write_bytes((clips / "a.mp4").read_bytes())
    wanted: dict[str, Any] = {"models": (), "codecs": ("x264:crf=30",), "metrics": ("psnr",), "results": path}
    first = list(evaluate([copy], EvalOptions(**wanted)))
    with pytest.raises(UsageError, match=r'made with metrics \["psnr"\], not \["ssim"\]'):
        next(evaluate([copy], EvalOptions(**wanted | {"metrics": ("ssim",), "resume": True})))
    with pytest.raises(UsageError, match="made with reading"):
        next(evaluate([copy], EvalOptions(**wanted, resume=True, encode=EncodeOptions(frames=3))))
    with pytest.raises(UsageError, match="not a file of results"):
        next(evaluate([copy], EvalOptions(**wanted | {"results": copy, "resume": True})))
    with pytest.raises(UsageError, match="say which with --output"):
        EvalOptions(resume=True)
    copy.write_bytes((clips / "b.mp4").read_bytes())
    changed = list(evaluate([copy], EvalOptions(**wanted, resume=True)))
    assert (first[0]["frames"], changed[0]["frames"]) == (12, 20), "another file under the same name is done again"
    more = list(evaluate([copy], EvalOptions(**wanted | {"codecs": ("x264:crf=30,40",), "resume": True})))
    assert [row["quality"] for row in more if "path" in row] == [30, 40]


def refuse(*_: Any) -> str:
    raise OSError("no route to host")


def test_workers_give_the_same_rows(
    clips: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first process could not fetch, its workers do not try again."""
    monkeypatch.setattr(weights, "_download", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("VIDTOK_LPIPS_WEIGHTS", raising=False)
    wanted: dict[str, Any] = {
        "models": (str(tiny_model),), "metrics": ("psnr", "ssim", "tokens", "lpips"), "offline": False,
    }  # fmt: skip
    alone = run(clips, **wanted)
    several = run(clips, **wanted, workers=2, results=tmp_path / "results.jsonl")

    def order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return sorted(without_speed(rows), key=lambda row: row.get("path", "~"))

    assert "no route to host" in several[-1]["lpips_missing"]
    for mine, theirs in zip(order(several), order(alone), strict=True):
        assert mine == pytest.approx(theirs) if "error" in mine else mine.keys() == theirs.keys()
        assert all(mine[k] == (pytest.approx(v) if isinstance(v, float) else v) for k, v in theirs.items())


def test_statistics_packed_and_merged() -> None:
    rng = np.random.default_rng(0)
    for vocabulary in (1000, 2**40):
        clips = [rng.integers(0, 900, (5, 4, 6)) * (vocabulary // 1000) for _ in range(2)]
        both, apart = TokenStatistics(vocabulary), [TokenStatistics(vocabulary) for _ in clips]
        for ids, own in zip(clips, apart, strict=True):
            both.update(ids)
            both.end_clip()
            own.update(ids)
        merged = TokenStatistics.unpacked(apart[0].packed())
        merged.merge(TokenStatistics.unpacked(apart[1].packed()))
        assert merged.result() == both.result()
