import itertools

import pytest

from safe_r1.models.reasoning import split_reasoning
from safe_r1.serve.stream import StreamSplitter

TEXTS = [
    "<think>\n先想一想。\n</think>\n\n不能这样做。",
    "先想一想。</think>不能这样做。",
    "没有思考，直接回答。",
    "<think>没有说完",
    "回答里提到 <think> 这个词。",
    "<think></think>\n\n好。",
    "  \n<think>a</think>b</thin",
    "<",
    "",
]


def split(text: str, chunks: list[str], *, is_reasoning: bool) -> tuple[str, str]:
    splitter = StreamSplitter(is_reasoning)
    parts = [splitter.feed(chunk) for chunk in chunks] + [splitter.finish()]
    assert "".join(chunks) == text
    return "".join(part[0] for part in parts), "".join(part[1] for part in parts)


@pytest.mark.parametrize("text", TEXTS)
def test_the_split_does_not_depend_on_the_chunks(text: str):
    opened = "</think>" in text and "<think>" not in text
    whole = split(text, [text], is_reasoning=opened)
    assert split(text, list(text), is_reasoning=opened) == whole
    for first, second in itertools.combinations(range(len(text) + 1), 2):
        chunks = [text[:first], text[first:second], text[second:]]
        assert split(text, chunks, is_reasoning=opened) == whole


@pytest.mark.parametrize("text", TEXTS)
def test_the_split_is_that_of_an_evaluation(text: str):
    if text.startswith("回答里"):
        pytest.skip("a mention of the tag can be told from a tag only in the whole text")
    opened = "</think>" in text and "<think>" not in text
    reasoning, answer = split(text, [text], is_reasoning=opened)
    wanted = split_reasoning(("<think>\n" if opened else "") + text)
    assert (reasoning.strip(), answer.strip()) == (wanted[0], wanted[1] or "")


def test_text_is_held_back_only_if_it_may_be_a_tag():
    splitter = StreamSplitter()
    assert splitter.feed("<think>a") == ("a", "")
    assert splitter.feed("b</th") == ("b", "")
    assert splitter.feed("ink>c") == ("", "c")
    assert splitter.feed("</think>") == ("", "</think>")
