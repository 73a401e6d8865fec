"""Answers that stand in the file of the questions: copied once, as they are."""

from pathlib import Path
from typing import Any

import pytest

from safe_r1.config import EvaluateConfig
from safe_r1.errors import ConfigError
from safe_r1.evaluation.given_target import _CopyAnswers
from safe_r1.evaluation.plan import make_plan
from safe_r1.evaluation.results import BenchmarkRow, ReadCompletion, RequestKey
from safe_r1.inference.requests import ListedRequests, Request
from safe_r1.schema import Completion


def copied(*requests: Request) -> tuple[list[Completion], int]:
    rows: list[BenchmarkRow[Completion]] = []
    counts = _CopyAnswers(ReadCompletion("v"), rows.extend)(ListedRequests(requests))
    assert counts.rows == len(requests)
    return [each.row for each in rows], counts.failed


def request(given: str | None, reasoning: str = "") -> Request:
    key = RequestKey("b", "b/refusal/1", "refusal", 0).to_text()
    return Request(key, [], 8, 0, given=given, given_reasoning=reasoning)


@pytest.mark.parametrize(
    ("given", "reasoning", "expected"),
    [
        ("不能。", "", ("不能。", "", "不能。")),
        ("<think>想</think>不能。", "", ("<think>想</think>不能。", "想", "不能。")),
        ("不能。", "想", ("<think>\n想\n</think>\n\n不能。", "想", "不能。")),
        ("<think>想", "", ("<think>想", "想", None)),
        ("", "", ("", "", "")),
    ],
)
def test_an_answer_is_copied(given: str, reasoning: str, expected: tuple[str, str, str | None]):
    [row], failed = copied(request(given, reasoning))
    assert (row.completion, row.reasoning, row.answer) == expected
    assert (failed, row.error, row.finish_reason) == (0, None, "stop")


def test_no_answer_is_not_an_empty_one():
    # Such as a dialogue that ends with the user, in a file whose other dialogues end with the model.
    rows, failed = copied(request("好"), request(None))
    assert failed == 1
    assert [(row.answer, row.error) for row in rows] == [
        ("好", None),
        (None, "the file has no answer to this question"),
    ]


@pytest.mark.parametrize(
    ("settings", "flag"), [({"repeats": 3}, "--repeats"), ({"swap_options": True}, "--swap-options")]
)
def test_one_answer_is_not_counted_as_several(tmp_path: Path, settings: dict[str, Any], flag: str):
    config = EvaluateConfig(variant="given", benchmarks=(str(tmp_path / "q.jsonl"),), **settings)
    with pytest.raises(ConfigError, match=f"^{flag}: a file has one given answer"):
        make_plan(config)
