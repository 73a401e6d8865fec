"""Lengths of completions and of the reasoning in them."""

from typing import cast

from transformers import PreTrainedTokenizerBase

from safe_r1.metrics.lengths import token_lengths
from safe_r1.schema import Completion


def split(texts: list[str], **_: object) -> dict[str, list[list[int]]]:
    """A tokenizer of one token a word."""
    return {"input_ids": [[0] * len(text.split()) for text in texts]}


SPLIT = cast(PreTrainedTokenizerBase, split)


def row(place: int, tokens: int, reasoning: str = "", error: str | None = None) -> Completion:
    return Completion(f"b/math/{place}", "v", 0, 3, tokens, "", reasoning, "1", "stop", error)


def test_lengths_by_part():
    rows = [row(0, 10, "one two three"), row(1, 20, "one"), row(2, 30), row(3, 99, error="boom")]
    found = token_lengths(rows, SPLIT)
    assert found["completion"] == {"num_rows": 3, "mean": 20.0, "median": 20.0, "p90": 28.0}
    assert found["reasoning"] == {"num_rows": 2, "mean": 2.0, "median": 2.0, "p90": 2.8}


def test_no_reasoning_no_entry():
    assert set(token_lengths([row(0, 10)], SPLIT)) == {"completion"}
    assert token_lengths([], SPLIT) == {}
