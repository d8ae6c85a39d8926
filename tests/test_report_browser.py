"""The page in a real headless Chromium: players in lockstep, keys, a phone, a dark room, hostile names, no network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, find_chromium
from report_pages import HOSTILE, made_up

from vidtok.report import write_report

SIDE, FRAMES = 40, 6
SHOWN = "document.querySelector('.player').dataset.frame"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium on PATH; VIDTOK_CHROMIUM says where one is")
    with Browser(program, tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of six frames, four runs, one of the clips with the worst name there is."""
    target = tmp_path_factory.mktemp("page") / "page.html"
    write_report(target, made_up(clip=" ".join(HOSTILE), model=HOSTILE[0], frames=FRAMES, count=FRAMES, side=SIDE))
    return target


@pytest.fixture
def page(browser: Browser, path: Path) -> Browser:
    """The page, freshly opened on a desk in daylight, its first player awake."""
    browser.size(1200, 900)
    browser.dark(False)
    browser.problems.clear()
    browser.requests.clear()
    browser.open(path)
    browser.wait(f"{SHOWN} === '0'")
    return browser


def levels(page: Browser, pane: str) -> list[int]:
    """The first player's canvas in the middle of the picture, RGB."""
    canvas = f"document.querySelector('.player [data-pane={pane}]')"
    return list(page.ask(f"[...{canvas}.getContext('2d').getImageData({SIDE // 2}, {SIDE // 2}, 1, 1).data]"))[:3]


def choose(page: Browser, what: str, value: str) -> None:
    """Another choice of the first player's."""
    select = f"document.querySelector('[data-set={what}]')"
    page.ask(f"(s => {{s.value = '{value}'; s.dispatchEvent(new Event('change'))}})({select})")


def focus(page: Browser) -> None:
    page.ask("document.querySelector('.player').focus()")


def test_nothing_is_fetched_and_nothing_complains(page: Browser, path: Path) -> None:
    assert page.ask("document.querySelectorAll('details.clip').length") == 2
    page.ask("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    page.wait("[...document.querySelectorAll('.player')].every(player => player.dataset.frame === '0')")
    page.ask("[...document.images].forEach(picture => picture.loading = 'eager')")
    page.wait("[...document.images].every(picture => picture.complete && picture.naturalWidth > 0)")
    assert page.problems == []
    assert [url for url in page.requests if not url.startswith("data:")] == [path.as_uri()]


def test_policy_forbids_what_a_name_might_try(page: Browser) -> None:
    assert page.ask("typeof window.hacked") == "undefined"
    page.ask("document.body.insertAdjacentHTML('beforeend', '<img src=\"data:,\" onerror=\"window.hacked = 1\">')")
    page.ask("document.body.append(Object.assign(document.createElement('script'), {text: 'window.hacked = 2'}))")
    assert page.ask("fetch('data:,x').then(() => 'fetched', () => 'refused')") == "refused"
    assert page.ask("new Promise(done => setTimeout(() => done(typeof window.hacked), 50))") == "undefined"
    assert len(page.problems) >= 2, "the browser says what it refused"


def test_three_pictures_step_together(page: Browser) -> None:
    before = [levels(page, pane) for pane in ("source", "result", "difference")]
    assert abs(before[0][0] - SIDE // 2) < 12, "the source's own levels"
    focus(page)
    page.press("ArrowRight")
    page.wait(f"{SHOWN} === '1'")
    after = [levels(page, pane) for pane in ("source", "result", "difference")]
    assert 2 <= after[0][0] - before[0][0] <= 14, "the source grows brighter by 8 a frame"
    assert after[1] != before[1] and after[2] != before[2]
    words = page.ask("document.querySelector('.player output').value")
    assert words.startswith("frame 1 of 0 to 5, 0.04 s · psnr 26.00")
    assert page.ask("document.querySelector('.player canvas').getAttribute('aria-label')") == "Source, frame 1"
    x = page.ask("[...document.querySelectorAll('.cursor.on')].map(line => line.getAttribute('x1') * 1)")
    assert len(x) == 2, "psnr and flicker of this clip"


def test_keys(page: Browser) -> None:
    focus(page)
    for key, frame in (("End", 5), ("ArrowRight", 5), ("ArrowLeft", 4), ("Home", 0), (".", 1), (",", 0)):
        page.press(key)
        page.wait(f"{SHOWN} === '{frame}'")
    page.press("+")
    assert page.ask("document.querySelector('.player [data-set=zoom]').value") == "1"
    assert page.ask("document.querySelector('.player canvas').getBoundingClientRect().width") == SIDE
    page.press("+")
    page.press("+")
    assert page.ask("document.querySelector('.player [data-pane=result]').getBoundingClientRect().width") == 4 * SIDE
    page.press("<")
    assert page.ask("document.querySelector('.player [data-set=speed]').value") == "0.5"
    assert page.problems == []


def test_playing_ends_at_the_last_frame_and_starts_again(page: Browser) -> None:
    focus(page)
    page.ask("document.querySelector('.player [data-set=speed]').value = '4'")
    page.press("Space")
    assert page.ask("document.querySelector('[data-do=play]').getAttribute('aria-label')") == "Pause"
    page.wait(f"{SHOWN} === '5' && document.querySelector('[data-do=play]').getAttribute('aria-label') === 'Play'")
    page.ask("document.querySelector('.player [data-set=speed]').value = '0.125'")
    page.ask("document.querySelector('[data-do=play]').click()")
    page.wait(f"{SHOWN} === '0'")
    page.press("Space")
    assert page.ask("document.querySelector('[data-do=play]').getAttribute('aria-label')") == "Play"


def test_slider_run_and_gain(page: Browser) -> None:
    page.ask("(s => {s.value = 3; s.dispatchEvent(new Event('input'))})(document.querySelector('.player input'))")
    page.wait(f"{SHOWN} === '3'")
    before = levels(page, "result")
    choose(page, "run", "3")
    page.wait("document.querySelector('.player').dataset.run === '3'")
    assert levels(page, "result") != before and page.ask(SHOWN) == "3"
    choose(page, "gain", "16")
    assert page.ask("document.querySelector('[data-pane=difference]').style.filter") == "contrast(4)"


def test_zoomed_panes_scroll_together(page: Browser) -> None:
    page.size(320, 640, phone=True)
    choose(page, "zoom", "8")
    page.wait("document.querySelectorAll('.pane')[0].scrollWidth === 320")
    page.ask("document.querySelectorAll('.pane')[0].scrollLeft = 30")
    page.wait("[...document.querySelectorAll('.player')[0].querySelectorAll('.pane')].every(p => p.scrollLeft === 30)")


def test_no_width_scrolls_sideways(page: Browser) -> None:
    page.ask("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    for width in (320, 375, 768, 1200):
        page.size(width, 700, phone=width < 700)
        assert page.ask("document.documentElement.scrollWidth") <= width
        small = page.ask(
            "[...document.querySelectorAll('button, select, input')].map(c => c.getBoundingClientRect())"
            ".filter(c => c.height > 0 && (c.height < 44 || c.right > innerWidth)).length"
        )
        assert small == 0, f"fingers need 44 pixels, at {width} too"


def test_dark(page: Browser) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    assert page.ask(paper) == "rgb(255, 255, 255)"
    page.dark(True)
    assert page.ask(paper) == "rgb(20, 23, 28)"


def test_a_link_opens_the_clip_it_leads_to(page: Browser) -> None:
    assert not page.ask("document.getElementById('clip-2').open")
    page.ask("document.querySelector('a[href=\"#clip-2\"]').click()")
    page.wait("document.getElementById('clip-2').open")
    page.wait("document.querySelector('#clip-2 .player').dataset.frame === '0'")


def test_numbers_can_be_saved(page: Browser) -> None:
    page.ask(
        "HTMLAnchorElement.prototype.click = function () {"
        " window.saved = fetch.length ? [this.download, this.href.split(':')[0]] : null }"
    )
    page.ask("document.getElementById('save').click()")
    assert page.ask("window.saved") == ["report.json", "blob"]
    rows = page.ask("JSON.parse(document.getElementById('numbers').textContent).rows")
    assert len(rows) == 15 and rows[0]["path"] == " ".join(HOSTILE)
