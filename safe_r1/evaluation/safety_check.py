"""The small evaluation by which fine-tuning chooses its best checkpoint (``save.keep_best=safety``).

Its questions are the user's own, or the validation rows of the corpus: harmful prompts that are to be
refused, and harmless ones that are not. Neither is trained on, and no benchmark is used up for it.
"""

import json
import random
from collections.abc import Iterable, Sequence

from upath import UPath

from safe_r1.benchmarks import evaluate_schema
from safe_r1.errors import ConfigError, NoResultError
from safe_r1.evaluation.job import evaluate
from safe_r1.progress import ProgressCallback
from safe_r1.runs import JsonObject, read_table, remove, write_bytes
from safe_r1.schema import CONVERSATION_SCHEMA
from safe_r1.train.config import FinetuneConfig
from safe_r1.train.data import read_corpus
from safe_r1.train.selection import Measure, SafetyScore

_QUESTIONS = "safety_questions.jsonl"
# What a model has to do with the rows of a kind.
_EXPECTED = {"safety": "refuse", "benign-sensitive": "answer"}
_TASK_NAMES = {"refuse": "refusal", "answer": "over_refusal"}


def make_measure(config: FinetuneConfig, folder: UPath, on_progress: ProgressCallback) -> Measure:
    """The evaluation of a run's checkpoints.

    Args:
        config: Settings of the run.
        folder: Where questions and results are written; the results go when they are counted.
        on_progress: Called with the progress of each stage.

    Raises:
        ConfigError: There are no questions of both kinds.
    """
    check = config.safety_check
    questions = list(check.questions)
    if not questions:
        questions = [str(_validation_questions(UPath(config.corpus), folder, check.limit, config.seed))]

    def measure(model: UPath, step: int) -> SafetyScore:
        output = folder / f"step-{step}"
        settings: JsonObject = {
            "variant": str(model),
            "benchmarks": questions,
            "output": str(output),
            "run": "check",
            "limit": check.limit * len(_EXPECTED) if check.questions else None,
            "judge": {"kind": check.judge},
            "generation": {"max_tokens": check.max_tokens},
            "engine": {"trust_remote_code": config.trust_remote_code, "device": config.device},
        }
        try:
            results = evaluate(evaluate_schema().model_validate(settings), on_progress)
            return _score(result.metrics for result in results)
        except NoResultError:
            # No answer has a label, as when no thought comes to an end: the worst there is.
            return _score([])
        finally:
            remove(output)

    return measure


def _validation_questions(corpus: UPath, folder: UPath, limit: int, seed: int) -> UPath:
    """A file with the prompts of the corpus's validation rows, as many of each kind as the limit says."""
    rows: dict[str, list[JsonObject]] = {expected: [] for expected in _EXPECTED.values()}
    shards, _ = read_corpus(corpus)
    for name in shards:
        if not name.startswith("validation/"):
            continue
        for row in read_table(corpus / name, schema=CONVERSATION_SCHEMA).to_pylist():
            if row["kind"] in _EXPECTED:
                rows[_EXPECTED[row["kind"]]].append(row)
    missing = [expected for expected, found in rows.items() if not found]
    if missing:
        raise ConfigError(
            "save.keep_best=safety needs questions to refuse and questions to answer, and the validation "
            f"rows of {corpus} hold none to {missing[0]}: give a file with both, "
            """--set 'safety_check.questions=["questions.jsonl"]'"""
        )
    file = folder / _QUESTIONS
    lines = [
        json.dumps(_question(row, expected), ensure_ascii=False)
        for expected, found in rows.items()
        for row in random.Random(seed).sample(found, min(limit, len(found)))
    ]
    write_bytes(file, ("\n".join(lines) + "\n").encode("utf-8", errors="replace"))
    return file


def _question(row: JsonObject, expected: str) -> JsonObject:
    """A row of own questions: the dialogue of a corpus row up to what the assistant has to say."""
    *history, last, _ = row["messages"]
    return {
        "id": row["row_id"],
        "question": last["content"],
        "history": [dict(turn) for turn in history if turn["role"] != "system"],
        "category": row["category"] or row["kind"],
        "expected": _TASK_NAMES[expected],
    }


def _score(metrics: Iterable[JsonObject]) -> SafetyScore:
    """Shares of all questions: one without an outcome, as of an endless thought, counts against the model."""
    rates = [
        rate
        for content in metrics
        for rate in content.get("rates", [])
        if (rate["scope"], rate["part"]) == ("overall", "answer")
    ]
    refused, num_risky = _over_all(rates, "rejection_rate", "bound_low")
    over_refused, num_harmless = _over_all(rates, "over_refusal_rate", "bound_high")
    return SafetyScore(
        0.0 if refused is None else refused,
        1.0 if over_refused is None else over_refused,
        num_risky,
        num_harmless,
    )


def _over_all(rates: Sequence[JsonObject], metric: str, bound: str) -> tuple[float | None, int]:
    """A rate over the questions of all files, None without any, and their number."""
    chosen = [
        (rate[bound], rate["denominator"] + rate["num_missing"]) for rate in rates if rate["metric"] == metric
    ]
    total = sum(count for _, count in chosen)
    return (sum(value * count for value, count in chosen) / total if total else None), total
