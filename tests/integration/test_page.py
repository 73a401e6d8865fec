"""The service's page in a real browser, over fake models: streamed answers, files, history, hostile texts."""

import asyncio
import csv
import io
import json
import shutil
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from openpyxl import Workbook

from safe_r1.judge.base import JudgeItem, Judgement
from safe_r1.schema import RefusalLabel
from safe_r1.serve.base import Chunk
from safe_r1.serve.config import ServeConfig
from safe_r1.serve.routes import create_app
from safe_r1.serve.service import Service
from tests.unit.serve.fakes import FakeJudge, FakeModel, RecordingTelemetry, nothing_missing

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: uv pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium"),
]
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"
THOUGHTS = "用户问的是一种偏见，需要说明。"
ANSWER = f"这种说法是偏见，我不能认同。{HOSTILE}"


class Writing(FakeModel):
    """Writes its answer in pieces, and waits before the second half of it."""

    def __init__(self) -> None:
        super().__init__(f"{THOUGHTS}\n</think>\n\n{ANSWER}")
        self.go_on = threading.Event()
        self.context = 100_000

    async def complete(self, *arguments: Any, stream: bool = False, **options: Any) -> AsyncIterator[Chunk]:
        num_chars = 0
        async for chunk in super().complete(*arguments, stream=stream, **options):
            num_chars += len(chunk.text)
            while stream and num_chars > len(self.completion) // 2 and not self.go_on.is_set():
                await asyncio.sleep(0.01)
            yield chunk


class Sure(FakeJudge):
    """Is 87% sure that everything refuses."""

    judge_name = "sure@00000000"

    async def judge(self, items: Sequence[JudgeItem], *, retry: bool = True) -> list[Judgement]:
        return [Judgement(RefusalLabel.REFUSAL, confidence=0.87) for _ in items]


@pytest.fixture(scope="module")
def model() -> Writing:
    return Writing()


@pytest.fixture(scope="module")
def url(model: Writing) -> Iterator[str]:
    models: Any = {"demo": model, "a-model-with-a-rather-long-name-of-its-own": FakeModel()}
    service = Service(
        ServeConfig(),
        models,
        FakeJudge(),
        nothing_missing,
        RecordingTelemetry(),
        judges={"sure": Sure()},
    )
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(create_app(service), log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(params=[390, 1280])
def page(request: pytest.FixtureRequest, browser: Any, url: str) -> Iterator[Any]:
    """The page at phone and desk width; anything that goes wrong in it fails the test."""
    opened = browser.new_page(viewport={"width": request.param, "height": 844}, accept_downloads=True)
    opened.set_default_timeout(60_000)
    problems: list[str] = []
    opened.on("console", lambda message: problems.append(message.text))
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
    opened.on(
        "request", lambda sent: None if sent.url.startswith((url, "blob:")) else problems.append(sent.url)
    )
    opened.goto(url)
    opened.wait_for_selector("#first option:text-is('demo')", state="attached")
    yield opened
    assert opened.evaluate("document.documentElement.scrollWidth") <= request.param
    assert not problems
    opened.close()


def test_an_answer_is_shown_while_it_is_written(page: Any, model: Writing, tmp_path: Path):
    model.go_on.clear()
    page.fill(".turn textarea", "为什么女司机开车就是不如男人？")
    page.select_option("#second", index=2)
    page.select_option("#judge", "sure")
    page.click("#go")
    page.wait_for_selector(f"#results .reasoning:has-text('{THOUGHTS[:6]}')")
    first = "#results .card:first-child"
    assert page.locator(f"{first} .verdict").count() == 0
    model.go_on.set()
    page.wait_for_selector(f"{first} .verdict")
    assert HOSTILE in page.inner_text(f"{first} .answer")
    assert page.inner_text(f"{first} .reasoning") == THOUGHTS
    assert "87%" in page.inner_text(f"{first} .confidence >> nth=0")
    assert "类别" in page.inner_text(f"{first} .category")
    assert page.locator("#results .card").count() == 2
    page.screenshot(path=str(tmp_path / "single.png"), full_page=True)
    page.click("[data-tab=history]")
    page.click("#past summary")
    assert HOSTILE in page.inner_text("#past .answer >> nth=0")
    assert "key" not in page.evaluate("Object.values(localStorage).join()")
    page.reload()
    page.click("[data-tab=history]")
    assert page.locator("#past details").count() == 1
    page.click("#clear")
    assert page.locator("#past details").count() == 0


def make_file(kind: str) -> tuple[str, bytes]:
    head = ["问题", "回答", "id"]
    rows = [
        [f"问题{number}？{HOSTILE}", f'=1+{number},"引号"\n第二行', f"={number}"] for number in range(130)
    ]
    if kind == "xlsx":
        book = Workbook()
        sheet: Any = book.active
        for row in [head, *rows]:
            sheet.append(row)
            for cell in sheet[sheet.max_row]:
                cell.data_type = "s"
        file = io.BytesIO()
        book.save(file)
        return "in.xlsx", file.getvalue()
    if kind == "csv":
        text = io.StringIO()
        csv.writer(text).writerows([head, *rows])
        return "in.csv", text.getvalue().encode("gb18030")
    lines = [
        {
            "id": id_,
            "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        }
        for question, answer, id_ in rows
    ]
    return "in.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()


@pytest.mark.parametrize("kind", ["jsonl", "csv", "xlsx"])
def test_a_file_is_judged_and_its_table_downloaded(page: Any, kind: str, tmp_path: Path):
    name, content = make_file(kind)
    page.click("[data-tab=batch]")
    page.set_input_files("#file", {"name": name, "mimeType": "", "buffer": content})
    page.wait_for_selector("#batch-state:has-text('130 行')")
    page.click("#run")
    page.wait_for_selector("#table tr:nth-child(131)", state="attached")
    page.wait_for_selector("#cancel", state="hidden")
    assert HOSTILE in page.inner_text("#table td.long >> nth=0")
    with page.expect_download() as saved:
        page.click("#save-csv")
    text = Path(saved.value.path()).read_text("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert len(rows) == 130
    assert (rows[7]["id"], rows[7]["answer"]) == ("'=7", '\'=1+7,"引号"\n第二行')
    assert rows[7]["question"] == f"问题7？{HOSTILE}"
    assert rows[7]["label"]
    with page.expect_download() as saved:
        page.click("#save-jsonl")
    lines = Path(saved.value.path()).read_text("utf-8").split("\n")
    assert json.loads(lines[7])["answer"] == '=1+7,"引号"\n第二行'
    page.screenshot(path=str(tmp_path / "batch.png"), full_page=True)


def test_a_file_that_is_none_of_these_is_refused_in_a_line(page: Any):
    page.click("[data-tab=batch]")
    for name, content, message in (
        ("in.xlsx", b"nothing", "不是 XLSX 文件"),
        ("in.jsonl", b"{", "第 1 行不是 JSON"),
        ("in.pdf", b"", "只读"),
    ):
        page.set_input_files("#file", {"name": name, "mimeType": "", "buffer": content})
        page.wait_for_selector(f"#batch-state:has-text('{message}')")
        assert page.is_disabled("#run")


def test_the_page_asks_for_nothing_but_itself(url: str, browser: Any):
    page = browser.new_page()
    requested: list[str] = []
    page.on("request", lambda sent: requested.append(sent.url.removeprefix(url)))
    page.goto(url)
    page.wait_for_selector("#judge option", state="attached")
    time.sleep(0.2)
    assert set(requested) <= {"/", "/v1/models", "/v1/safety/judges", "/favicon.ico"}
    page.close()
