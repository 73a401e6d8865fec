"""The stage that gives every completion its verdicts: in workers, by checks, by a judge."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from safe_r1.errors import RowsLostError
from safe_r1.evaluation.follow import follow
from safe_r1.evaluation.judge_stage import JudgeRequests, ReadReply, judge_on_engine
from safe_r1.evaluation.plan import EvaluationPlan
from safe_r1.evaluation.results import ShardWriter, has_labels
from safe_r1.evaluation.sample_index import SampleIndex
from safe_r1.evaluation.scoring import (
    ScoreUnit,
    UnitCounts,
    Writer,
    judge_here,
    left_over,
    needs_check,
    needs_judge,
    score_in_workers,
)
from safe_r1.evaluation.stage_index import (
    StageIndex,
    check_keys,
    index_completions,
    index_verdicts,
    key_of,
)
from safe_r1.evaluation.units import Pending, ScoringUnit, read_completions_at, scoring_units
from safe_r1.evaluation.workers import Workers
from safe_r1.inference.early_engine import EarlyEngine
from safe_r1.inference.requests import BatchCounts
from safe_r1.inference.shard_buffer import ShardBuffer
from safe_r1.judge.factory import JudgePlan, make_judge
from safe_r1.progress import ProgressCallback
from safe_r1.resources import Cluster

_ROWS_TOGETHER = 1024
_SHARD_MIB = 8
# What a job that is killed has to score again.
_SHARD_AGE_S = 20.0
_ROW_BYTES = 512


def give_verdicts(
    plan: EvaluationPlan,
    samples: dict[str, SampleIndex],
    cluster: Cluster,
    on_progress: ProgressCallback,
    early: EarlyEngine | None = None,
) -> None:
    """Give the missing verdicts: in workers where possible, then by checks, then by the judge.

    Args:
        plan: The plan.
        samples: The samples of each benchmark that is not complete.
        cluster: The cluster.
        on_progress: Called with the progress.
        early: The engine of a judge model, where it was started already.
    """
    units: list[ScoringUnit] = []
    for name, index in samples.items():
        completions = index_completions(plan.folders[name], index)
        check_finished(plan, name, index, completions)
        # Verdicts that the judge failed to give are tried again, and those of completions that failed.
        verdicts = index_verdicts(plan.folders[name], index)
        parts = plan.config.judge.parts
        units += scoring_units(name, index, completions, verdicts, plan.repeats(name), parts)
    if not units:
        return
    write = ShardWriter(plan.folders, "verdicts")
    judge = plan.judge
    score = ScoreUnit(plan.benchmarks, judge if judge and judge.runs_in_workers else None, write)
    left: dict[int, UnitCounts] = {}

    total = sum(unit.num_rows for unit in units)

    def stream() -> Iterator[BatchCounts]:
        for place, counts in Workers(cluster.num_workers).map(score, units, total):
            left[place] = counts
            yield BatchCounts(counts.rows, counts.unscored, 0)

    follow("scores", stream(), 0, total, on_progress)
    to_check = [units[place] for place in sorted(left) if left[place].for_checks]
    if to_check:
        checks = _check(plan, to_check, cluster, write)
        follow("checks", checks, 0, sum(each.for_checks for each in left.values()), on_progress)
    to_judge = [(units[place], left[place].for_judge) for place in sorted(left) if left[place].for_judge]
    if judge and to_judge:
        judged = _judge(plan, judge, to_judge, cluster, early, write)
        follow("verdicts", judged, 0, sum(number for _, number in to_judge), on_progress)


@contextmanager
def _gathered(write: Writer) -> Iterator[Writer]:
    """Verdicts that come by and by make a file every so often, and not one for each few rows."""
    with ShardBuffer(write, _SHARD_MIB, _SHARD_AGE_S) as buffer:
        yield lambda rows: buffer.add(rows, _ROW_BYTES * len(rows))


def check_finished(plan: EvaluationPlan, name: str, samples: SampleIndex, completions: StageIndex) -> None:
    """Check that every completion of a benchmark is there.

    Raises:
        IntegrityError: Completions are missing.
        RowsLostError: Too many of them failed.
    """
    num_repeats = plan.repeats(name)
    expected = np.arange(len(samples) * num_repeats)
    check_keys(f"{name}: completions", samples, num_repeats, expected, key_of(completions, num_repeats))
    failed = np.flatnonzero(~completions.is_final)
    allowed = plan.config.max_failed_share
    if len(failed) > allowed * len(completions):
        first = failed[0]
        shard = completions.shards[int(completions.shard[first])]
        [row] = read_completions_at(shard, completions.row[first : first + 1])
        raise RowsLostError(
            f"{name}: {len(failed)} of {len(completions)} rows failed, more than "
            f"max_failed_share={allowed:g} allows; first: {row.sample_id}: "
            f"{(row.error or '')[:200]}. The same command tries the failed rows again."
        )


def _check(
    plan: EvaluationPlan, units: Sequence[ScoringUnit], cluster: Cluster, write: Writer
) -> Iterator[BatchCounts]:
    """Score what has to be scored where its worker can be killed."""
    with _gathered(write) as keep:
        for pending in _together(left_over(units, plan.benchmarks, needs_check)):
            yield from score_in_workers(plan.benchmarks, pending, int(cluster.cpu_total), keep)


def _together(parts: Iterable[list[Pending]]) -> Iterator[list[Pending]]:
    """The rows of several units in one list, where they are few.

    A slow model leaves a shard for every minute. At the end of each list all wait for its slowest row, and
    workers that score start anew for the next.
    """
    rows: list[Pending] = []
    for pending in parts:
        rows += pending
        if len(rows) >= _ROWS_TOGETHER:
            yield rows
            rows = []
    if rows:
        yield rows


def _judge(
    plan: EvaluationPlan,
    judge: JudgePlan,
    units: Sequence[tuple[ScoringUnit, int]],
    cluster: Cluster,
    early: EarlyEngine | None,
    write: Writer,
) -> Iterator[BatchCounts]:
    """Judge what is left: with an engine of its own where the judge is a model, else in the driver."""
    if judge.model is None:
        made = make_judge(judge)
        with _gathered(write) as keep:
            for pending in _together(left_over([unit for unit, _ in units], plan.benchmarks, needs_judge)):
                yield from judge_here(made, pending, judge.label, keep)
        return
    max_tokens = judge.config.reply_tokens
    requests = [
        JudgeRequests(unit, number, max_tokens, judge.policy, plan.benchmarks[unit.benchmark])
        for unit, number in units
    ]
    read = ReadReply(dict.fromkeys(plan.folders, plan.variant.name), judge.label, judge.policy)
    has_worked = any(has_labels(folder, judge.label) for folder in plan.folders.values())
    yield from judge_on_engine(judge, requests, read, write, has_worked, cluster, early)
