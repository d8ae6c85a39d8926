"""The HTML page: what is kept of a run in bounded space, and a page that is whole, safe and readable."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from fractions import Fraction
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_pages import HOSTILE, made_up, recorded

from vidtok.errors import OutputExistsError, UsageError
from vidtok.report import Recorder, Report, ReportOptions, page, run_label, write_report
from vidtok.report.content import series_label
from vidtok.report.escape import data, name, number, text
from vidtok.report.page import check_target, policy
from vidtok.report.picture import heat_map
from vidtok.report.plot import Axis, Curve, line_plot, log_ticks, ticks
from vidtok.report.series import CAPACITY, Series
from vidtok.report.tokens import MOST_CELLS, TokenMaps
from vidtok.video.info import Pixels
from vidtok.video.jpeg import LEAST_SIDE, encode_jpeg

REPORT = Path(__file__).parent.parent / "vidtok" / "report"


# --- what is kept of a run ----------------------------------------------------------------------


@given(st.lists(st.floats(-1e3, 1e3), max_size=40), st.integers(1, 40))
def test_series_keeps_mean_and_range_in_bounded_space(pattern: list[float], times: int) -> None:
    values = pattern * times
    series = Series(first=1)
    for i in range(0, len(values), 7):
        series.extend(values[i : i + 7])
    assert len(series.low) == len(series.high) == len(series.mean) == len(series.centres) <= CAPACITY
    assert sum(series.lengths) == series.count == len(values)
    for i, (low, mean, high, centre) in enumerate(
        zip(series.low, series.mean, series.high, series.centres, strict=True)
    ):
        own = values[i * series.span : (i + 1) * series.span]
        assert (low, high) == (min(own), max(own))
        assert mean == pytest.approx(sum(own) / len(own), abs=1e-6)
        assert centre == 1 + i * series.span + (len(own) - 1) / 2
    assert len(values) > CAPACITY or series.mean == values


def map_of(maps: TokenMaps, name: str, stage: int = 0) -> np.ndarray[Any, Any]:
    return next(item.values for item in maps.result() if (item.name, item.stage) == (name, stage))


def test_token_maps_of_known_ids() -> None:
    """Still, alternating between two ids, and through all ids of a quantizer with 4 and 3 levels."""
    maps = TokenMaps(1, 3, 12, (4, 3))
    ids = np.array([[[5, t % 2, t]] for t in range(12)])
    maps.update(ids[:5])
    maps.update(ids[5:])
    assert map_of(maps, "changes").tolist() == [[0, 1, 1]]
    assert map_of(maps, "entropy")[0] == pytest.approx([0, 1, math.log2(12)], abs=1e-6)


def test_token_maps_of_stages_and_of_ids_without_digits() -> None:
    maps = TokenMaps(2, 2, (16, 1000), stages=2)
    ids = np.zeros((8, 2, 2, 2), np.int64)
    ids[:, 1, 0, 1] = np.arange(8)  # three bits, in the second stage alone
    maps.update(ids)
    assert not map_of(maps, "entropy").any() and not map_of(maps, "changes").any()
    assert map_of(maps, "entropy", 1).tolist() == [[0, 0], [3, 0]]
    assert [(item.stage, item.name) for item in maps.result()] == [
        (0, "changes"), (0, "entropy"), (1, "changes"), (1, "entropy"),
    ]


def test_token_maps_of_one_latent_frame_say_nothing_of_changes() -> None:
    maps = TokenMaps(3, 4, 8)
    assert maps.result() == ()
    maps.update(np.zeros((1, 3, 4), np.int64))
    assert [item.name for item in maps.result()] == ["entropy"]


def test_token_maps_of_large_grids_are_of_blocks() -> None:
    maps = TokenMaps(300, 200, 4)
    ids = np.zeros((2, 300, 200), np.int64)
    ids[1, :4, :4] = 1  # one block of 4 x 4 cells
    maps.update(ids)
    changes = map_of(maps, "changes")
    assert max(changes.shape) <= MOST_CELLS and changes.shape == (75, 50)
    assert changes[0, 0] == 1 and changes.sum() == 1


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 70), st.integers(1, 9), st.booleans(), st.integers(1, 20))
def test_previews_are_bounded_and_evenly_spaced(count: int, most: int, hint: bool, batch: int) -> None:
    options = ReportOptions(frames=most, side=16)
    with Recorder(options) as recorder:
        clip = recorder.clip("a", "b", frames=count if hint else None)
        frames = np.zeros((count, 4, 4, 3), np.uint8)
        for i in range(0, count, batch):
            part = frames[i : i + batch]
            clip.frames(part, part, {"psnr": [float(t) for t in range(i, i + len(part))]})
        detail = clip.finish()
    numbers = [preview.frame for preview in detail.previews]
    steps = set(np.diff(numbers).tolist())
    assert numbers[0] == 0 and len(steps) <= 1
    assert len(numbers) <= most and (len(numbers) > most // 2 or len(numbers) == count)
    assert [preview.values["psnr"] for preview in detail.previews] == numbers


def test_worst_frames_are_found_and_are_no_neighbours() -> None:
    source = np.full((60, 8, 8, 3), 100, np.uint8)
    result = source.copy()
    values = [40.0] * 60
    for frame, value in ((20, 10.0), (21, 11.0), (50, 12.0), (3, 13.0), (37, 14.0)):
        values[frame] = value
        result[frame] += np.uint8(frame)
    detail = recorded(source, result, {"ssim": [1.0] * 60, "psnr": values})
    assert [frame.frame for frame in detail.worst] == [20, 50, 3]
    assert detail.worst_by == "psnr"
    (shown,) = decode(detail.worst[0].result)
    assert shown.mean() == pytest.approx(120, abs=2)
    (difference,) = decode(detail.worst[0].difference)
    assert difference.mean() == pytest.approx(128 + 4 * 20, abs=2)


def test_where_lower_is_better_the_largest_is_worst() -> None:
    frames = np.zeros((20, 8, 8, 3), np.uint8)
    detail = recorded(frames, frames, {"flicker": [None, *range(18), 0.5]})
    assert [(frame.frame, frame.values["flicker"]) for frame in detail.worst] == [(18, 17), (15, 14)]
    assert detail.series["flicker"].first == 1, "the first frame changes from nothing"
    assert detail.score == -np.mean([*range(18), 0.5])


def test_values_that_come_late_find_their_frames() -> None:
    frames = np.zeros((12, 8, 8, 3), np.uint8)
    with Recorder(ReportOptions(frames=4)) as recorder:
        clip = recorder.clip("a", "b", frames=12)
        clip.frames(frames[:6], frames[:6], {"psnr": [30.0 - t for t in range(6)], "vif": [0.0, 0.1]})
        clip.frames(frames[6:], frames[6:], {"psnr": [40.0] * 6, "vif": [0.2, 0.3, 0.4, 0.5]})
        detail = clip.finish({"vif": [0.6, 0.7, 0.8, 0.9, 1.0, 1.1], "vmaf": [50.0 + t for t in range(12)]})
    assert [preview.frame for preview in detail.previews] == [0, 3, 6, 9]
    for preview in (*detail.previews, *detail.worst):
        assert preview.values["vif"] == pytest.approx(preview.frame / 10)
        assert preview.values["vmaf"] == 50 + preview.frame
    assert [frame.frame for frame in detail.worst] == [5] and detail.worst[0].values["psnr"] == 25
    assert {name: series.count for name, series in detail.series.items()} == {"psnr": 12, "vif": 12, "vmaf": 12}


def test_the_worst_clips_are_kept_with_all_their_runs() -> None:
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    with Recorder(ReportOptions(frames=1, clips=2)) as recorder:
        for path, scores in (("a", (30, 31)), ("b", (20, 40)), ("c", (25, 26)), ("d", (35, 10)), ("a", (5, 5))):
            for run, score in zip("xy", scores, strict=True):
                clip = recorder.clip(path, run)
                clip.frames(frames, frames, {"psnr": [float(score)] * 2})
                recorder.add(clip.finish())
        kept = [(detail.path, detail.run) for detail in recorder]
        assert kept == [("b", "x"), ("b", "y"), ("c", "x"), ("c", "y")], "what was dropped does not come back"
        assert [(detail.path, detail.run) for detail in recorder] == kept, "as often as wanted"
    assert list(recorder) == []


def test_no_pictures_and_no_clips() -> None:
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    bare = recorded(frames, frames, {"psnr": [1.0, 2.0]}, ReportOptions(frames=0))
    assert bare.previews == bare.worst == () and bare.series["psnr"].mean == [1, 2]
    with Recorder(ReportOptions(clips=0)) as recorder:
        recorder.add(bare)
        assert list(recorder) == []
    with pytest.raises(UsageError, match="--report-side 4: 16 to 4096"):
        ReportOptions(side=4)


# --- pictures -----------------------------------------------------------------------------------


def decode(jpeg: bytes) -> list[Pixels]:
    decoder: Any = av.CodecContext.create("mjpeg", "r")
    frames = [*decoder.decode(av.Packet(jpeg)), *decoder.decode(None)]
    return [frame.to_ndarray(format="rgb24") for frame in frames]


def test_jpeg_is_near_the_picture_and_the_same_each_time() -> None:
    y, x = np.mgrid[:90, :160]
    pixels = np.stack([x, y * 2, (x + y) // 2], -1).astype(np.uint8)
    jpeg = encode_jpeg(pixels, 200, 50_000)
    (back,) = decode(jpeg.data)
    assert (jpeg.width, jpeg.height) == (160, 90), "not enlarged"
    assert np.abs(back.astype(int) - pixels).mean() < 2
    assert encode_jpeg(pixels, 200, 50_000) == jpeg
    small = encode_jpeg(pixels, 40, 50_000)
    assert (small.width, small.height) == (40, 22) and decode(small.data)[0].shape == (22, 40, 3)


@pytest.mark.parametrize("shape", [(64, 64), (1, 300), (301, 3), (1, 1)])
def test_jpeg_stays_within_its_bytes_whatever_the_picture(shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    jpeg = encode_jpeg(noise, 64, 1500)
    assert len(jpeg.data) <= 1500 or max(jpeg.width, jpeg.height) <= LEAST_SIDE
    assert decode(jpeg.data)[0].shape == (jpeg.height, jpeg.width, 3)
    again = encode_jpeg(noise, 64, 1500, jpeg.tries)
    assert again == jpeg, "what was too large is left out, and nothing else changes"
    assert encode_jpeg(noise, 64, 10**6, jpeg.next_first(10**6)).tries == max(0, jpeg.tries - 1)


def test_heat_map_is_a_png_that_rises_in_lightness() -> None:
    values = np.array([[0.0, 0.25], [0.5, 1.0], [9.0, np.nan]])
    png: Any = av.CodecContext.create("png", "r")
    frames = [*png.decode(av.Packet(heat_map(values, 1.0))), *png.decode(None)]
    light = frames[0].to_ndarray(format="rgb24").astype(float) @ (0.2126, 0.7152, 0.0722)
    assert light.shape == (3, 2)
    assert light[0, 0] < light[0, 1] < light[1, 0] < light[1, 1] == light[2, 0]
    assert light[2, 1] == light[0, 0], "what is no number is shown as zero"


# --- plots --------------------------------------------------------------------------------------


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_and_within(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert 1 <= len(found) <= 7 and found == sorted(found)
    assert all(low - span * 1e-6 <= value <= low + span * (1 + 1e-6) for value in found)
    logarithmic = log_ticks(span, span * 50)
    assert 1 <= len(logarithmic) <= 8 and all(span * 0.99 <= v <= span * 50.5 for v in logarithmic)


def test_tick_labels_say_what_they_are() -> None:
    svg = line_plot([Curve(name="a", x=[0, 10], y=[21.0, 31.0])], Axis(label="x"), Axis(label="y"), title="t")
    assert re.findall(r'text-anchor="end">([^<]*)</text>', svg) == ["22.5", "25.0", "27.5", "30.0"]


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(), st.floats()), max_size=20), st.booleans())
def test_plots_hold_finite_places_only(points: list[tuple[float, float]], log: bool) -> None:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    curve = Curve(name="a", x=[math.ldexp(x, -900) for x in xs], y=[math.ldexp(y, -900) for y in ys])
    svg = line_plot([curve], Axis(label="x", log=log), Axis(label="y"), title="t")
    finite = [math.isfinite(x) and math.isfinite(y) for x, y in points]
    assert svg.count("<circle") == sum(finite)
    assert not re.search(r"nan|inf", svg)


# --- words --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.text(max_size=40))
def test_text_and_data_cannot_leave_their_place(words: str) -> None:
    assert not set("<>\"'") & set(text(words)) and text(words).isprintable()
    assert name(words).removeprefix("<bdi>").removesuffix("</bdi>").replace("<wbr>", "") == text(words)
    inside = data({"name": words})
    assert not set("<>&\u2028\u2029") & set(inside) and inside.isascii()
    assert json.loads(inside) == {"name": words}


def test_long_names_go_on_after_a_separator() -> None:
    assert name("clip_1.mp4") == "<bdi>clip_1.mp4</bdi>", "short enough for any line"
    assert name("my_longest-run--of/all.mp4", "<") == (
        '<bdi title="&lt;">my_<wbr>longest-<wbr>run--<wbr>of/<wbr>all.<wbr>mp4</bdi>'
    )
    assert name("nothingtobreakat") == "<bdi>nothingtobreakat</bdi>"


def test_numbers_for_people() -> None:
    shown = [number(value) for value in (None, 0.5, 31.234, 12345, float("nan"), True, "a\u202eb")]
    assert shown == ["–", "0.5000", "31.23", "12345", "–", "yes", "a\\u202eb"]
    assert json.loads(data([float("inf"), Path("x"), np.float32(2), Fraction(1, 2)])) == [None, "x", 2.0, "1/2"]


def test_labels_of_runs_and_curves() -> None:
    assert run_label({"model": "vidtok-2", "quality": 3}) == "vidtok-2 q3"
    assert run_label({"model": "vidtok-1", "quality": None}) == "vidtok-1"
    assert run_label({"codec": "x264:preset=slow", "quality": 23.0}) == "x264:preset=slow crf 23"
    assert series_label({"codec": "x264:preset=slow", "quality": 23.0}) == "x264:preset=slow"
    assert run_label({"path": "a.mp4", "other": "b.mp4"}) == "b.mp4"


# --- the page -----------------------------------------------------------------------------------


class Document(HTMLParser):
    """Tags with their attributes, text, and whether tags were closed in order."""

    VOID = ("meta", "link", "img", "input", "br")
    SVG = ("line", "circle", "rect", "path")

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.inside: dict[str, list[str]] = {}
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "wbr":  # where a long name may break
            assert not attrs
            return
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.SVG
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.inside.setdefault(self._open[-1] if self._open else "", []).append(data)
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def source() -> str:
    return "".join(page(made_up()))


@pytest.fixture(scope="module")
def document(source: str) -> Document:
    return Document(source)


def test_page_has_every_part(document: Document) -> None:
    headings = document.inside["h2"]
    assert headings == ["To note", "Summary", "Rate and distortion", "Worst frames", "Clips", "How it was measured"]
    assert document.inside["h4"][:3] == ["Frame by frame", "Worst frames", "Token usage over the grid"]
    words = " ".join(document.words)
    for said in ("24.12 to 26.05", "broken.mp4", "no video", "no weights here", "12 dialect words", "vidtok eval",
                 "-12.50", "-14.50 to -9.50", "50 % of both", "nothing shared"):
        assert said in words, said
    panes = [attributes["data-pane"] for attributes in document.all("canvas")]
    assert panes[:3] == ["source", "result", "difference"] and len(panes) == 3 * 2


def test_links_lead_somewhere_and_ids_are_unique(document: Document) -> None:
    ids = [attributes["id"] for _, attributes in document.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    targets = [a["href"].removeprefix("#") for a in document.all("a")]
    targets += [attributes["for"] for attributes in document.all("label")]
    targets += [a["aria-labelledby"] for _, a in document.tags if "aria-labelledby" in a]
    assert targets and set(targets) <= set(ids)


def test_rate_curves_have_every_run_of_every_metric(source: str) -> None:
    part = source.split('id="h-rate"')[1].split("<h2")[0]
    plots = part.split('<svg class="plot"')[1:]
    assert len(plots) == 2, "psnr and ssim; lpips has no value"
    for plot in plots:
        assert plot.count('<path class="line"') == 2, "a curve for the model and one for the codec"
        assert plot.count("<title>") == 4, "two qualities and two settings"
    assert plots[0].count('<path class="whisker"') == 4 and plots[1].count('<path class="whisker"') == 0
    assert "tiny q2: 0.2000 bpp, 27.00" in plots[0]


def test_policy_allows_only_what_is_in_the_page(source: str, document: Document) -> None:
    (allowed,) = (m["content"] for m in document.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert allowed == policy() and "unsafe" not in allowed and "default-src 'none'" in allowed
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", source, re.S)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}';" in allowed
    assert {s.get("type", "") for s in document.all("script")} == {"", "application/json"}
    for tag, attributes in document.tags:
        assert not [key for key in attributes if key.startswith("on") or key == "style"], tag
        for key in ("src", "href", "xlink:href", "action", "srcset"):
            assert attributes.get(key, "#").startswith(("#", "data:image/", "data:,")), attributes[key][:60]
    assert not re.search(r"https?://(?!www\.w3\.org)", source)
    assert source.isprintable() or set(re.findall(r"[^ -~]", source)) <= set("\n–←→−↓↑·×⅛¼½‹▶›❚")


def test_page_is_accessible(document: Document) -> None:
    (root,) = document.all("html")
    assert root["lang"] == "en" and document.inside["title"]
    assert all(picture.get("alt", "") or picture.get("src", "").startswith("data:image/png") for picture in
               document.all("img"))
    assert all(plot["aria-label"] for plot in document.all("svg") if plot.get("class") == "plot")
    assert all(control.get("aria-label") or control.get("id") == "save" for control in document.all("button"))
    assert all(control["aria-label"] for control in document.all("input"))
    labelled = {label["for"] for label in document.all("label")}
    assert {select["id"] for select in document.all("select")} == labelled
    assert len(document.all("caption")) == len(document.all("table")) == 3
    assert {th["scope"] for th in document.all("th")} == {"col", "row"}
    levels = [int(tag[1]) for tag, _ in document.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and all(b <= a + 1 for a, b in pairwise(levels))


def colours(block: str) -> dict[str, float]:
    """Relative luminance of each custom property, as WCAG 2 has it."""
    found = {}
    for key, value in re.findall(r"--([\w-]+): #([0-9a-f]+);", block):
        digits = value if len(value) == 6 else "".join(2 * c for c in value)
        levels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels)
        found[key] = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_enough(scheme: str) -> None:
    css = (REPORT / "page.css").read_text()
    light, dark = css.split("@media (prefers-color-scheme: dark)")
    found = colours(light) | (colours(dark.split("* {")[0]) if scheme == "dark" else {})

    def contrast(a: str, b: str) -> float:
        low, high = sorted((found[a], found[b]))
        return (high + 0.05) / (low + 0.05)

    for ink in ("ink", "soft", "link"):
        assert contrast(ink, "paper") >= 4.5 and contrast(ink, "card") >= 4.5, ink
    assert contrast("ink", "mark") >= 4.5
    for i in range(8):
        assert contrast(f"c{i}", "paper") >= 3, i


def skeleton(report: Report) -> list[tuple[str, frozenset[str]]]:
    return [(tag, frozenset(attributes)) for tag, attributes in Document("".join(page(report))).tags]


@pytest.mark.parametrize("bad", HOSTILE)
def test_hostile_names_change_no_tag(bad: str) -> None:
    report = made_up(clip=bad, model=bad, frames=1)
    assert skeleton(report) == skeleton(made_up(frames=1))
    source = "".join(page(report))
    assert "<script>alert" not in source and "\u202e" not in source and "\x1b" not in source
    source.encode()


@settings(deadline=None, max_examples=8)
@given(st.text(min_size=1, max_size=12))
def test_any_name_changes_no_tag(words: str) -> None:
    report = made_up(clip="x" + words, model="y" + words, frames=0, count=2)
    assert skeleton(report) == skeleton(made_up(frames=0, count=2))


def test_page_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "page.html"

    class Broken(list[Any]):
        def __iter__(self) -> Any:
            yield from super().__iter__()
            raise RuntimeError("disk gone")

    good = made_up(frames=1)
    broken = Report(title="t", rows=good.rows, dialects={}, provenance={}, clips=Broken(good.clips))
    with pytest.raises(RuntimeError):
        write_report(target, broken)
    assert list(tmp_path.iterdir()) == []
    assert write_report(target, good) == target.stat().st_size
    before = target.read_bytes()
    with pytest.raises(OutputExistsError):
        check_target(target)
    with pytest.raises(OutputExistsError):
        write_report(target, good)
    with pytest.raises(RuntimeError):
        write_report(target, broken, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"] and target.read_bytes() == before
    check_target(target, force=True)
    assert target.read_bytes() == before


def test_page_of_nothing_but_failures() -> None:
    rows = [
        {"path": "a.mp4", "model": "m", "quality": None, "error": "no such file"},
        {"summary": True, "model": "m", "quality": None, "clips": 0, "failed": 1, "frames": 0, "bpp": None,
         "psnr": None, "psnr_missing": "no clip could be measured"},
    ]
    document = Document("".join(page(Report(title="t", rows=rows, dialects={"psnr": "dB"}, provenance={}))))
    words = " ".join(document.words)
    assert "a.mp4" in words and "no such file" in words and "no clip could be measured" in words


def test_page_size_is_bounded_by_the_options() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, 160, 160, 3), np.uint8)
    options = ReportOptions(frames=6, side=160)
    detail = recorded(noise, noise[::-1], {"psnr": [8.0] * 12}, options)
    report = Report(title="t", rows=[{"path": "a", "other": "b", "psnr": 8.0}], dialects={"psnr": "dB"},
                    provenance={}, clips=[detail])
    pictures = 3 * 6 + 2 * 3 * len(detail.worst)  # the worst ones are in the gallery too
    assert len("".join(page(report))) < pictures * options.picture_bytes * 4 / 3 + 60_000


def test_assets_are_small_and_complete() -> None:
    script = (REPORT / "page.js").read_text()
    assert len(script) < 12_000 and "</" not in script and "innerHTML" not in script and "eval(" not in script
    assert "</" not in (REPORT / "page.css").read_text()


def test_clip_section_says_how_its_pictures_were_made() -> None:
    frames = np.zeros((9, 40, 20, 3), np.uint8)
    detail = recorded(frames, frames, {"psnr": [100.0] * 9}, ReportOptions(frames=5, side=20))
    row = {"path": detail.path, "other": detail.run, "psnr": 100.0}
    source = "".join(page(Report(title="t", rows=[row], dialects={}, provenance={}, clips=[detail])))
    assert "Every 2nd frame, shrunk to 10 × 20, as JPEG" in source
