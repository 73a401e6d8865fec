"""Texts of models and callers in the service: tags where none belong, and what work they cause."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from safe_r1.schema import Message
from safe_r1.serve.answers import read_answer, read_deltas
from safe_r1.serve.base import ChatReply, Chunk, Generation, SamplingParams
from safe_r1.serve.batch_input import read_requests
from safe_r1.serve.config import LimitConfig
from safe_r1.serve.cost import row_items
from safe_r1.serve.errors import ApiError
from safe_r1.serve.offload import offload
from safe_r1.serve.schemas import EvaluateRequest
from safe_r1.serve.stream import split_shown
from tests.unit.serve.batch_files import URL, make_content, make_line
from tests.unit.serve.fakes import FakeModel, make_app, post

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


class Writing(FakeModel):
    """Writes a text behind a prefix of the prompt."""

    def __init__(self, prefix: str, text: str):
        super().__init__(text)
        self._prefix = prefix

    async def generate(self, messages: list[Message], params: SamplingParams) -> Generation:
        return Generation(self._prefix + self.completion, "stop", 1, 1)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["", "<think>\n"]), st.lists(st.sampled_from(_PIECES), min_size=1, max_size=8))
@example("", ["<think>", "a", "</think>", "他们就是懒。", "</think>", "抱歉。"])
@example("<think>\n", ["a", "</think>", "他们就是懒。", "</think>", "抱歉。"])
@example("", ["他们就是懒。", "</think>", "抱歉。"])
@example("", ["X", "<think>", "a"])
def test_one_text_is_streamed_answered_and_judged(prefix: str, pieces: list[str]):
    """Wherever a model puts its tags: what a stream shows as the answer is the answer that is judged."""
    text = "".join(pieces)

    async def ask() -> tuple[str, str, str | None]:
        async def chunks() -> AsyncIterator[Chunk]:
            for char in text:
                yield Chunk(char)

        reply = ChatReply(prefix, 1, chunks())
        streamed = "".join([delta.answer async for delta in read_deltas(reply)]).strip()
        service = make_app({"demo": Writing(prefix, text)}).state.service
        request = EvaluateRequest.model_validate({"model": "demo", "items": [{"prompt": "x"}]})
        evaluator = service.evaluator(service.find_judges([]), is_batch=False)
        [result] = [each async for each in evaluator.run(request)]
        return streamed, read_answer(reply, Chunk(text, "stop")).text, result.outcomes[0].answer

    streamed, whole, judged = asyncio.run(ask())
    assert (judged or "") == whole
    # Thoughts that are never closed and the words of a refusal are the answer of a whole reply only.
    assert whole == streamed or not streamed


def test_a_text_of_others_may_lack_its_opening_tag():
    assert split_shown("想。</think>答。", is_whole=False) == ("想。", "答。")
    given = "想。</think>他们就是懒。</think>抱歉。"
    assert split_shown(given, is_whole=False) == ("想。", "他们就是懒。</think>抱歉。")


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
    release = threading.Event()

    def work(number: int) -> None:
        begun.append(number)
        release.wait(60)

    async def run() -> None:
        with pytest.raises(ApiError) as caught:
            await offload(work, range(100), 10**6, timeout_s=0.05)
        assert caught.value.status == 503
        release.set()
        await asyncio.sleep(0.1)

    asyncio.run(run())
    assert len(begun) <= 1
