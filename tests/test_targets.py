"""--target-bpp and --target-psnr: qualities chosen by segment, exact sizes, the same bytes however it is computed."""

from __future__ import annotations

import io
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_files import make_header, make_ids, make_pts

from vidtok import checkpoint
from vidtok.bitstream.container import TokenReader, TokenWriter
from vidtok.codec import DecodeOptions, EncodeOptions, decode_clips, encode_file, estimate_file
from vidtok.codec.rates import Costs, Gauge, above, cut, for_bytes, for_psnr, frame_psnr, header_for
from vidtok.errors import OutputExistsError, UsageError
from vidtok.video import VideoReader

FRAMES, SEGMENT = 30, 9


@pytest.fixture(scope="module")
def model(rates_model: Path) -> Path:
    return rates_model


@pytest.fixture(scope="module")
def source(make_clip: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=FRAMES, width=46, height=34)


@pytest.fixture(scope="module")
def plain(source: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """Reports of every quality, in segments; the files lie beside as N.vtok."""
    folder = tmp_path_factory.mktemp("plain")
    return {
        quality: (encode_file(source, folder / f"{quality}.vtok", options), folder)
        for quality in (1, 2, 3)
        for options in [EncodeOptions(model=model, quality=quality, segment_frames=SEGMENT)]
    }


def decoded(path: Path, model: Path, **options: Any) -> np.ndarray:
    with TokenReader(path) as reader:
        return np.concatenate([pixels for pixels, _ in decode_clips(reader, DecodeOptions(model=model, **options))])


def pixels_of(source: Path) -> np.ndarray:
    with VideoReader(source) as video:
        return np.stack([frame.pixels for frame in video])


def segment_psnr(a: np.ndarray, b: np.ndarray) -> list[float]:
    values = [frame_psnr(x, y) for x, y in zip(a, b, strict=True)]
    return [math.fsum(values[i : i + SEGMENT]) / len(values[i : i + SEGMENT]) for i in range(0, len(values), SEGMENT)]


def test_psnr_of_every_quality_is_that_of_the_decoded_file(source: Path, model: Path, plain: Any) -> None:
    loaded, original = checkpoint.load(model), pixels_of(source)
    stream = loaded.encoder(34, 46, None, 3)
    gauge = Gauge(loaded, 34, 46, EncodeOptions(chunk_frames=5).schedule)
    for start in range(0, FRAMES, SEGMENT):
        for i in range(start, min(start + SEGMENT, FRAMES), 4):
            piece = original[i : min(i + 4, start + SEGMENT)]
            gauge.push(piece, stream.push(piece))
        gauge.push(original[:0], stream.flush())
        gauge.end_segment()
    for quality, (_, folder) in plain.items():
        wanted = segment_psnr(original, decoded(folder / f"{quality}.vtok", model))
        sums = [own[quality - 1] for own in gauge.segments]
        assert sums == pytest.approx([v * n for v, n in zip(wanted, (9, 9, 9, 3), strict=True)], abs=1e-9)


def test_target_psnr_takes_the_lowest_that_reaches_it(source: Path, model: Path, plain: Any, tmp_path: Path) -> None:
    original = pixels_of(source)
    known = {q: segment_psnr(original, decoded(folder / f"{q}.vtok", model)) for q, (_, folder) in plain.items()}
    values = sorted(v for own in known.values() for v in own)
    for wanted in ((values[3] + values[4]) / 2, values[-1], values[-1] + 1):
        warned: list[str] = []
        options = EncodeOptions(model=model, target_psnr=wanted, segment_frames=SEGMENT, force=True)
        report = encode_file(source, tmp_path / "x.vtok", options, warn=warned.append)
        chosen = [next((q for q in (1, 2, 3) if known[q][i] >= wanted), 3) for i in range(4)]
        with TokenReader(tmp_path / "x.vtok") as reader:
            assert reader.segment_stages() == chosen and reader.verify(deep=True) == []
            assert reader.header.varying == (len(set(chosen)) > 1) and reader.header.quality == max(chosen)
        assert report.qualities == {str(q): chosen.count(q) for q in sorted(set(chosen))}
        got = segment_psnr(original, decoded(tmp_path / "x.vtok", model))
        assert got == [known[q][i] for i, q in enumerate(chosen)]
        assert report.psnr == pytest.approx(sum(v * n for v, n in zip(got, (9, 9, 9, 3), strict=True)) / FRAMES)
        low = sum(v < wanted for v in got)
        assert warned == ([f"{low} of 4 segments stay below {wanted:g} dB at the highest quality"] if low else [])


def test_target_bpp_is_kept_and_used(source: Path, model: Path, plain: Any, tmp_path: Path) -> None:
    low, high = plain[1][0].bpp, plain[3][0].bpp
    last = 0.0
    for wanted in np.linspace(low, high * 1.05, 5):
        options = EncodeOptions(model=model, target_bpp=float(wanted), segment_frames=SEGMENT, force=True)
        report = encode_file(source, tmp_path / "x.vtok", options)
        assert report.bpp <= wanted and report.bpp == (tmp_path / "x.vtok").stat().st_size * 8 / (FRAMES * 34 * 46)
        assert last <= report.psnr + 1e-9  # type: ignore[operator]
        last = report.psnr or 0.0
    assert report.bpp == high and (tmp_path / "x.vtok").read_bytes() == (plain[3][1] / "3.vtok").read_bytes()
    warned: list[str] = []
    options = EncodeOptions(model=model, target_bpp=low * 0.9, segment_frames=SEGMENT, force=True)
    assert encode_file(source, tmp_path / "x.vtok", options, warn=warned.append).bpp == low
    assert (tmp_path / "x.vtok").read_bytes() == (plain[1][1] / "1.vtok").read_bytes()
    assert len(warned) == 1 and "cannot be reached: quality 1 takes" in warned[0] and "\n" not in warned[0]


def test_one_segment_gives_the_bytes_of_its_quality(source: Path, model: Path, tmp_path: Path) -> None:
    for quality in (1, 2, 3):
        path = tmp_path / f"{quality}.vtok"
        report = encode_file(source, path, EncodeOptions(model=model, quality=quality))
        options = EncodeOptions(model=model, target_bpp=report.bpp * 1.0001, segment_frames=0)
        chosen = encode_file(source, tmp_path / f"{quality}t.vtok", options)
        assert (tmp_path / f"{quality}t.vtok").read_bytes() == path.read_bytes()
        assert (chosen.quality, chosen.qualities, chosen.psnr) == (quality, {str(quality): 1}, None)
        out = io.BytesIO()
        encode_file(source, out, options)
        assert out.getvalue() == path.read_bytes()


def test_segments_are_what_the_model_remembers(source: Path, model: Path, tmp_path: Path) -> None:
    encode_file(source, tmp_path / "x.vtok", EncodeOptions(model=model, target_psnr=30))
    with TokenReader(tmp_path / "x.vtok") as reader:
        assert reader.header.segment_frames == 9 and reader.layout.segment_latents == 3 == reader.header.look_back + 1


def test_bytes_do_not_depend_on_how(source: Path, model: Path, plain: Any, tmp_path: Path) -> None:
    targets: list[dict[str, Any]] = [{"target_bpp": (plain[1][0].bpp + plain[2][0].bpp) / 2}, {"target_psnr": 19.0}]
    for target in targets:
        found = set()
        for how in ({}, {"chunk_frames": 1, "threads": 1}, {"chunk_frames": 23, "tile": 16, "batch": 3}):
            options = EncodeOptions(model=model, **target, **how, force=True)
            encode_file(source, tmp_path / "x.vtok", options)
            found.add((tmp_path / "x.vtok").read_bytes())
        assert len(found) == 1


@pytest.fixture(scope="module")
def ways(source: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """Plain and refined: frames of every quality, PSNR of its segments, and bytes of segments by quality."""
    folder, original, found = tmp_path_factory.mktemp("ways"), pixels_of(source), {}
    for refine in (0, 2):
        frames = {}
        for quality in (3, 2, 1):
            path = folder / f"{refine}-{quality}.vtok"
            options = EncodeOptions(model=model, quality=quality, segment_frames=SEGMENT, refine=refine)
            encode_file(source, path, options)
            frames[quality] = decoded(path, model)
        with TokenReader(folder / f"{refine}-3.vtok") as reader:
            sizes = Costs(reader).segments()
        found[refine] = (frames, {q: segment_psnr(original, own) for q, own in frames.items()}, sizes)
    return found


def test_target_psnr_refines_where_it_costs_less(source: Path, model: Path, ways: Any, tmp_path: Path) -> None:
    values = sorted(v for way in ways.values() for own in way[1].values() for v in own)
    for wanted in (values[2] + 1e-6, values[len(values) // 2], values[-2], values[-1] + 1):
        options = EncodeOptions(model=model, target_psnr=wanted, segment_frames=SEGMENT, refine=2, force=True)
        report = encode_file(source, tmp_path / "x.vtok", options)
        whole, refined = decoded(tmp_path / "x.vtok", model), 0
        for i in range(4):
            best = []
            for refine, (_, known, sizes) in ways.items():
                quality = next((q for q in (1, 2, 3) if known[q][i] >= wanted), 3)
                short = known[quality][i] < wanted
                best.append((short, -known[quality][i] if short else sizes[i][quality - 1], refine, quality))
            _, _, refine, quality = min(best)
            refined += refine > 0
            inside = slice(i * SEGMENT, (i + 1) * SEGMENT)
            assert np.array_equal(whole[inside], ways[refine][0][quality][inside])
        assert report.refined == refined


def test_target_bpp_is_no_worse_for_refining(source: Path, model: Path, plain: Any, tmp_path: Path) -> None:
    for share in (0.3, 1.1):
        wanted = plain[1][0].bpp * (1 - share) + plain[3][0].bpp * share
        reports = []
        for refine in (0, 2):
            for segments in (SEGMENT, 0):
                options = EncodeOptions(
                    model=model, target_bpp=wanted, segment_frames=segments, refine=refine, force=True
                )
                reports.append(encode_file(source, tmp_path / "x.vtok", options))
        assert all(report.bpp <= wanted for report in reports)
        assert reports[2].psnr >= reports[0].psnr and reports[0].refined is None
        assert reports[3].psnr > 5 and reports[3].refined in (0, 1) and reports[3].qualities.keys() <= {"1", "2", "3"}
        with TokenReader(tmp_path / "x.vtok") as reader:
            assert reader.verify(deep=True) == []


def test_a_curve_above_another() -> None:
    assert above(([10, 100], [1, 2]), ([10, 100], [1.5, 2.5])) == pytest.approx(-0.5)
    assert above(([10, 100], [1, 2]), ([20, 200], [1, 2])) == pytest.approx(math.log10(2))
    assert above(([10, 20], [1, 2]), ([30, 40], [3, 5])) == -3


def test_parts_of_a_file_whose_segments_differ(source: Path, model: Path, plain: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.vtok"
    options = EncodeOptions(
        model=model, target_bpp=(plain[1][0].bpp + plain[3][0].bpp) / 2, segment_frames=SEGMENT, entropy="lzma"
    )
    assert len(encode_file(source, path, options).qualities or {}) > 1
    whole = decoded(path, model)
    for start, stop in ((0, 1), (7, 12), (9, 10), (17, 28), (FRAMES - 1, FRAMES), (None, 5)):
        assert np.array_equal(decoded(path, model, frames=(start, stop)), whole[start:stop])
    data = bytearray(path.read_bytes())
    with TokenReader(path) as reader:
        lost = reader.chunks[1]
    data[lost.offset + lost.bytes - 1] ^= 1
    path.write_bytes(data)
    with TokenReader(path, recover=True) as reader:
        clips = decode_clips(reader, DecodeOptions(model=model, skip_damaged=True))
        found = np.concatenate([pixels for pixels, _ in clips])
    assert (found[9:18] == 128).all()
    assert np.array_equal(found[:9], whole[:9]) and np.array_equal(found[18:], whole[18:])


def test_the_commands(run: Callable[..., Any], source: Path, model: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.vtok"
    ran = run("encode", source, "-o", out, "--model", model, "--target-psnr", 99, "--json")
    row = json.loads(ran.out)
    assert row["qualities"] == {"3": 4} and row["psnr"] > 5 and row["quality"] == 3
    assert "4 of 4 segments stay below 99 dB" in ran.err and len(ran.err.splitlines()) == 1
    ran = run("encode", source, "-o", out, "--model", model, "--target-bpp", 9, "--force")
    assert ran.code == 0 and "quality 3 (4 segments)" in ran.out and " dB, " in ran.out
    before = out.read_bytes()
    for arguments, words in (
        (["--model", model, "--target-bpp", 1, "--quality", 2, "--force"], "exclude each other"),
        (["--model", model, "--target-bpp", 1, "--target-psnr", 2, "--force"], "exclude each other"),
        (["--model", tiny_model, "--target-bpp", 1, "--force"], "--target-bpp: this model has one rate"),
        (["--model", tiny_model, "--target-psnr", 30, "--force"], "--target-psnr: this model has one rate"),
        (["--model", model, "--target-bpp", 0, "--force"], "range"),
        (["--model", model, "--target-bpp", "nan", "--force"], "number above 0"),
        (["--model", model, "--target-psnr", "inf", "--force"], "number above 0"),
    ):
        ran = run("encode", source, "-o", out, *arguments)
        assert (ran.code, len(ran.err.splitlines())) == (2, 1) and words in ran.err, ran.err
        assert out.read_bytes() == before
    assert run("encode", source, "-o", out, "--model", model, "--target-bpp", 1).code == 1
    with pytest.raises(OutputExistsError):
        encode_file(source, out, EncodeOptions(model=model, target_bpp=1))
    assert [path.name for path in tmp_path.iterdir()] == ["x.vtok"]


def test_estimates(source: Path, model: Path) -> None:
    most = estimate_file(source, EncodeOptions(model=model, quality=3, segment_frames=SEGMENT))["bytes"]
    assert estimate_file(source, EncodeOptions(model=model, target_psnr=30))["bytes"] == most
    assert estimate_file(source, EncodeOptions(model=model, target_bpp=1e9))["bytes"] == most
    low = estimate_file(source, EncodeOptions(model=model, target_bpp=0.01))
    assert low["bytes"] == int(0.01 * FRAMES * 34 * 46 / 8)
    with pytest.raises(UsageError):
        EncodeOptions(target_bpp=1, quality=1)


# --- the choice by itself -----------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    segments=st.integers(1, 5),
    share=st.floats(0, 1.1),
    seed=st.integers(0, 99),
    entropy=st.sampled_from(["raw", "lzma"]),
)
def test_sizes_are_exact_and_the_budget_is_kept(segments: int, share: float, seed: int, entropy: str) -> None:
    header = make_header(codebooks=3, quality=3, segment_frames=10, entropy=entropy, vocabulary=256, digits=())
    frames = segments * 10 - 3
    whole = io.BytesIO()
    with TokenWriter(whole, header) as sink:
        sink.write(make_ids(header, header.geometry.total_latents(frames, 10), seed), make_pts(header, frames))
    whole.seek(0)
    reader = TokenReader(whole)
    costs = Costs(reader)
    rng = np.random.default_rng(seed)
    gains = np.cumsum(rng.random((segments, 3)), axis=1).tolist()
    sizes = {plan: costs.total(plan) for plan in itertools.product((1, 2, 3), repeat=segments)}
    budget = sizes[(1,) * segments] + share * (sizes[(3,) * segments] - sizes[(1,) * segments])
    plan = for_bytes(costs, budget, gains)
    out = io.BytesIO()
    with TokenWriter(out, header_for(header, plan)) as sink:
        cut(reader, sink, plan)
    assert len(out.getvalue()) == sizes[tuple(plan)] <= budget
    with TokenReader(io.BytesIO(out.getvalue())) as cut_reader:
        assert cut_reader.segment_stages() == plan and cut_reader.verify(deep=True) == []
    worth = {p: sum(gains[i][q - 1] for i, q in enumerate(p)) for p, size in sizes.items() if size <= budget}
    step = max(max(np.diff([0, *own])) for own in gains) * 2  # greedy: at most one step short of the best, about
    assert worth[tuple(plan)] >= max(worth.values()) - step
    assert worth[tuple(plan)] >= max(worth.get((q,) * segments, 0) for q in (1, 2, 3))


def test_a_target_of_psnr() -> None:
    assert for_psnr(30, [(58, 60, 80), (61, 62, 63), (10, 20, 30)], [2, 2, 2]) == [2, 1, 3]
