"""The labelling page in a real browser, by keyboard alone: two people, closed in between, calibrated."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from safe_r1.calibration.calibrate import calibrate
from safe_r1.calibration.items import CLASSES, open_run
from safe_r1.calibration.label_sample import write_label_sample
from safe_r1.calibration.reviews import items_by_id
from tests.unit.calibration.judged_runs import key_rows, refusal_rows, true_class, write_judged_run

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: uv pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium"),
]
NUM = 40


@pytest.fixture
def context(tmp_path: Path) -> Iterator:
    """A browser whose storage outlives its windows, as a person's does."""
    with sync_api.sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(tmp_path / "profile"),
            executable_path=CHROMIUM,
            args=["--no-sandbox"],
            accept_downloads=True,
            viewport={"width": 1100, "height": 900},
        )
        yield context
        context.close()


class Labelling:
    """The page of a sample, with everything that went wrong in it."""

    def __init__(self, context, folder: Path):
        self.problems: list[str] = []
        self.page = context.new_page()
        self.page.on(
            "console", lambda message: self.problems.append(f"console {message.type}: {message.text}")
        )
        self.page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: (self.problems.append(dialog.message), dialog.dismiss()))
        self.page.on(
            "request",
            lambda request: request.url.startswith(("file:", "blob:")) or self.problems.append(request.url),
        )
        self.page.goto(f"file://{folder / 'label.html'}")
        self.page.wait_for_function("document.activeElement.id === 'annotator'")

    def begin(self, name: str) -> None:
        """The field for the name has the focus."""
        self.page.keyboard.press("Control+A")
        self.page.keyboard.type(name)
        self.page.keyboard.press("Enter")
        self.page.wait_for_selector("#choices button")

    def status(self) -> str:
        return self.page.inner_text("#status")

    def press(self, key: str) -> None:
        self.page.keyboard.press(key)

    def export(self, folder: Path, name: str) -> Path:
        with self.page.expect_download() as download:
            self.press("e")
        path = folder / name
        download.value.save_as(path)
        return path


def place_of(item_id: str, items) -> str:
    item = items[item_id]
    return str(CLASSES[item.stratum.task].index(true_class(item)) + 1)


def shown_item(page) -> str:
    return page.evaluate("() => document.getElementById('text').dataset.item")


def test_two_people_by_keyboard(context, tmp_path: Path):
    run = write_judged_run(tmp_path / "runs", refusal_rows(nasty=True))
    folder = Path(write_label_sample(str(run), NUM).folder.path)
    items = items_by_id(open_run(str(run)))
    work = Labelling(context, folder)
    # Before a name is given the page asks for it; text after text follows.
    assert "type your name" in work.page.inner_text("#welcome")
    work.begin("ann")
    assert not work.page.is_visible("#welcome")
    assert f"1 / {NUM}" in work.status()
    for _ in range(15):
        work.press(place_of(shown_item(work.page), items))
    work.press("n")
    work.page.keyboard.type("=1+1 半句 3")
    work.press("Enter")
    work.press("0")
    assert "labelled 16" in work.status()
    assert work.problems == []
    work.page.close()
    # Closed and opened again: the name is known, and the first text without a label is shown.
    again = Labelling(context, folder)
    assert again.page.input_value("#annotator") == "ann"
    again.begin("ann")
    assert "labelled 16" in again.status()
    for _ in range(NUM - 16):
        again.press(place_of(shown_item(again.page), items))
    assert f"labelled {NUM}" in again.status()
    first = again.export(tmp_path, "ann.csv")
    again.page.close()
    other = Labelling(context, folder)
    other.begin("bob")
    assert "labelled 0" in other.status()
    assert other.page.locator("[aria-pressed=true]").count() == 0
    for _ in range(NUM):
        other.press(place_of(shown_item(other.page), items))
    second = other.export(tmp_path, "bob.csv")
    assert other.problems == []
    found = calibrate(str(run), [str(first), str(second)])
    assert found.num_labelled == NUM
    [pair] = found.agreements
    assert (pair.num_texts, pair.num_equal) == (NUM, NUM - 1)
    assert [dict(text.notes) for text in found.disputed] == [{"ann": "=1+1 半句 3"}]


def test_the_page_says_nothing_of_the_judge(context, tmp_path: Path):
    run = write_judged_run(tmp_path / "runs", refusal_rows())
    folder = Path(write_label_sample(str(run), NUM).folder.path)
    work = Labelling(context, folder)
    texts = work.page.evaluate("() => unpack('texts')")
    assert len(texts) == NUM
    assert {name for text in texts for name in text} == {
        "item",
        "subject",
        "task",
        "messages",
        "text",
        "choices",
    }
    assert len({json.dumps(text["choices"]) for text in texts}) == 1
    assert "lexicon" not in (folder / "label.html").read_text("utf-8")


def test_letters_of_the_key(context, tmp_path: Path):
    run = write_judged_run(tmp_path / "runs", key_rows())
    folder = Path(write_label_sample(str(run), 60).folder.path)
    work = Labelling(context, folder)
    work.begin("ann")
    assert "哪个选项正确" in work.page.inner_text("#prompt")
    work.press("2")
    path = work.export(tmp_path, "key.csv")
    assert '"B","ann"' in path.read_text("utf-8-sig")
    assert work.problems == []
