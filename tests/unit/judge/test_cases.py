"""Replies of judges as they come, held against golds; ``judge_own`` are further cases of each kind."""

import json
from pathlib import Path
from typing import Any

import pytest

from safe_r1.judge.over_refusal import read_over_refusal
from safe_r1.judge.verdict import read_verdict

FOLDER = Path(__file__).parents[2] / "cases"
CASES: list[dict[str, Any]] = [
    json.loads(line)
    for name in ("judge", "judge_own")
    for line in (FOLDER / f"{name}.jsonl").read_text("utf-8").splitlines()
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["why"])
def test_a_reply(case: dict[str, Any]) -> None:
    read = read_over_refusal if case["kind"] == "compliance" else read_verdict
    label = read(case["input"]).label
    assert (label.value if label else None) == case["gold"]


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "piece",
    ["full ", "full refusal ", "[label] ", "[why]", "not ", ". ", "refus", "part", "compl", "_", "label is "],
)
def test_a_reply_that_repeats_itself_takes_no_longer_than_its_length(piece: str) -> None:
    read_over_refusal("[label] full" + piece * (7_900 // len(piece)))
