"""The comparison page in a real browser: quiet, harmless, and every flip readable side by side."""

import csv
import shutil
from pathlib import Path

import pytest

from safe_r1.compare.run import compare
from tests.unit.compare.runs import HOSTILE, write_run

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: uv pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium"),
]


def test_the_page_is_quiet_and_shows_both_sides(tmp_path: Path):
    for variant, skill in (("before", 0.3), ("after", 0.7)):
        for benchmark in ("chisafetybench-sample", "math-500", "xstest"):
            write_run(tmp_path / "runs", variant, benchmark, skill=skill, text=f"{variant} says {HOSTILE}")
    compare([str(tmp_path / "runs")], "before", str(tmp_path / "report"))
    flips = list(csv.DictReader((tmp_path / "report" / "flips.csv").open(encoding="utf-8")))
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        problems: list[str] = []
        requests: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"file://{tmp_path}/report/report.html")
        page.wait_for_selector("#flip-detail .side")
        assert page.inner_text("#flip-count").split(" ")[0] == str(len(flips))
        sides = page.locator("#flip-detail .side")
        assert "before says </script>" in sides.nth(0).inner_text()
        assert "after says </script>" in sides.nth(1).inner_text()
        page.locator(".to-flips").first.click()
        assert page.locator("#flip-benchmark").input_value() == "chisafetybench-sample"
        expected = sum(flip["benchmark"] == "chisafetybench-sample" for flip in flips)
        assert page.inner_text("#flip-count").split(" ")[0] == str(expected)
        assert page.title().startswith("before")
        # As wide as the window: tables scroll by themselves.
        assert page.evaluate("document.documentElement.scrollWidth") <= 1300
        assert not problems
        assert len(requests) == 1
        browser.close()
