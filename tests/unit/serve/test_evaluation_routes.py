"""``/v1/safety/evaluate``: judges and policies by name, parts once, progress, tables, tokens and cost."""

import asyncio
import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from openpyxl import load_workbook

from safe_r1.config import GenerationConfig
from safe_r1.judge.base import JudgeItem, Judgement
from safe_r1.models.registry import get_variant
from safe_r1.schema import Message, RefusalLabel
from safe_r1.serve.base import Generation, SamplingParams
from safe_r1.serve.config import ServeConfig
from safe_r1.serve.errors import ApiError
from safe_r1.serve.remote import RemoteModel
from safe_r1.serve.routes import create_app
from safe_r1.serve.service import Service
from tests.unit.serve.fakes import (
    COMPLETION,
    QUESTION,
    FakeJudge,
    FakeModel,
    RecordingTelemetry,
    nothing_missing,
)

PATH = "/v1/safety/evaluate"
ITEMS: list[dict[str, Any]] = [
    {"id": "a", "prompt": QUESTION, "answer": "他们就是懒，活该受穷。"},
    {"prompt": QUESTION},
]
SHEET = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


class Harsh(FakeJudge):
    """Calls everything harmful."""

    judge_name = "harsh@00000000"

    async def judge(self, items: Sequence[JudgeItem], *, retry: bool = True) -> list[Judgement]:
        self.calls += len(items)
        return [Judgement(RefusalLabel.HARMFUL, confidence=0.9) for _ in items]


def ask(
    body: dict[str, Any],
    headers: dict[str, str] | None = None,
    models: dict[str, Any] | None = None,
    judges: dict[str, Any] | None = None,
    path: str = PATH,
    **settings: Any,
) -> httpx.Response:
    settings.setdefault("first_answer_timeout_s", 0.3)
    service = Service(
        ServeConfig(policies={"own": "prompt.txt"}, **settings),
        models or {"demo": FakeModel()},
        FakeJudge(),
        nothing_missing,
        RecordingTelemetry(),
        judges={"harsh": Harsh(), "own": Harsh()} if judges is None else judges,
    )

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(service), client=("127.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            if not body:
                return await http.get(path)
            return await http.post(path, json=body, headers=headers)

    return asyncio.run(send())


def test_several_judges_judge_each_part_once():
    harsh = Harsh()
    parts = ["answer", "reasoning", "answer"]
    body = {"items": ITEMS, "model": "demo", "parts": parts, "judges": ["lexicon", "harsh", "harsh"]}
    reply = ask(body, judges={"harsh": harsh}).json()
    # Two answers and one reasoning.
    assert harsh.calls == 3
    first = reply["items"][0]["outcomes"][0]
    assert first["verdicts"]["answer"]["judge"] == "lexicon"
    assert first["further_verdicts"]["harsh@00000000"]["answer"]["degree"] == 0
    found = {(row["model"], row["part"], row["judge"]): row for row in reply["summary"]}
    assert len(found) == len(reply["summary"]) == 8
    assert found["demo", "answer", "harsh@00000000"]["rates"]["harm_rate"]["value"] == 1
    assert found["demo", "answer", "lexicon"]["rates"]["harm_rate"]["value"] == 0
    assert found[None, "reasoning", "harsh@00000000"]["num_absent"] == 1


def test_a_judge_that_is_down_costs_no_other_verdict():
    down = Harsh(ApiError(503, "judge_unavailable", "down"))

    async def judge(items: Sequence[JudgeItem], *, retry: bool = True) -> list[Judgement]:
        raise ApiError(503, "judge_unavailable", "down")

    down.judge = judge
    reply = ask({"items": ITEMS[:1], "judges": ["lexicon", "harsh"]}, judges={"harsh": down}).json()
    [outcome] = reply["items"][0]["outcomes"]
    assert outcome["verdicts"]["answer"]["label"]
    reason = outcome["further_verdicts"]["harsh@00000000"]["answer"]["unscored_reason"]
    assert reason == "judge_unavailable"


def test_a_policy_by_name():
    reply = ask({"items": ITEMS[:1], "policy": "own"}).json()
    assert reply["judge"] == "harsh@00000000"
    listed = ask({}, path="/v1/safety/judges").json()["data"]
    assert [(each["id"], each["policy"]) for each in listed] == [
        ("lexicon", False),
        ("harsh", False),
        ("own", True),
    ]
    for body in ({"policy": "harsh"}, {"policy": "x"}, {"judges": ["x"]}):
        refused = ask({"items": ITEMS[:1]} | body)
        assert refused.status_code == 404
        assert "available" in refused.json()["error"]["message"]


def test_each_judge_counts_as_an_item():
    limits = {"items_per_minute": 3}
    assert ask({"items": ITEMS[:1], "judges": ["lexicon", "harsh"]}, limits=limits).status_code == 200
    refused = ask({"items": ITEMS, "judges": ["lexicon", "harsh"]}, limits=limits)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "too_many_items")


def test_tokens_and_cost():
    remote = RemoteModel(get_variant("endpoint:http://127.0.0.1:9/v1#r1"), GenerationConfig())
    remote._entry = remote._entry.model_copy(update={"input_price": 2.0, "output_price": 8.0})

    async def generate(messages: list[Message], params: SamplingParams) -> Generation:
        return Generation(COMPLETION, "stop", 500_000, 250_000)

    remote.generate = generate
    body = {"items": [{"prompt": QUESTION}] * 2, "compare": ["demo", "paid"]}
    reply = ask(body, models={"demo": FakeModel(), "paid": remote}).json()
    local, paid = reply["usage"]
    assert local == {
        "model": "demo",
        "num_answers": 2,
        "prompt_tokens": 2 * len(QUESTION),
        "completion_tokens": 2 * len(COMPLETION),
        "cost": None,
    }
    # 1,000,000 tokens at 2 a million, 500,000 at 8.
    assert (paid["prompt_tokens"], paid["completion_tokens"], paid["cost"]) == (1_000_000, 500_000, 6.0)


@pytest.mark.parametrize("kind", ["text/csv", SHEET])
def test_a_result_as_a_table(kind: str):
    items = [{"id": "=1+1", "prompt": "@SUM(A1)", "answer": "=HYPERLINK(1)\n第二行"}, {"prompt": QUESTION}, 3]
    body = {"items": items, "model": "demo", "judges": ["lexicon", "harsh"]}
    reply = ask(body, {"Accept": f"{kind}, application/json;q=0.5"})
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].partition(";")[0] == kind
    if kind == SHEET:
        sheet: Any = load_workbook(io.BytesIO(reply.content))["results"]
        assert all(cell.data_type != "f" for row in sheet.iter_rows() for cell in row)
        head, *lines = [list(row) for row in sheet.iter_rows(values_only=True)]
    else:
        head, *lines = list(csv.reader(io.StringIO(reply.content.decode("utf-8-sig"))))
    rows = [dict(zip(head, line, strict=True)) for line in lines]
    assert [str(row["index"]) for row in rows] == ["0", "0", "1", "1", "2", "2"]
    assert [row["judge"] for row in rows[:2]] == ["lexicon", "harsh@00000000"]
    mark = "" if kind == SHEET else "'"
    assert (rows[0]["id"], rows[0]["question"]) == (f"{mark}=1+1", f"{mark}@SUM(A1)")
    assert rows[0]["answer"] == f"{mark}=HYPERLINK(1)\n第二行"
    assert (str(rows[3]["answer_degree"]), str(rows[3]["answer_confidence"])) == ("0", "0.9")
    assert rows[4]["error"].startswith("invalid_item")


def test_a_table_is_no_stream():
    reply = ask({"items": ITEMS[:1], "stream": True}, {"Accept": "text/csv"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "stream")
    assert ask({"items": ITEMS[:1]}, {"Accept": "application/json, text/csv"}).json()["items"]


def events(text: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for block in text.strip().split("\n\n"):
        lines = block.split("\n")
        if len(lines) == 2:
            found.append((lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: "))))
    return found


def test_progress_is_told_when_it_is_asked_for():
    body = {"items": ITEMS, "model": "demo", "stream": True}
    assert "progress" not in [name for name, _ in events(ask(body).text)]
    found = events(ask(body | {"progress": True}).text)
    assert [name for name, _ in found if name != "progress"] == ["item", "item", "summary"]
    told = [data for name, data in found if name == "progress"]
    assert (told[0]["num_finished"], told[-1]["num_finished"], told[-1]["num_items"]) == (0, 2, 2)
    assert found[-1][1]["usage"][0]["model"] == "demo"
    assert ask({"items": ITEMS, "progress": True}).status_code == 400


def test_a_rejected_request_has_its_status_with_progress_too():
    items = {"items": ITEMS[1:], "model": "demo", "stream": True, "progress": True}

    class Slow(FakeModel):
        async def generate(self, messages: list[Message], params: SamplingParams) -> Generation:
            await asyncio.sleep(0.3)
            return await super().generate(messages, params)

    models: Any = {"demo": Slow()}
    config = ServeConfig(max_pending_items=1)
    service = Service(config, models, FakeJudge(), nothing_missing, RecordingTelemetry())

    async def both() -> list[int]:
        transport = httpx.ASGITransport(create_app(service), client=("127.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            replies = await asyncio.gather(*(http.post(PATH, json=items) for _ in range(2)))
        return sorted(reply.status_code for reply in replies)

    assert asyncio.run(both()) == [200, 429]


@pytest.mark.slow
def test_progress_is_told_while_nothing_is_finished():
    class Slow(FakeModel):
        async def generate(self, messages: list[Message], params: SamplingParams) -> Generation:
            await asyncio.sleep(2.2)
            return await super().generate(messages, params)

    body = {"items": ITEMS[1:], "model": "demo", "stream": True, "progress": True}
    found = events(ask(body, models={"demo": Slow()}, first_answer_timeout_s=60).text)
    names = [name for name, _ in found]
    assert names[:3] == ["progress"] * 3
    assert names[3:] == ["item", "progress", "summary"]
