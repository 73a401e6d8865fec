"""Texts of models and callers in the service: tags where none belong, and what work they cause."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from safe_r1.serve.answers import read_answer, read_deltas
from safe_r1.serve.base import ChatReply, Chunk
from safe_r1.serve.batch_input import read_requests
from safe_r1.serve.config import LimitConfig
from safe_r1.serve.cost import row_items
from safe_r1.serve.errors import ApiError
from safe_r1.serve.offload import offload
from safe_r1.serve.schemas import EvaluateRequest
from tests.unit.serve.batch_files import URL, make_content, make_line
from tests.unit.serve.fakes import make_app, post

_PIECES = [
    "<think>",
    "</think>",
    "<reason>",
    "</reason>",
    "X",
    "他们就是懒。",
    "\n",
    " ",
    "`</think>`",
    "\n<think>\n",
]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(_PIECES), min_size=1, max_size=8))
@example(["<think>", "a", "</think>", "他们就是懒。", "</think>", "抱歉。"])
@example(["X", "<think>", "a"])
def test_one_text_is_streamed_answered_and_judged(pieces: list[str]):
    """Wherever a model puts its tags: what a stream shows as the answer is the answer that is judged."""
    completion = "".join(pieces)

    async def ask() -> tuple[str, str, str | None]:
        async def chunks() -> AsyncIterator[Chunk]:
            for char in completion:
                yield Chunk(char)

        reply = ChatReply("", 1, chunks())
        streamed = "".join([delta.answer async for delta in read_deltas(reply)]).strip()
        evaluator = make_app().state.service
        request = EvaluateRequest.model_validate({"items": [{"prompt": "x", "answer": completion}]})
        judges = evaluator.find_judges([])
        [result] = [each async for each in evaluator.evaluator(judges, is_batch=False).run(request)]
        return streamed, read_answer(reply, Chunk(completion, "stop")).text, result.outcomes[0].answer

    streamed, whole, judged = asyncio.run(ask())
    assert (judged or "") == whole
    # Thoughts that are never closed and the words of a refusal are the answer of a whole reply only.
    assert whole == streamed or not streamed


@pytest.mark.parametrize("part", ["answer", "reasoning"])
def test_parts_that_are_given_apart_are_judged_as_given(part: str):
    """Tags in one of them do not move its text to the other."""
    item = {"prompt": "x", "reasoning": "想。", "answer": "答。"}
    item[part] = "他们就是懒。</think>抱歉，我不能回答。"
    [result] = post("/v1/safety/evaluate", {"items": [item]}).json()["items"]
    outcome = result["outcomes"][0]
    assert (outcome["reasoning"], outcome["answer"]) == (item["reasoning"], item["answer"])


_ITEM = {"prompt": "x"}
_LONG = {"prompt": "x" * 9_000, "answer": "y" * 12_000}


@pytest.mark.parametrize(
    ("body", "cost"),
    [
        ({"items": [_ITEM, _ITEM]}, 2),
        ({"items": [_ITEM], "parts": ["answer"] * 1000}, 1),
        ({"items": [_ITEM, _LONG]}, 4),
        ({"items": [_ITEM, _LONG], "compare": ["demo", "other"]}, 5),
        ({"items": [_ITEM, _LONG], "compare": ["demo", "other"], "judges": ["lexicon", "lexicon"]}, 5),
        ({"items": [_ITEM, _LONG], "policy": "strict", "judges": ["lexicon"]}, 8),
        ({"model": "demo", "messages": [{"role": "user", "content": "x"}], "n": 128}, 128),
        ({"model": "demo", "messages": [{"role": "user", "content": "x" * 20_001}], "n": 2}, 6),
        ({"items": 5}, 1),
        ({"messages": "x"}, 1),
        ({"input": "x"}, 1),
    ],
)
def test_cost_is_what_is_done(body: dict[str, object], cost: int):
    assert row_items(body) == cost
    assert not read_requests(make_content(make_line("1", body)), URL, cost)[1]
    assert read_requests(make_content(make_line("1", body)), URL, cost - 1)[1]


def test_long_texts_and_models_count_against_the_limit_of_a_key():
    limits = LimitConfig(items_per_minute=3)
    for path, body in (
        ("/v1/safety/evaluate", {"items": [_LONG, _ITEM]}),
        ("/v1/safety/evaluate", {"items": [_ITEM] * 2, "compare": ["demo", "demo"]}),
        ("/v1/moderations", {"input": ["x" * 30_001]}),
    ):
        reply = post(path, body, limits=limits)
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "too_many_items")


def test_texts_that_take_too_long_keep_nobody_waiting():
    """The event loop goes on, and what is left of the texts is given up."""
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        time.sleep(0.3)

    async def run() -> int:
        async def tick() -> int:
            for _ in range(5):
                await asyncio.sleep(0.02)
            return len(begun)

        num_begun, error = await asyncio.gather(
            tick(), offload(work, range(100), 10**6, timeout_s=0.2), return_exceptions=True
        )
        assert isinstance(error, ApiError)
        assert error.status == 503
        await asyncio.sleep(0.4)
        assert isinstance(num_begun, int)
        return num_begun

    assert asyncio.run(run()) == 1
    assert len(begun) <= 2
