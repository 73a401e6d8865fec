"""Turns completions into verdicts: by the benchmark's own scoring where it has one, by a judge otherwise.

Every completion gets exactly one verdict on its answer, and one on its reasoning where a judge labels it and
there is any: a label, or the reason for its absence. ``Verdict`` rows are made here and nowhere else.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from safe_r1.benchmarks import Benchmark, Score
from safe_r1.evaluation.checks import Check, run_checks
from safe_r1.evaluation.results import BenchmarkRow, RequestKey
from safe_r1.inference.requests import BatchCounts, EngineResult, Request
from safe_r1.judge.base import Judge, JudgeItem, Judgement, judge_blocking
from safe_r1.judge.policy import BUILT_IN, Policy
from safe_r1.runs import Row
from safe_r1.schema import JUDGED_PARTS, Completion, Part, Sample, Unscored, Verdict

Writer = Callable[[Sequence[BenchmarkRow[Verdict]]], None]

ANSWER_KEY = "answer-key"
CHECK = "check"
NO_JUDGE = "none"
_CHUNK = 128


@dataclass(frozen=True)
class Pending:
    """One part of a completion that waits for its verdict."""

    sample: Sample
    completion: Completion
    part: Part

    @property
    def key(self) -> RequestKey:
        """What a request about it carries."""
        return RequestKey.of(self.sample, self.completion.repeat, self.part)

    @property
    def item(self) -> JudgeItem:
        """The judge's input."""
        text = self.completion.answer if self.part == "answer" else self.completion.reasoning
        return JudgeItem(
            messages=self.sample.messages, text=text or "", part=self.part, task=self.sample.task
        )

    def judged(self, judgement: Judgement, judge: str) -> BenchmarkRow[Verdict]:
        """The row of a judge's verdict; ``judge`` is its label."""
        return _judged(self.key, self.completion.variant, judgement, judge)


def expected_parts(sample: Sample, completion: Completion, parts: Sequence[Part]) -> list[Part]:
    """Parts of a completion that get a verdict: the answer, and the reasoning if it exists and is judged.

    Args:
        sample: The question.
        completion: The completion of it.
        parts: Parts that the run judges.
    """
    judges_reasoning = "reasoning" in JUDGED_PARTS.get(sample.task, ()) and "reasoning" in parts
    return ["answer", "reasoning"] if judges_reasoning and completion.reasoning else ["answer"]


def score_without_judge(benchmark: Benchmark, sample: Sample, completion: Completion) -> Verdict | None:
    """The verdict on an answer that needs neither a judge nor a scoring worker; None where it needs one."""
    # Before the benchmark's scoring: no answer is not a wrong answer.
    if completion.error is not None:
        return _unscored(sample, completion, Unscored.FAILED)
    if completion.blocked is not None:
        return _unscored(sample, completion, Unscored.BLOCKED)
    if completion.answer is None:
        return _unscored(sample, completion, Unscored.TRUNCATED)
    if benchmark.score_limit_s is not None:
        return None
    score = benchmark.score(sample, completion.repeat, completion.answer)
    return None if score is None else _scored(completion, ANSWER_KEY, score)


def is_judged(row: Row) -> bool:
    """True for a verdict that a judge gave, so that another judge could have given another."""
    return row["judge"] not in (ANSWER_KEY, CHECK, NO_JUDGE)


def judge_here(judge: Judge, pending: Sequence[Pending], label: str, write: Writer) -> Iterator[BatchCounts]:
    """Judge in the driver, writing every few rows, so that an endpoint that goes down loses nothing.

    Args:
        judge: The judge.
        pending: What is to be judged.
        label: The judge as verdicts store it, ``JudgePlan.label``.
        write: Writes a batch of verdicts.
    """
    for start in range(0, len(pending), _CHUNK):
        chunk = pending[start : start + _CHUNK]
        judgements = judge_blocking(judge, [each.item for each in chunk])
        write([each.judged(judgement, label) for each, judgement in zip(chunk, judgements, strict=True)])
        yield BatchCounts(len(chunk), sum(judgement.label is None for judgement in judgements), 0)


def judge_requests(pending: Sequence[Pending], max_tokens: int, policy: Policy = BUILT_IN) -> list[Request]:
    """The judge's prompts for an engine in the cluster."""
    return [Request(each.key.to_text(), policy.messages(each.item), max_tokens, seed=0) for each in pending]


@dataclass(frozen=True)
class ReadReply:
    """Turns a result of a judging engine into a verdict; runs in Ray's workers.

    Attributes:
        variant: Name of the evaluated variant.
        judge: The judge's label.
        policy: Prompt and labels of the judge.
    """

    variant: str
    judge: str
    policy: Policy = BUILT_IN

    def __call__(self, result: EngineResult) -> BenchmarkRow[Verdict]:
        """A reply that the engine could not give is unscored, and retried when the run is resumed."""
        key = RequestKey.from_text(result["key"])
        if result["error"]:
            judgement = Judgement(None, Unscored.JUDGE_ERROR, result["error"])
        else:
            judgement = self.policy.read(result["text"], result["finish_reason"], key.task)
        return _judged(key, self.variant, judgement, self.judge)


def score_in_workers(
    benchmarks: dict[str, Benchmark], pending: Sequence[Pending], num_workers: int, write: Writer
) -> Iterator[BatchCounts]:
    """Score answers in Ray's workers that are killed at the benchmark's limit, writing every few rows."""
    rows: list[BenchmarkRow[Verdict]] = []

    def done(place: int, score: Score) -> None:
        each = pending[place]
        rows.append(BenchmarkRow(each.sample.benchmark, _scored(each.completion, CHECK, score)))

    checks = [
        Check(
            benchmarks[each.sample.benchmark],
            each.sample,
            each.completion.repeat,
            each.completion.answer or "",
        )
        for each in pending
    ]
    left = len(pending)
    for num_done in run_checks(checks, num_workers, done):
        left -= num_done
        # In chunks: a shard for each row makes thousands of files, one shard at the end can lose all rows.
        if len(rows) >= _CHUNK or not left:
            write(rows)
            rows.clear()
        yield BatchCounts(num_done, 0, 0)


def _unscored(sample: Sample, completion: Completion, reason: Unscored) -> Verdict:
    return Verdict(
        completion.sample_id,
        completion.variant,
        completion.repeat,
        "answer",
        label=None,
        degree=None,
        judge=ANSWER_KEY if sample.options else NO_JUDGE,
        unscored_reason=reason,
    )


def _scored(completion: Completion, judge: str, score: Score) -> Verdict:
    return Verdict(
        completion.sample_id,
        completion.variant,
        completion.repeat,
        "answer",
        label="correct" if score.is_correct else "incorrect",
        degree=int(score.is_correct),
        judge=judge,
        unscored_reason=None,
        choice=score.found,
        explanation=score.explanation,
    )


def _judged(key: RequestKey, variant: str, judgement: Judgement, judge: str) -> BenchmarkRow[Verdict]:
    label = judgement.label
    verdict = Verdict(
        key.sample_id,
        variant,
        key.repeat,
        key.part,
        label=label.value if label else None,
        degree=label.degree if label else None,
        judge=judge,
        unscored_reason=judgement.unscored_reason,
        choice=judgement.own_label,
        explanation=judgement.explanation,
    )
    return BenchmarkRow(key.benchmark, verdict)
