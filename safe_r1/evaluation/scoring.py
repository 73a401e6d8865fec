"""Turns completions into verdicts: by the benchmark's own scoring where it has one, by a judge otherwise.

Every completion gets exactly one verdict on its answer, and one on its reasoning where a judge labels it and
there is any: a label, or the reason for its absence. ``Verdict`` rows are made here and nowhere else.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from safe_r1.benchmarks import Benchmark, Score
from safe_r1.errors import IntegrityError
from safe_r1.evaluation.checks import Check, run_checks
from safe_r1.evaluation.results import BenchmarkRow, RequestKey
from safe_r1.evaluation.units import Pending, ScoringUnit
from safe_r1.inference.requests import BatchCounts
from safe_r1.judge.base import Judge, Judgement, judge_blocking
from safe_r1.judge.factory import JudgePlan, shared_judge
from safe_r1.schema import ATTACKER, JUDGED_PARTS, Completion, Sample, Unscored, Verdict

Writer = Callable[[Sequence[BenchmarkRow[Verdict]]], None]

ANSWER_KEY = "answer-key"
CHECK = "check"
NO_JUDGE = "none"
_CHUNK = 128


@dataclass(frozen=True)
class UnitCounts:
    """What became of one unit.

    Attributes:
        rows: Its completions.
        unscored: Parts to which the judge gave no label.
        for_judge: Parts that wait for a judge that does not run in workers.
        for_checks: Answers that wait for a worker that may be killed.
    """

    rows: int
    unscored: int
    for_judge: int
    for_checks: int


@dataclass(frozen=True)
class ScoreUnit:
    """Gives the verdicts on one shard of completions that can be given here; runs in Ray's workers.

    Attributes:
        benchmarks: Benchmarks by name.
        judge: The judge, where it runs in workers.
        write: Writes verdicts as one shard.
    """

    benchmarks: Mapping[str, Benchmark]
    judge: JudgePlan | None
    write: Writer

    def __call__(self, unit: ScoringUnit) -> UnitCounts:
        """Write the verdicts; counts what is left to others.

        Raises:
            IntegrityError: A benchmark gives no score, and no judge labels its task.
            JudgeError: The judge cannot be used.
        """
        benchmark = self.benchmarks[unit.benchmark]
        scored: list[BenchmarkRow[Verdict]] = []
        judged: list[Pending] = []
        num_checks = 0
        for pending in unit.read():
            verdict = None
            if pending.part == "answer":
                verdict = score_without_judge(benchmark, pending.sample, pending.completion)
            if verdict:
                scored.append(BenchmarkRow(unit.benchmark, verdict))
            elif needs_judge(benchmark, pending):
                judged.append(pending)
            elif needs_check(benchmark, pending):
                num_checks += 1
            else:
                raise IntegrityError(
                    f"{unit.benchmark}: no score for {pending.sample.sample_id}, and no judge labels its "
                    f"task {pending.sample.task!r}; Benchmark.score may give None for "
                    f"{' and '.join(JUDGED_PARTS)} alone"
                )
        num_unscored = 0
        if self.judge and judged:
            judgements = judge_blocking(shared_judge(self.judge), [each.item for each in judged])
            num_unscored = sum(judgement.label is None for judgement in judgements)
            scored += [
                judged_row(each, judgement, self.judge.label)
                for each, judgement in zip(judged, judgements, strict=True)
            ]
        if scored:
            self.write(scored)
        return UnitCounts(unit.num_rows, num_unscored, 0 if self.judge else len(judged), num_checks)


def needs_judge(_: Benchmark, pending: Pending) -> bool:
    """True for a part that only a judge can label; asked after ``score_without_judge`` gave nothing."""
    return pending.sample.task in JUDGED_PARTS


def needs_check(benchmark: Benchmark, pending: Pending) -> bool:
    """True for an answer that is scored where its worker can be killed."""
    return benchmark.score_limit_s is not None and not needs_judge(benchmark, pending)


def left_over(
    units: Sequence[ScoringUnit],
    benchmarks: Mapping[str, Benchmark],
    needs: Callable[[Benchmark, Pending], bool],
) -> Iterator[list[Pending]]:
    """What ``ScoreUnit`` left to others, unit by unit.

    Args:
        units: Units that have some.
        benchmarks: Benchmarks by name.
        needs: Chooses the kind of work.
    """
    for unit in units:
        benchmark = benchmarks[unit.benchmark]
        yield [
            pending
            for pending in unit.read()
            if not _scored_already(benchmark, pending) and needs(benchmark, pending)
        ]


def _scored_already(benchmark: Benchmark, pending: Pending) -> bool:
    # Cheap: those that take a check or a judge give nothing here.
    return pending.part == "answer" and (
        score_without_judge(benchmark, pending.sample, pending.completion) is not None
    )


def score_without_judge(benchmark: Benchmark, sample: Sample, completion: Completion) -> Verdict | None:
    """The verdict on an answer that needs neither a judge nor a scoring worker; None where it needs one."""
    # Before the benchmark's scoring: no answer is not a wrong answer.
    if completion.error is not None:
        return _unscored(sample, completion, Unscored.FAILED)
    if completion.blocked is not None:
        was_asked = completion.blocked != ATTACKER
        return _unscored(sample, completion, Unscored.BLOCKED if was_asked else Unscored.NOT_ASKED)
    if completion.answer is None:
        return _unscored(sample, completion, Unscored.TRUNCATED if completion.is_cut else Unscored.UNFINISHED)
    if benchmark.score_limit_s is not None:
        return None
    score = benchmark.score(sample, completion.repeat, completion.answer)
    return None if score is None else _scored(completion, ANSWER_KEY, score)


def is_judged(judge: str) -> bool:
    """True for the name of a judge, with whose change a verdict could be another."""
    return judge not in (ANSWER_KEY, CHECK, NO_JUDGE)


def judge_here(judge: Judge, pending: Sequence[Pending], label: str, write: Writer) -> Iterator[BatchCounts]:
    """Judge in the driver, writing every few rows, so that an endpoint that goes down loses little.

    Args:
        judge: The judge.
        pending: What is to be judged.
        label: The judge as verdicts store it, ``JudgePlan.label``.
        write: Writes a batch of verdicts.
    """
    for start in range(0, len(pending), _CHUNK):
        chunk = pending[start : start + _CHUNK]
        judgements = judge_blocking(judge, [each.item for each in chunk])
        write([judged_row(each, judgement, label) for each, judgement in zip(chunk, judgements, strict=True)])
        yield BatchCounts(len(chunk), sum(judgement.label is None for judgement in judgements), 0)


def score_in_workers(
    benchmarks: Mapping[str, Benchmark], pending: Sequence[Pending], num_workers: int, write: Writer
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


def judged_row(pending: Pending, judgement: Judgement, judge: str) -> BenchmarkRow[Verdict]:
    """The row of a judge's verdict; ``judge`` is its label."""
    return verdict_of_judge(pending.key, pending.completion.variant, judgement, judge)


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


def verdict_of_judge(
    key: RequestKey, variant: str, judgement: Judgement, judge: str
) -> BenchmarkRow[Verdict]:
    """The row of a judge's verdict on the part that a key names; ``judge`` is its label."""
    label = judgement.label
    verdict = Verdict(
        key.sample_id,
        variant,
        key.repeat,
        "reasoning" if key.part == "reasoning" else "answer",
        label=label.value if label else None,
        degree=label.degree if label else None,
        judge=judge,
        unscored_reason=judgement.unscored_reason,
        choice=judgement.own_label,
        explanation=judgement.explanation,
        confidence=judgement.confidence,
    )
    return BenchmarkRow(key.benchmark, verdict)
