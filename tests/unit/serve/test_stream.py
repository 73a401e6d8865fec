"""The split of a stream: that of an evaluation for every form of tags, however the text comes in chunks."""

import itertools
import json
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_r1.models.reasoning import split_reasoning
from safe_r1.models.thinking import ThinkingTags
from safe_r1.schema import Message
from safe_r1.serve.base import ChatReply, Generation, SamplingParams
from safe_r1.serve.stream import StreamSplitter, split_shown
from tests.unit.serve.fakes import CHAT, QUESTION, FakeModel, post

OWN = ThinkingTags("<|plan_start|>", "<|plan_end|>")
TEXTS = [
    "<think>\n先想一想。\n</think>\n\n不能这样做。",
    "没有思考，直接回答。",
    "<think>没有说完",
    "<think></think>\n\n好。",
    "  \n<think>a</think>b</thin",
    "</think>好。",
    "<think>它的标签是 `</think>`，记住了。</think>好。",
    "<think>a < b && c[1] \\frac{1}{2} <用户> </thinking-not></think>好 <b>。",
    "<",
    "",
]
# Opening and closing tag of every form as models write them.
FORMS = [
    ("<think>", "</think>"),
    ("<THINK>", "</Think >"),
    ("＜think＞", "＜/think＞"),
    ("&lt;think&gt;", "&lt;/think&gt;"),
    ("<thinking>", "</thinking>"),
    ("<|thought|>", "<|/thought|>"),
    ("◁think▷", "◁/think▷"),
    ("<seed:think>", "</seed:think>"),
    ("<思考>", "</思考>"),
    ("<reasoning>", "</reasoning>"),
    ("<reasoning>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    (
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
    ("analysis", "assistantfinal"),
    ("<|channel>thought\n", "<channel|>"),
    ("<unused94>thought\n", "<unused95>"),
    ("<|im_start|>think\n", "<|im_start|>answer\n"),
    ("Here is my thought process:", "\nHere is my response:"),
    (OWN.open, OWN.close),
]


def split(chunks: list[str], prefix: str = "", own: ThinkingTags | None = None) -> tuple[str, str]:
    splitter = StreamSplitter(own)
    parts = [splitter.feed(prefix), *(splitter.feed(chunk) for chunk in chunks), splitter.finish()]
    return "".join(part[0] for part in parts), "".join(part[1] for part in parts)


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS)
def test_the_split_does_not_depend_on_the_chunks(text: str):
    whole = split([text])
    assert split(list(text)) == whole
    for first, second in itertools.combinations(range(len(text) + 1), 2):
        assert split([text[:first], text[first:second], text[second:]]) == whole


@pytest.mark.parametrize("text", TEXTS)
def test_the_split_is_that_of_an_evaluation(text: str):
    reasoning, answer = split([text])
    wanted = split_reasoning(text)
    assert (reasoning.strip(), answer.strip()) == (wanted[0], wanted[1] or "")


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form[0].strip())
@pytest.mark.parametrize("is_opened_by_prompt", [False, True])
def test_every_form_of_tags_in_chunks_of_any_size(form: tuple[str, str], is_opened_by_prompt: bool):
    opening, closing = form
    own = OWN if opening == OWN.open else None
    rng = random.Random(opening + str(is_opened_by_prompt))
    pieces = ["想一想", "a < b", "\n\n", "The user asks.", "<b>", "`x`", "[1]", " & ", "\\n", "用户。"]
    for _ in range(40):
        thought = "Then 用户" + "".join(rng.choices(pieces, k=rng.randint(0, 6))) + "。"
        answer = "不行" + "".join(rng.choices(pieces, k=rng.randint(0, 4))) + "。"
        body = f"{thought}{closing}{answer}"
        text = body if is_opened_by_prompt else opening + body
        prefix = opening if is_opened_by_prompt else ""
        expected = split_reasoning(prefix + text, own)
        assert expected == (thought.strip(), answer.strip())
        chunks: list[str] = []
        rest = text
        while rest:
            size = rng.choice((1, 2, 3, 7, 40))
            chunks.append(rest[:size])
            rest = rest[size:]
        found = split(chunks, prefix, own)
        assert (found[0].strip(), found[1].strip()) == expected, chunks


def test_text_is_held_back_only_if_it_may_be_a_tag():
    splitter = StreamSplitter()
    assert splitter.feed("<think>a") == ("a", "")
    assert splitter.feed("b</th") == ("b", "")
    assert splitter.feed("ink>c") == ("", "c")
    assert splitter.feed("</think>") == ("", "</think>")


def test_a_tag_of_another_form_is_text():
    assert split(["<think>先 [/THINK] 想</think>好"]) == ("先 [/THINK] 想", "好")
    assert split(["[THINK]先 </think> 想[/THINK]好"]) == ("先 </think> 想", "好")
    # Of models with their own tags the known forms are known all the same.
    assert split(["<think>想</think>好"], own=OWN) == ("想", "好")


class ModelWithOwnTags(FakeModel):
    async def chat(self, *given: Any, **options: Any) -> ChatReply:
        return replace(await super().chat(*given, **options), prefix="", own_tags=OWN)

    async def generate(self, messages: list[Message], params: SamplingParams) -> Generation:
        return replace(await super().generate(messages, params), text=self.completion, own_tags=OWN)


def test_the_service_splits_by_the_models_own_tags_streaming_or_not():
    models = {"demo": ModelWithOwnTags(f"{OWN.open}\n先想 <think> 一想。{OWN.close}\n不行。")}
    wanted = ("先想 <think> 一想。", "不行。")
    message = post("/v1/chat/completions", CHAT, models=models).json()["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == wanted
    text = post("/v1/chat/completions", {**CHAT, "stream": True}, models=models).text
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ") and "[DONE]" not in line]
    deltas = [json.loads(line)["choices"][0]["delta"] for line in lines]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == wanted[0]
    assert "".join(delta.get("content", "") for delta in deltas) == wanted[1]
    body = {"items": [{"prompt": QUESTION}], "model": "demo"}
    [item] = post("/v1/safety/evaluate", body, models=models).json()["items"]
    assert (item["outcomes"][0]["reasoning"], item["outcomes"][0]["answer"]) == wanted


_PIECES = [
    "<think>",
    "</think>",
    "<reason>",
    "</reason>",
    "X",
    "他们",
    "\n",
    " ",
    "`</think>`",
    "<",
    "/",
    "`",
]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(_PIECES), max_size=10), st.data())
def test_any_text_in_any_chunks_is_split_as_the_whole_is(pieces: list[str], data: st.DataObject):
    text = "".join(pieces)
    places = data.draw(st.lists(st.integers(0, len(text)), max_size=6).map(sorted))
    chunks = [text[start:end] for start, end in itertools.pairwise([0, *places, len(text)])]
    streamed = split(chunks)
    assert streamed == split([text])
    # Thoughts that are never closed may be the answer of a whole reply alone.
    if answer := streamed[1].strip():
        assert split_shown(text) == (streamed[0].strip(), answer)
