"""The page of an audited run, as a browser shows it: what it says, what hovering reads, and that it needs no network."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from resumable import StepSchedule
from resumable.audit import read_records, runs_of
from resumable.report.page import page_of
from resumable.report.timeline import timeline_of
from tests.support.audited_runs import session


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run of three sessions, of which the first went back."""
    folder = tmp_path_factory.mktemp("audit")
    schedule = StepSchedule(((0, 16), (700, 32)))
    state = session(folder, (2, 4), 30, beyond=10, schedule=schedule)
    state = session(folder, (2, 4), 25, state=state, schedule=schedule)
    session(folder, (4, 4), 20, state=state, schedule=schedule)
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(written(folder), encoding="utf-8")
    return path


def written(folder: Path, title: str = "A run") -> str:
    """The page of the audit in *folder*."""
    return page_of([timeline_of(run) for run in runs_of(read_records(folder))], title)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium without a screen; skipped where the machine has none."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver on the PATH")
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,1400"):
        options.add_argument(argument)
    opened = Chrome(options=options, service=ChromeService(driver))
    yield opened
    opened.quit()


class _Addresses(HTMLParser):
    """The addresses that a page loads something from."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href")]


def test_it_needs_no_network(page: Path) -> None:
    """Everything is in the one file."""
    addresses = _Addresses()
    addresses.feed(page.read_text(encoding="utf-8"))
    assert [] == addresses.found


def test_what_it_says_of_an_exact_run(page: Path) -> None:
    """The verdict, and a row for each session, are there as text too."""
    text = page.read_text(encoding="utf-8")
    assert "Exactly once: every sample up to there was trained, and none twice." in text
    rows = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in re.findall(r"<tr>(.*)</tr>", text)[1:]]
    assert [["0", "30", "480", "10", "2", "4"], ["30", "55", "552", "0", "2", "4"]] == [row[2:8] for row in rows[:2]]


def test_what_it_says_of_a_run_that_is_not(tmp_path: Path) -> None:
    """The first sample is named, and what comes from outside is no markup."""
    session(tmp_path, (1, 5), 7, samples=50)
    session(tmp_path, (1, 5), 1, state=session(None, (1, 5), 9, samples=50), samples=50)
    text = written(tmp_path, title="<script>alert(1)</script>")
    assert "Not exactly once." in text
    assert "The sample at place 35 of epoch 0" in text
    assert "<script>alert(1)" not in text


def test_a_browser_shows_its_values(page: Path, browser: Any) -> None:
    """The figure is drawn; hovering over a session reads its steps; a click in the legend hides it."""
    browser.get(page.as_uri())
    curves = "return document.querySelectorAll('.scatterlayer .trace').length"
    assert browser.execute_script(curves) >= 6
    hover = """
        const plot = document.querySelector('.plotly-graph-div'), done = arguments[0];
        Plotly.Fx.hover(plot, [{curveNumber: arguments[1], pointNumber: 0}]);
        setTimeout(() => done([...plot.querySelectorAll('.hovertext')].map(each => each.textContent).join('|')), 300);
    """.replace("arguments[1]", "plot.data.findIndex(each => each.type == 'bar' && each.name == 'session 1')").replace(
        "done = arguments[0]", "done = arguments[arguments.length - 1]"
    )
    assert "session 1: 2 ranks x 4after step 30" in browser.execute_async_script(hover)
    browser.find_element("css selector", ".legendtoggle").click()
    hidden = (
        "return document.querySelector('.plotly-graph-div').data.filter(each => each.visible == 'legendonly').length"
    )
    wait_for(browser, f"{hidden} > 0")
    assert browser.execute_script(hidden) >= 2
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert [] == errors


@pytest.mark.parametrize(("scheme", "ink"), [("light", "rgb(34, 34, 34)"), ("dark", "rgb(230, 230, 230)")])
def test_it_follows_the_screen(scheme: str, ink: str, page: Path, browser: Any) -> None:
    """Text and figure are dark on a light screen, and light on a dark one."""
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    browser.get(page.as_uri())
    assert ink == browser.execute_script("return getComputedStyle(document.body).color")
    colour = "return getComputedStyle(document.querySelector('.xtick text')).fill"
    wait_for(browser, f"return ({colour.removeprefix('return ')}) == '{ink}'")
    assert ink == browser.execute_script(colour)


def wait_for(browser: Any, script: str) -> None:
    """Wait until *script* is true."""
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser, 30).until(lambda opened: opened.execute_script(script))
