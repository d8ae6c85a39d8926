"""One set of weights, several rates: files of every quality, cut by repack, decoded, estimated, measured, timed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidtok import checkpoint
from vidtok.bench import BenchOptions, bench
from vidtok.bitstream.container import TokenReader, TokenWriter
from vidtok.bitstream.repack import repack
from vidtok.codec import DecodeOptions, EncodeOptions, decode_clips, encode_file, estimate_file
from vidtok.errors import FormatError, UsageError
from vidtok.evaluate import EvalOptions, evaluate
from vidtok.evaluation import runs as evaluation_runs
from vidtok.evaluation.runs import families, highest, make_runs
from vidtok.model.quantizer import QuantizerConfig
from vidtok.model.tokenizer import ModelConfig, build_tokenizer

QUALITIES = 3
FRAMES, LATENTS = 90, 24
Files = dict[int | None, Path]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A multi-rate model called `rates`, small and untrained."""
    import torch

    path = tmp_path_factory.mktemp("model") / "rates.safetensors"
    config = ModelConfig(
        kind="recurrent",
        backbone={"width": 16, "hidden": 16, "delayed": 4, "phases": 2, "period": 6}
        | {"coefficients": 16, "notes": 4, "groups": 4},
        quantizer=QuantizerConfig(levels=(8, 5, 5)),
        qualities=QUALITIES,
        default_quality=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = build_tokenizer(config).eval()
        for parameter in tokenizer.parameters():  # what starts at zero would hide what it does
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.3)
        checkpoint.save_tokenizer(path, tokenizer, name="rates")
    return path


@pytest.fixture(scope="module")
def source(make_clip: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough frames for two stored chunks; sides that are no multiples of a stride."""
    return make_clip(tmp_path_factory.mktemp("long") / "long.mp4", frames=FRAMES, width=46, height=34)


@pytest.fixture(scope="module")
def files(source: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The clip at every quality, and (None) at the default one."""
    folder = tmp_path_factory.mktemp("files")
    found: Files = {quality: folder / f"{quality}.vtok" for quality in (None, *range(1, QUALITIES + 1))}
    for quality, path in found.items():
        encode_file(source, path, EncodeOptions(model=model, quality=quality))
    return found


def frames_of(path: Path, model: Path, **options: Any) -> np.ndarray:
    with TokenReader(path, recover=bool(options.get("skip_damaged"))) as reader:
        return np.concatenate([pixels for pixels, _ in decode_clips(reader, DecodeOptions(model=model, **options))])


def ids_of(path: Path) -> np.ndarray:
    with TokenReader(path) as reader:
        return reader.ids[:]


def test_the_header_says_which_quality(files: Files, model: Path) -> None:
    for quality in range(1, QUALITIES + 1):
        with TokenReader(files[quality]) as reader:
            header = reader.header
            assert (header.quality, header.codebooks, header.stages) == (quality, quality, quality)
            assert header.vocabularies == (200,) * quality and header.digits == (8, 5, 5)
            assert reader.ids.shape == (LATENTS, 5, 6, quality)
    default = checkpoint.load(model).default_quality
    assert files[None].read_bytes() == files[default].read_bytes()


def test_a_lower_quality_is_a_prefix_of_a_higher_one(files: Files) -> None:
    """And every stage says something: a constant would prove nothing."""
    best = ids_of(files[QUALITIES])
    assert all(len(np.unique(best[..., k])) > 4 for k in range(QUALITIES))
    for quality in range(1, QUALITIES):
        assert np.array_equal(ids_of(files[quality]), best[..., :quality])


@pytest.mark.parametrize("segment_frames", [0, 40])
@pytest.mark.parametrize("entropy", ["raw", "auto"])
def test_repack_writes_what_encode_would(
    source: Path, model: Path, tmp_path: Path, segment_frames: int, entropy: str
) -> None:
    def encoded(quality: int) -> bytes:
        path = tmp_path / f"{quality}.vtok"
        options = EncodeOptions(model=model, quality=quality, entropy=entropy, segment_frames=segment_frames, frames=50)
        encode_file(source, path, options)
        return path.read_bytes()

    wanted = {quality: encoded(quality) for quality in range(1, QUALITIES + 1)}
    for held in wanted:
        for quality in range(1, held + 1):
            out = tmp_path / f"{held}-{quality}.vtok"
            repack(tmp_path / f"{held}.vtok", out, entropy=entropy, quality=quality)
            assert out.read_bytes() == wanted[quality], (held, quality)
    assert len(wanted[1]) < len(wanted[2]) < len(wanted[3])


def test_bytes_and_frames_do_not_depend_on_how(files: Files, source: Path, model: Path, tmp_path: Path) -> None:
    whole = frames_of(files[2], model)
    assert whole.shape == (FRAMES, 34, 46, 3)
    for i, how in enumerate(({"chunk_frames": 1}, {"chunk_frames": 23, "tile": 16, "batch": 3}, {"threads": 1})):
        path = tmp_path / f"{i}.vtok"
        encode_file(source, path, EncodeOptions(model=model, quality=2, **how))  # type: ignore[arg-type]
        assert path.read_bytes() == files[2].read_bytes(), how
        assert np.array_equal(frames_of(files[2], model, **how), whole), how


def test_files_give_the_frames_of_the_arrays(files: Files, source: Path, model: Path) -> None:
    from vidtok.video import VideoReader

    with VideoReader(source) as video:
        pixels = np.stack([frame.pixels for frame in video])
    loaded = checkpoint.load(model)
    pictures = []
    for quality in range(1, QUALITIES + 1):
        tokens = loaded.encode(pixels, quality)
        stored = ids_of(files[quality])
        assert np.array_equal(tokens.ids, stored[..., 0] if quality == 1 else stored)
        pictures.append(loaded.decode(tokens))
        assert np.array_equal(frames_of(files[quality], model), pictures[-1])
    assert not np.array_equal(pictures[0], pictures[1]) and not np.array_equal(pictures[1], pictures[2])


@pytest.mark.parametrize("segment_frames", [0, 40])
@pytest.mark.parametrize("quality", [1, QUALITIES])
def test_parts_equal_the_whole(source: Path, model: Path, tmp_path: Path, quality: int, segment_frames: int) -> None:
    path = tmp_path / "clip.vtok"
    encode_file(source, path, EncodeOptions(model=model, quality=quality, segment_frames=segment_frames))
    whole = frames_of(path, model)
    for start, stop in ((0, 1), (39, 42), (70, 71), (FRAMES - 1, FRAMES), (None, 5)):
        part = frames_of(path, model, frames=(start, stop))
        assert np.array_equal(part, whole[start:stop]), (start, stop)


def test_after_damage_frames_are_exact_once_the_look_back_is_whole(files: Files, model: Path, tmp_path: Path) -> None:
    whole, path = frames_of(files[2], model), tmp_path / "damaged.vtok"
    data = bytearray(files[2].read_bytes())
    with TokenReader(files[2]) as reader:
        lost = reader.chunks[0]
    data[lost.offset + lost.bytes - 3] ^= 4
    path.write_bytes(data)
    found = frames_of(path, model, skip_damaged=True)
    loaded = checkpoint.load(model)
    exact, _ = loaded.geometry.span_of_latent(lost.first_latent + lost.latents + loaded.look_back)
    assert (found[: lost.frames] == 128).all()
    assert np.array_equal(found[exact:], whole[exact:])


def test_rates_add_up(source: Path, model: Path, files: Files, tmp_path: Path) -> None:
    """bpp of reports, estimates and info: a stage is as many bits as another."""
    for quality in range(1, QUALITIES + 1):
        options = EncodeOptions(model=model, quality=quality, entropy="raw", force=True)
        report = encode_file(source, tmp_path / "raw.vtok", options)
        assert report.quality == quality
        assert report.raw_bpp == pytest.approx(quality * log2(200) / (4 * 8 * 8))
        assert 0 < report.file_bytes - estimate_file(source, options)["bytes"] < 900
        assert estimate_file(source, options)["bytes"] == LATENTS * 5 * 6 * 8 * quality // 8
    default = checkpoint.load(model).default_quality
    assert estimate_file(source, EncodeOptions(model=model))["bytes"] == LATENTS * 5 * 6 * default


def test_wrong_qualities_name_the_range(
    run: Callable[..., Any], source: Path, clip: Path, model: Path, tiny_model: Path, files: Files, tmp_path: Path
) -> None:
    out = tmp_path / "out.vtok"
    for arguments, words in (
        (["encode", source, "-o", out, "--model", model, "--quality", QUALITIES + 1], f"1 to {QUALITIES}"),
        (["encode", source, clip, "-o", out, "--model", model, "--quality", 4], f"1 to {QUALITIES}"),
        (["encode", source, clip, "-o", out, "--model", model, "--quality", 4, "--workers", 2], f"1 to {QUALITIES}"),
        (["encode", source, "-o", out, "--model", tiny_model, "--quality", 2], "one rate"),
        (["eval", source, "--model", model, "--quality", 1, "--quality", 9], f"1 to {QUALITIES}"),
        (["bench", "--model", model, "--quality", 9, "--no-files", "--no-memory"], f"1 to {QUALITIES}"),
        (["repack", files[2], "-o", out, "--quality", 3], "1 to 2"),
        (["encode", source, "-o", out, "--model", model, "--quality", 0], "range"),
    ):
        ran = run(*arguments)
        assert (ran.code, len(ran.err.splitlines())) == (2, 1), ran.err
        assert words in ran.err and "quality" in ran.err, ran.err
        assert not out.exists()
    for wrong in (0, QUALITIES + 1):
        with pytest.raises(UsageError):
            encode_file(source, out, EncodeOptions(model=model, quality=wrong))
        with pytest.raises(UsageError):
            estimate_file(source, EncodeOptions(model=model, quality=wrong))


def test_one_rate_models_have_quality_one(clip: Path, tiny_model: Path, tmp_path: Path) -> None:
    encode_file(clip, tmp_path / "a.vtok", EncodeOptions(model=tiny_model))
    report = encode_file(clip, tmp_path / "b.vtok", EncodeOptions(model=tiny_model, quality=1))
    assert report.quality is None
    assert (tmp_path / "a.vtok").read_bytes() == (tmp_path / "b.vtok").read_bytes()
    with TokenReader(tmp_path / "a.vtok") as reader:
        assert (reader.header.quality, reader.header.codebooks) == (None, 0)


def test_a_header_that_no_model_would_write_is_refused(files: Files, model: Path, tmp_path: Path) -> None:
    with TokenReader(files[1]) as reader:
        header = reader.header
        pts = list(reader.pts)
    ids = ids_of(files[1])
    for changes in ({"vocabulary": 400, "digits": ()}, {"codebooks": 4, "quality": 4}):
        path = tmp_path / "odd.vtok"
        odd = replace(header, **changes)  # type: ignore[arg-type]
        with TokenWriter(path, odd, force=True) as sink:
            sink.write(np.repeat(ids, odd.codebooks, -1), pts)
        with pytest.raises(FormatError, match="'rates' has other"):
            frames_of(path, model)


def test_the_commands_take_a_quality(
    run: Callable[..., Any], files: Files, clip: Path, model: Path, tmp_path: Path
) -> None:
    ran = run("encode", clip, "-o", tmp_path / "2.vtok", "--model", model, "--quality", 2)
    assert ran.code == 0 and "quality 2" in ran.out
    ran = run("encode", clip, "-o", tmp_path / "3.vtok", "--model", model, "--quality", 3, "--json")
    assert json.loads(ran.out)["quality"] == 3
    assert run("repack", tmp_path / "3.vtok", "-o", tmp_path / "cut.vtok", "--quality", 2).code == 0
    assert (tmp_path / "cut.vtok").read_bytes() == (tmp_path / "2.vtok").read_bytes()
    shown = json.loads(run("info", tmp_path / "cut.vtok", "--json", "--tokens").out)
    assert (shown["quality"], shown["codebooks"], shown["grid"]) == (2, 2, [4, 6, 8])
    assert shown["raw_bpp"] == pytest.approx(2 * log2(200) / 256)
    assert len(shown["tokens"]["digit_entropy"]) == 2
    sizes = [
        json.loads(run("encode", clip, "--model", model, "--quality", q, "--dry-run", "--json").out)["bytes"]
        for q in (1, 2)
    ]
    assert sizes[1] == 2 * sizes[0]
    assert run("decode", tmp_path / "cut.vtok", "-o", tmp_path / "back.npy", "--model", model).code == 0
    assert np.load(tmp_path / "back.npy").shape == (10, 48, 64, 3)


def test_eval_has_a_row_and_a_summary_for_each_quality(clip: Path, model: Path, files: Files, tmp_path: Path) -> None:
    options = EvalOptions(models=(str(model),), qualities=(1, 3, None), metrics=("psnr", "tokens"), save=tmp_path)
    rows = list(evaluate([clip], options))
    default = checkpoint.load(model).default_quality
    assert [row["quality"] for row in rows] == [1, 3, default] * 2
    assert rows[0]["raw_bpp"] * 3 == pytest.approx(rows[1]["raw_bpp"])
    assert rows[0]["bpp"] < rows[1]["bpp"]
    assert rows[0]["psnr"] != rows[1]["psnr"]
    assert len(rows[1]["digit_entropy"]) == 3 and 0 < rows[1]["usage"] <= 1
    assert {"clip.q1.mp4", "clip.q3.mp4"} <= {path.name for path in tmp_path.iterdir()}


def nobody(*_: object) -> None:
    pass


@pytest.mark.parametrize("entropy", ["auto", "raw"])
def test_eval_cuts_files_that_encoding_would_have_written(
    source: Path, model: Path, tmp_path: Path, entropy: str
) -> None:
    how = EncodeOptions(entropy=entropy, frames=30)
    runs = make_runs(EvalOptions(models=(str(model),), qualities=(2, 1, 3), encode=how))
    best = highest(runs)
    assert best is runs[2] and families(runs) == [[0, 1, 2]]
    master = best.master(source, tmp_path, how, nobody, nobody)
    for run in runs:
        quality = run.head["quality"]
        wanted = encode_file(source, tmp_path / "alone.vtok", replace(how, model=model, quality=quality, force=True))
        with run.coded(source, tmp_path, how, nobody, nobody, master) as coded:
            assert (tmp_path / "clip.vtok").read_bytes() == (tmp_path / "alone.vtok").read_bytes()
            assert (coded.file_bytes, coded.frames) == (wanted.file_bytes, 30)
            assert coded.row["raw_bpp"] == pytest.approx(wanted.raw_bpp)
            assert (coded.seconds is None, coded.row.get("cut_from")) == (quality < 3, 3 if quality < 3 else None)
            assert sum(len(pts) for _, pts in coded.decode()) == 30
    assert highest(runs[:1]) is None, "one quality is encoded as it is"


def test_eval_encodes_a_clip_once(clip: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its rows are those of one quality at a time, in several processes too."""
    encoded: list[int | None] = []
    real = evaluation_runs.encode_file

    def counted(path: Path, target: Path, options: EncodeOptions, **how: Any) -> Any:
        encoded.append(options.quality)
        return real(path, target, options, **how)

    def rows(*qualities: int | None, **how: Any) -> list[dict[str, Any]]:
        options = EvalOptions(models=(str(model),), qualities=qualities, metrics=("psnr", "tokens"), **how)
        found = evaluate([clip], options)
        return [{k: v for k, v in row.items() if k not in ("encode_fps", "decode_fps", "cut_from")} for row in found]

    monkeypatch.setattr(evaluation_runs, "encode_file", counted)
    seen: list[tuple[int, int | None]] = []
    whole = list(evaluate([clip], EvalOptions(models=(str(model),), qualities=(1, 2, 3), metrics=("psnr",)),
                          progress=lambda *state: seen.append(state)))  # fmt: skip
    assert encoded == [3]
    assert [row["encode_fps"] is None for row in whole if "path" in row] == [True, True, False]
    assert [row["encode_fps"] is None for row in whole if "summary" in row] == [True, True, False]
    assert seen == sorted(seen) and seen[-1] == (40, 40) and {total for _, total in seen} == {40}
    together = rows(1, 2, 3)
    alone = [row for quality in (1, 2, 3) for row in rows(quality)]
    assert [r for r in together if "path" in r] == [r for r in alone if "path" in r]
    for mine, theirs in zip(together[-3:], (r for r in alone if "summary" in r), strict=True):
        assert mine == theirs


def test_workers_share_an_encoding(clip: Path, model: Path, make_clip: Callable[..., Path], tmp_path: Path) -> None:
    other = make_clip(tmp_path / "other.mp4", frames=11, width=40, height=32)
    wanted: dict[str, Any] = {"models": (str(model),), "qualities": (1, 3), "metrics": ("psnr", "tokens")}

    def rows(**how: Any) -> list[dict[str, Any]]:
        found = evaluate([clip, other], EvalOptions(**wanted, **how))
        return [{k: v for k, v in row.items() if k not in ("encode_fps", "decode_fps")} for row in found]

    alone, apart = (sorted(found, key=repr) for found in (rows(), rows(workers=2)))
    assert alone == apart and len(alone) == 6


def test_a_quality_that_fails_does_not_cost_the_others(
    clip: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is all that --resume does again; with other weights under the same name everything is done again."""
    broken = {2}
    real = evaluation_runs.decode_clips

    def decode(reader: TokenReader, options: DecodeOptions) -> Any:
        if reader.header.quality in broken:
            raise MemoryError
        return real(reader, options)

    monkeypatch.setattr(evaluation_runs, "decode_clips", decode)
    place = tmp_path / "model.safetensors"
    place.write_bytes(model.read_bytes())
    wanted: dict[str, Any] = {"models": (str(place),), "qualities": (1, 2, 3), "metrics": ("psnr",)}
    options = EvalOptions(**wanted, results=tmp_path / "rows.jsonl")
    first = [row for row in evaluate([clip], options) if "path" in row]
    assert ["error" in row for row in first] == [False, True, False] and "not enough memory" in first[1]["error"]
    broken.clear()
    begun: list[str] = []
    again = replace(options, resume=True)
    rows = list(evaluate([clip], again, begin=lambda n, total, name: begun.append(f"{n}/{total}")))
    assert begun == ["1/1"] and [row["quality"] for row in rows if "path" in row] == [1, 3, 2]
    assert rows[2]["encode_fps"] is not None and "cut_from" not in rows[2], "alone it is encoded as it is"
    config = checkpoint.model_config(place, checkpoint.read_metadata(place))
    checkpoint.save_tokenizer(place, build_tokenizer(config), name="rates")
    begun.clear()
    rows = list(evaluate([clip], again, begin=lambda n, total, name: begun.append(f"{n}/{total}")))
    assert begun == ["1/1"] and {row["model_id"] for row in rows if "path" in row} != {first[0]["model_id"]}


def test_bench_times_each_quality(model: Path, tiny_model: Path) -> None:
    options = BenchOptions(qualities=(1, 3), frames=5, width=40, height=32, runs=1, file_frames=6, memory=False)
    low, high = bench([str(model)], options)
    assert (low["quality"], high["quality"]) == (1, 3)
    assert 2 * low["encode_flops"] < high["encode_flops"] and low["decode_flops"] < high["decode_flops"]
    assert low["decode_file_fps"] > 0
    with pytest.raises(UsageError, match="one rate"):
        bench([str(tiny_model)], options)
    with pytest.raises(UsageError, match="one quality"):
        BenchOptions(qualities=())
