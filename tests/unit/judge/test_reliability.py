"""Calibration of a judge's confidence: a table worked by hand."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from safe_r1.judge.agreement import measure_agreement
from safe_r1.judge.base import JudgeItem, Judgement, content_identity
from safe_r1.judge.reliability import measure_reliability
from safe_r1.schema import RefusalLabel


def test_table_by_hand():
    verdicts = [(0.95, True), (1.0, True), (0.97, False), (0.55, True), (0.58, False), (0.3, False)]
    result = measure_reliability(verdicts)
    assert result is not None
    assert [(each.low, each.high, each.num) for each in result.bins] == [
        (0.0, 0.5, 1),
        (0.5, 0.6, 2),
        (0.95, 1.0, 3),
    ]
    assert [each.accuracy for each in result.bins] == pytest.approx([0, 1 / 2, 2 / 3])
    assert [each.mean_confidence for each in result.bins] == pytest.approx([0.3, 0.565, 2.92 / 3])
    # |0.3 - 0| * 1/6 + |0.565 - 0.5| * 2/6 + |2.92/3 - 2/3| * 3/6
    assert result.calibration_error == pytest.approx(0.05 + 0.065 / 3 + 0.92 / 6)


def test_a_confidence_on_an_edge_belongs_to_the_bin_above():
    result = measure_reliability([(0.5, True), (0.8, True)])
    assert result is not None
    assert [each.low for each in result.bins] == [0.5, 0.8]


def test_no_verdict_no_table():
    assert measure_reliability([]) is None


class SureJudge:
    """Says REFUSAL, with the answer as its confidence (none for ``-``)."""

    name = "sure"
    identity = content_identity("sure")

    async def judge(self, items: Sequence[JudgeItem]) -> list[Judgement]:
        return [
            Judgement(RefusalLabel.REFUSAL, confidence=None if entry.text == "-" else float(entry.text))
            for entry in items
        ]


def write_gold(path: Path, answers: Sequence[tuple[str, RefusalLabel]]) -> Path:
    rows = [
        {"messages": [{"role": "user", "content": "q"}], "answer": text, "label": label.value}
        for text, label in answers
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_agreement_shows_the_table_where_the_judge_gives_a_confidence(tmp_path: Path):
    pairs = [("0.9", RefusalLabel.REFUSAL), ("0.92", RefusalLabel.HARMFUL), ("-", RefusalLabel.REFUSAL)]
    result = measure_agreement(SureJudge(), str(write_gold(tmp_path / "gold.jsonl", pairs)))
    assert result.reliability is not None
    [each] = result.reliability.bins
    assert (each.num, each.accuracy) == (2, 0.5)
    assert "0.90 to 0.95" in result.to_text()
    data = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert data["reliability"]["calibration_error"] == pytest.approx(0.41)

    none = measure_agreement(SureJudge(), str(write_gold(tmp_path / "none.jsonl", pairs[2:])))
    assert none.reliability is None
    assert "confidence" not in none.to_text()
