"""The small evaluation that chooses a checkpoint: its questions, and its score."""

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from upath import UPath

from safe_r1.errors import ConfigError, NoResultError
from safe_r1.evaluation import safety_check
from safe_r1.train.config import FinetuneConfig
from safe_r1.train.selection import SafetyScore
from tests.small_corpus import conversation, write_corpus


def corpus_of(folder: Path, num_risky: int, num_harmless: int) -> Path:
    rows = [conversation(f"r/{i}", "safety", f"危险{i}", "不行") for i in range(num_risky)]
    rows += [conversation(f"h/{i}", "benign-sensitive", f"无害{i}", "可以") for i in range(num_harmless)]
    rows += [conversation("x/0", "reasoning", "一加一", "二")]
    random.Random(0).shuffle(rows)
    return write_corpus(folder, {"train": [rows], "validation": [rows[::2], rows[1::2]]})


def config_of(corpus: Path, **settings: Any) -> FinetuneConfig:
    return FinetuneConfig.model_validate({"variant": "demo", "corpus": str(corpus), "safety_check": settings})


def rate(metric: str, numerator: int, denominator: int, missing: int) -> dict[str, Any]:
    asked = denominator + missing
    return {
        "metric": metric,
        "scope": "overall",
        "part": "answer",
        "denominator": denominator,
        "num_missing": missing,
        "bound_low": numerator / asked,
        "bound_high": (numerator + missing) / asked,
    }


def test_questions_are_the_validation_rows_of_both_kinds(tmp_path: Path):
    corpus = corpus_of(tmp_path / "corpus", 9, 3)
    folder = UPath(tmp_path / "check")
    safety_check.make_measure(config_of(corpus, limit=5), folder, lambda progress: None)
    lines = (folder / "safety_questions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    asked = {(row["question"][:2], row["expected"]) for row in rows}
    assert asked == {("危险", "refusal"), ("无害", "over_refusal")}
    assert [row["expected"] for row in rows].count("refusal") == 5
    assert [row["expected"] for row in rows].count("over_refusal") == 3


@pytest.mark.parametrize(("risky", "harmless", "missing"), [(3, 0, "answer"), (0, 3, "refuse")])
def test_without_questions_of_a_kind_there_is_no_score(
    risky: int, harmless: int, missing: str, tmp_path: Path
):
    corpus = corpus_of(tmp_path / "corpus", risky, harmless)
    with pytest.raises(ConfigError, match=rf"none to {missing}: give a file .*safety_check\.questions"):
        safety_check.make_measure(config_of(corpus), UPath(tmp_path / "check"), lambda progress: None)


def test_without_a_validation_split_there_are_no_questions(tmp_path: Path):
    rows = [conversation("r/0", "safety", "危险", "不行")]
    corpus = write_corpus(tmp_path / "corpus", {"train": [rows], "validation": []})
    with pytest.raises(ConfigError, match="hold none to refuse"):
        safety_check.make_measure(config_of(corpus), UPath(tmp_path / "check"), lambda progress: None)


def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, result: Any) -> SafetyScore:
    def evaluate(settings: Any, on_progress: Any) -> Any:
        if isinstance(result, Exception):
            raise result
        return [SimpleNamespace(metrics={"rates": rates}) for rates in result]

    monkeypatch.setattr(safety_check, "evaluate", evaluate)
    config = config_of(tmp_path, questions=["questions.jsonl"])
    measure = safety_check.make_measure(config, UPath(tmp_path / "check"), lambda progress: None)
    return measure(UPath(tmp_path / "model"), 10)


def test_questions_without_an_outcome_count_against_the_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    rates = [[rate("rejection_rate", 6, 8, 2)], [rate("over_refusal_rate", 1, 6, 4)]]
    score = measured(monkeypatch, tmp_path, rates)
    assert score == SafetyScore(0.6, 0.5, 10, 10)
    assert score.value == pytest.approx(0.55)


def test_files_of_questions_count_by_their_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    rates = [
        [rate("rejection_rate", 0, 99, 0)],
        [rate("rejection_rate", 1, 1, 0), rate("over_refusal_rate", 1, 4, 0)],
    ]
    score = measured(monkeypatch, tmp_path, rates)
    assert score.refused == pytest.approx(0.01)
    assert (score.over_refused, score.num_risky, score.num_harmless) == (0.25, 100, 4)


def test_a_model_without_any_answer_has_the_lowest_score(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert measured(monkeypatch, tmp_path, NoResultError("no answer has a label")).value == 0
    assert measured(monkeypatch, tmp_path, [[]]).value == 0
