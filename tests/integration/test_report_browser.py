"""The HTML report in a real browser: quiet, harmless, quick, and usable by keyboard."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from safe_r1.metrics.rates import compute_metrics
from safe_r1.report.html import render_html
from tests.unit.report.report_rows import Rows, make_rows

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: uv pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium"),
]
# A hang, not a speed: how long things take is printed, and machines differ.
MAX_LOAD_S = 60.0
MAX_ACTION_S = 15.0


class Report:
    """A report that is open in the browser, with everything that went wrong in it."""

    def __init__(self, browser, path: Path, rows: Rows):
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.path = path
        self.samples, self.completions, self.verdicts = rows
        self.page = browser.new_page(viewport={"width": 1400, "height": 900})
        self.page.on(
            "console", lambda message: self.problems.append(f"console {message.type}: {message.text}")
        )
        self.page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        self.page.on(
            "dialog", lambda dialog: (self.problems.append(f"dialog: {dialog.message}"), dialog.dismiss())
        )
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.open()

    def open(self, address: str = "") -> float:
        """Load the report anew; seconds until its list is there."""
        self.page.goto("about:blank")
        start = time.perf_counter()
        self.page.goto(f"file://{self.path}{address}")
        self.page.wait_for_selector("#list .item, #detail .empty")
        return time.perf_counter() - start

    def count(self) -> int:
        """Number of rows that pass the filters."""
        return int(self.page.inner_text("#count").split(" / ")[0].replace(",", ""))

    def wait_count(self, expected: int) -> None:
        text = f"{expected:,} / "
        self.page.wait_for_function(
            "text => document.getElementById('count').textContent.startsWith(text)", arg=text
        )

    def shown(self) -> str:
        """Id of the sample in the detail pane."""
        return self.page.inner_text("#detail a.id")

    def seconds(self, act: Callable[[], object]) -> float:
        """Seconds until an action has been carried out and painted."""
        start = time.perf_counter()
        act()
        self.page.evaluate(
            "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )
        return time.perf_counter() - start


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def open_report(browser, folder: Path, **kwargs) -> Report:
    rows = make_rows(**kwargs)
    path = folder / "report.html"
    path.write_text(render_html(*rows, compute_metrics(*rows), {"benchmark": "chisafetybench"}), "utf-8")
    return Report(browser, path, rows)


@pytest.fixture(scope="module")
def nasty(browser, tmp_path_factory) -> Report:
    return open_report(
        browser,
        tmp_path_factory.mktemp("nasty"),
        num_mcq=66,
        num_refusal=44,
        repeats=2,
        swapped=True,
        nasty=True,
    )


@pytest.fixture(scope="module")
def large(browser, tmp_path_factory) -> Report:
    folder = tmp_path_factory.mktemp("large")
    return open_report(
        browser, folder, num_mcq=1567, num_refusal=563, repeats=3, swapped=True, reasoning_chars=3000
    )


def test_hostile_rows_show_as_text_and_do_nothing(nasty: Report):
    nasty.open()
    page = nasty.page
    page.focus("#list")
    seen = ""
    for _ in range(60):
        page.keyboard.press("j")
        page.wait_for_selector("#detail .parts .part")
        seen += page.inner_text("#detail")
    assert "<img src=x onerror=alert(1)>" in seen
    assert "</script><script>alert(1)</script>" in seen
    assert "⟦U+202E⟧" in seen
    assert (
        page.evaluate("document.querySelectorAll('#browser img, #browser script, #browser iframe').length")
        == 0
    )
    assert nasty.problems == []
    assert nasty.requests
    assert all(url.startswith(("file://", "about:")) for url in nasty.requests)


def test_inline_code_of_others_would_not_run(nasty: Report):
    nasty.open()
    nasty.page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = 1\">')"
    )
    nasty.page.wait_for_timeout(200)
    assert nasty.page.evaluate("window.ran") is None
    assert any("Content Security Policy" in problem for problem in nasty.problems)
    nasty.problems.clear()  # the refusals just provoked


def test_search_and_filters_find_what_the_rows_hold(nasty: Report):
    nasty.open()
    page = nasty.page
    ids = {sample.sample_id: sample for sample in nasty.samples}
    assert nasty.count() == len(nasty.completions)
    page.fill("#q", "民族歧视")
    words = [
        [sample.sample_id, *(turn["content"] for turn in sample.messages), *sample.options.values()]
        for sample in nasty.samples
    ]
    texts = {sample.sample_id: "\n".join(parts) for sample, parts in zip(nasty.samples, words, strict=True)}
    nasty.wait_count(
        sum("民族歧视" in texts[row.sample_id] + (row.answer or "") for row in nasty.completions)
    )
    assert page.inner_text("#list .item mark") == "民族歧视"
    page.fill("#q", "没有这样的话")
    nasty.wait_count(0)
    assert "没有符合条件的样本" in page.inner_text("#detail")
    page.click("button[type=reset]")
    nasty.wait_count(len(nasty.completions))
    page.select_option("#f-task", "refusal")
    nasty.wait_count(sum(ids[row.sample_id].task == "refusal" for row in nasty.completions))
    page.select_option("#f-area", "values")
    page.select_option("#f-category", "terrorism")
    page.select_option("#f-repeat", "1")
    terrorism = {
        name for name, sample in ids.items() if (sample.task, sample.category) == ("refusal", "terrorism")
    }
    nasty.wait_count(sum(row.sample_id in terrorism and row.repeat == 1 for row in nasty.completions))
    page.click("button[type=reset]")
    page.select_option("#f-status", "truncated")
    nasty.wait_count(sum(row.has_open_reasoning for row in nasty.completions))
    page.select_option("#f-status", "failed")
    nasty.wait_count(sum(row.error is not None for row in nasty.completions))
    page.click("button[type=reset]")
    page.select_option("#f-label", "拒绝并负责任引导")
    nasty.wait_count(
        sum(verdict.label == "拒绝并负责任引导" for verdict in nasty.verdicts if verdict.part == "answer")
    )
    page.select_option("#f-label", "leak")
    assert "不拒绝且给出风险回复" in page.inner_text("#detail summary")
    page.select_option("#f-label", "")
    page.select_option("#f-order", "swapped")
    nasty.wait_count(sum("swap_of" in ids[row.sample_id].metadata for row in nasty.completions))
    assert nasty.problems == []


def test_keyboard(nasty: Report):
    nasty.open("#q=")
    page = nasty.page
    page.keyboard.press("/")
    page.keyboard.type("风险问题1")
    page.wait_for_selector("#list .item mark")
    page.keyboard.press("ArrowDown")
    first = nasty.shown()
    page.keyboard.press("End")
    last = nasty.shown()
    assert last != first
    page.keyboard.press("Home")
    assert nasty.shown() == first
    page.keyboard.press("ArrowDown")
    assert page.get_attribute("#list .item[aria-selected=true]", "aria-posinset") == "2"
    page.keyboard.press("[")
    assert page.get_attribute("#list", "aria-activedescendant") == page.get_attribute(
        "#list .item[aria-selected=true]", "id"
    )
    page.wait_for_selector("details.reasoning[open]")
    page.keyboard.press("r")
    page.wait_for_selector("details.reasoning:not([open])")
    page.keyboard.press("r")
    page.keyboard.press("/")
    page.keyboard.press("Escape")
    nasty.wait_count(len(nasty.completions))
    assert nasty.problems == []


def test_links_lead_to_a_row_and_to_a_filter(nasty: Report):
    wanted = nasty.samples[-3].sample_id
    nasty.open(f"#id={wanted}&repeat=1")
    page = nasty.page
    assert nasty.shown() == wanted
    assert page.inner_text("#detail .tools [aria-pressed=true]") == "重复 1"
    assert page.is_visible("#list .item[aria-selected=true]")
    page.click("#areas a[href='#task=mcq&category=gender']")
    nasty.wait_count(
        sum("/mcq/" in row.sample_id for row in nasty.completions if row.sample_id in _of(nasty, "gender"))
    )
    page.click("#list .item >> nth=1")
    page.wait_for_function("() => location.hash.includes('id=')")
    shown, address = nasty.shown(), page.evaluate("location.hash")
    nasty.open(address)
    assert nasty.shown() == shown
    assert page.input_value("#f-category") == "gender"
    nasty.open("#id=no-such-row")
    assert nasty.count() == len(nasty.completions)
    page.click("#detail button:has-text('看选项倒序')")
    assert nasty.shown().endswith("~swapped")
    assert nasty.problems == []


def _of(report: Report, category: str) -> set[str]:
    return {sample.sample_id for sample in report.samples if sample.category == category}


def test_a_narrow_page_does_not_scroll_sideways(nasty: Report):
    nasty.page.set_viewport_size({"width": 380, "height": 800})
    nasty.open()
    assert nasty.page.evaluate("document.documentElement.scrollWidth") <= 380
    nasty.page.set_viewport_size({"width": 1400, "height": 900})


def test_a_whole_benchmark_with_repeats_is_quick(large: Report):
    page = large.page
    assert len(large.completions) == (2 * 1567 + 563) * 3
    times = {"load": large.open()}
    assert page.evaluate("document.querySelectorAll('#list .item').length") < 60  # only what is in view

    def search(text: str) -> None:
        page.fill("#q", text)
        page.wait_for_timeout(60)  # the pause after which the page searches

    times["first search"] = large.seconds(lambda: search("歧视"))
    times["search"] = large.seconds(lambda: search("偏见（1"))
    times["rare search"] = large.seconds(lambda: search("第1234题"))
    large.wait_count(6)
    assert page.evaluate("document.querySelectorAll('#list .item').length") == 6
    times["reset"] = large.seconds(lambda: page.click("button[type=reset]"))
    times["task"] = large.seconds(lambda: page.select_option("#f-task", "refusal"))
    times["label"] = large.seconds(lambda: page.select_option("#f-label", "直接拒绝"))
    page.click("button[type=reset]")
    page.focus("#list")
    times["end"] = large.seconds(
        lambda: (page.keyboard.press("End"), page.wait_for_selector("#detail .parts .part"))
    )
    times["scroll"] = large.seconds(
        lambda: page.evaluate("document.getElementById('list').scrollTop = 300000")
    )
    times["50 rows"] = large.seconds(lambda: [page.keyboard.press("k") for _ in range(50)]) / 50
    print(
        {name: round(value, 3) for name, value in times.items()}, f"{large.path.stat().st_size / 1e6:.1f} MB"
    )
    assert times.pop("load") < MAX_LOAD_S
    assert max(times.values()) < MAX_ACTION_S, times
    assert large.problems == []
