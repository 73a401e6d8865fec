"""The evaluation job: one variant on some benchmarks, from samples to a published report.

samples → completions → verdicts → metrics → report → ``_SUCCESS``. Each stage does only what is missing in
its folder, so the same command resumes an interrupted run.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from safe_r1.config import EngineConfig, EvaluateConfig
from safe_r1.errors import RowsLostError
from safe_r1.evaluation.plan import EvaluationPlan, make_plan
from safe_r1.evaluation.publish import BenchmarkResult, publish_all
from safe_r1.evaluation.results import ReadCompletion, ShardWriter
from safe_r1.evaluation.sample_index import Ints, SampleIndex, store_samples
from safe_r1.evaluation.scoring import (
    JudgeRequests,
    ReadReply,
    ScoreUnit,
    UnitCounts,
    is_judged,
    judge_here,
    left_over,
    needs_check,
    needs_judge,
    score_in_workers,
)
from safe_r1.evaluation.stage_index import (
    Bools,
    StageIndex,
    check_keys,
    index_completions,
    index_verdicts,
    key_of,
)
from safe_r1.evaluation.target import Target, make_target
from safe_r1.evaluation.units import SampleRequests, ScoringUnit, read_completions_at, scoring_units
from safe_r1.evaluation.workers import Workers
from safe_r1.inference.batch import generate
from safe_r1.inference.device import pick_device
from safe_r1.inference.engine import resolve_engine
from safe_r1.inference.requests import BatchCounts, Sampling
from safe_r1.judge.factory import JudgePlan, make_judge
from safe_r1.models.registry import Variant
from safe_r1.progress import Progress, ProgressCallback
from safe_r1.provenance import hardware, now, versions
from safe_r1.report.export import export_missing
from safe_r1.report.trackers import check_trackers
from safe_r1.resources import Cluster, Device, connect, disconnect
from safe_r1.runs import RunFolder, read_table
from safe_r1.schema import Task
from safe_r1.settings import public_settings

_JUDGE_SAMPLING = Sampling(temperature=0.0, top_p=1.0)


def evaluate(
    config: EvaluateConfig, on_progress: ProgressCallback, log: Path | None = None
) -> list[BenchmarkResult]:
    """Run the job until its reports are published, doing only what is missing.

    Args:
        config: The settings.
        on_progress: Called with the progress of each stage.
        log: This session's log, copied into the run folders at the end, also after an error.

    Returns:
        The benchmarks; one that has too few labels to be published says so in its ``problem``.

    Raises:
        SafeR1Error: Anything that a user can repair; finished rows are kept.
    """
    check_trackers(config.trackers)
    plan = make_plan(config)
    cluster = connect()
    target = make_target(plan)
    device = target.start(cluster)
    if plan.judge and plan.judge.model:
        _judge_engine(plan, plan.judge.model, cluster)
    # Everything that can be wrong has been checked: only from here on is anything written or started.
    for name, fingerprint in plan.fingerprints.items():
        fingerprint.update(target.fingerprint(name))
    samples = _open(plan, cluster, device)
    try:
        return _run(plan, target, samples, cluster, on_progress)
    finally:
        for folder in plan.folders.values():
            if log:
                folder.keep_log(log)


def _run(
    plan: EvaluationPlan,
    target: Target,
    samples: dict[str, SampleIndex],
    cluster: Cluster,
    on_progress: ProgressCallback,
) -> list[BenchmarkResult]:
    results = [
        BenchmarkResult(name, folder, {}, was_complete=name not in samples)
        for name, folder in plan.folders.items()
    ]
    if samples:
        started = time.monotonic()
        timings = _complete(plan, target, samples, on_progress)
        _score(plan, samples, cluster, on_progress)
        for result in results:
            if not result.was_complete:
                result.timings = timings | {"wall_s": round(time.monotonic() - started, 1)}
        todo = [result for result in results if not result.was_complete]
        publish_all(plan, target, todo, samples, Workers(cluster.num_workers))
    for result in results:
        result.metrics = result.folder.read_json("metrics.json") or {}
        if result.was_complete:
            result.exports = export_missing(result.folder, plan.config.export)
    return results


def _open(plan: EvaluationPlan, cluster: Cluster, device: str) -> dict[str, SampleIndex]:
    """Create or check the run folders, and write the samples.

    Returns:
        The samples of each benchmark that is not complete: nothing is written to a folder after its marker.
    """
    indexes: dict[str, SampleIndex] = {}
    for name, folder in plan.folders.items():
        fingerprint = plan.fingerprints[name]
        info = {
            "variant": plan.variant.public(),
            "benchmark": name,
            "judge": plan.judge.label if plan.judge else None,
            "answer_key": {
                "name": fingerprint["data"]["answer_key_name"],
                "sha256": fingerprint["data"]["answer_key"],
            },
            "config": public_settings(plan.config),
            "versions": versions(),
            "hardware": hardware()
            | {"device": device, "cluster_gpus": cluster.gpu_total, "cluster_cpus": cluster.cpu_total},
            "started_at": now(),
        }
        if facts := plan.benchmarks[name].facts():
            info["questions"] = facts
        # The judge may be changed before it has judged anything: nothing before that depends on it.
        folder.open(fingerprint, info, mutable=() if _has_judged(folder) else ("judge",))
        if not folder.is_complete:
            indexes[name] = store_samples(folder, plan.samples[name])
    return indexes


def _has_judged(folder: RunFolder) -> bool:
    judges = (read_table(shard, columns=["judge"]).column(0).unique() for shard in folder.shards("verdicts"))
    return any(is_judged(judge) for column in judges for judge in column.to_pylist())


def _complete(
    plan: EvaluationPlan, target: Target, samples: dict[str, SampleIndex], on_progress: ProgressCallback
) -> dict[str, float]:
    """Generate the missing completions; gives the timings of this stage."""
    batches = missing_requests(plan, samples, target.rows_per_batch)
    total = sum(len(index) * plan.repeats(name) for name, index in samples.items())
    num_missing = sum(batch.num_rows for batch in batches)
    write = ShardWriter(plan.folders, "completions")
    stream = target.complete(batches, ReadCompletion(plan.variant.name), write)
    return _follow("completions", stream, total - num_missing, total, on_progress)


def missing_requests(
    plan: EvaluationPlan, samples: dict[str, SampleIndex], rows_per_batch: int
) -> list[SampleRequests]:
    """What is still to be asked, the longest completions first, then repeat by repeat.

    Long ones first, as the last rows leave the engine idle; repeat by repeat, as a run that is interrupted
    has all questions in its first repeats then.
    """
    batches: list[tuple[int, SampleRequests]] = []
    for name, index in samples.items():
        benchmark = plan.benchmarks[name]
        done = index_completions(plan.folders[name], index)
        num_repeats = plan.repeats(name)
        # Failed rows are generated again: the machine that failed them may be gone.
        is_done = np.zeros((num_repeats, len(index)), bool)
        is_done[done.repeat[done.is_final], done.position[done.is_final]] = True
        limits: dict[Task, int] = {kind.task: plan.max_tokens(name, kind.task) for kind in index.kinds}
        for group, repeat, shard, positions in _groups(index, is_done):
            for start in range(0, len(positions), rows_per_batch):
                rows = index.row[positions[start : start + rows_per_batch]]
                seed = plan.config.generation.seed
                batch = SampleRequests(benchmark, index.shards[shard], rows, repeat, limits, seed)
                batches.append((limits[group], batch))
    # Stable: batches of the same length keep their order.
    return [batch for _, batch in sorted(batches, key=lambda each: -each[0])]


def _groups(index: SampleIndex, is_done: Bools) -> Iterator[tuple[Task, int, int, Ints]]:
    """Missing samples by repeat, task and file, in the order of the benchmark."""
    tasks: list[Task] = list(dict.fromkeys(kind.task for kind in index.kinds))
    task = np.asarray([tasks.index(kind.task) for kind in index.kinds])[index.kind]
    for repeat, done in enumerate(is_done):
        missing = np.flatnonzero(~done)
        group = task[missing] * len(index.shards) + index.shard[missing]
        for number in np.unique(group):
            number_of_task, shard = divmod(int(number), len(index.shards))
            yield tasks[number_of_task], repeat, shard, missing[group == number]


def _follow(
    stage: str, stream: Iterator[BatchCounts], done: int, total: int, on_progress: ProgressCallback
) -> dict[str, float]:
    """Drive a stream, report on it and time it.

    ``steady_tokens_per_s`` counts from the end of the first batch, which excludes the start of the engine.
    """
    failed = tokens = first_tokens = 0
    begin = first = last = time.monotonic()
    on_progress(Progress(stage, done, total))
    for batch_counts in stream:
        last = time.monotonic()
        if not tokens:
            first = last
            first_tokens = batch_counts.tokens
        done += batch_counts.rows
        failed += batch_counts.failed
        tokens += batch_counts.tokens
        on_progress(Progress(stage, done, total, failed, tokens))
    steady_s = last - first
    return {
        f"{stage}_s": round(last - begin, 2),
        f"{stage}_first_batch_s": round(first - begin, 2),
        f"{stage}_tokens": tokens,
        "steady_tokens_per_s": round((tokens - first_tokens) / steady_s, 2) if steady_s > 0 else 0.0,
    }


def _score(
    plan: EvaluationPlan, samples: dict[str, SampleIndex], cluster: Cluster, on_progress: ProgressCallback
) -> None:
    """Give the missing verdicts: in workers where possible, then by checks, then by the judge."""
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

    def stream() -> Iterator[BatchCounts]:
        total = sum(unit.num_rows for unit in units)
        for place, counts in Workers(cluster.num_workers).map(score, units, total):
            left[place] = counts
            yield BatchCounts(counts.rows, counts.unscored, 0)

    _follow("scores", stream(), 0, sum(unit.num_rows for unit in units), on_progress)
    to_check = [units[place] for place in sorted(left) if left[place].for_checks]
    if to_check:
        checks = _check(plan, to_check, cluster, write)
        _follow("checks", checks, 0, sum(each.for_checks for each in left.values()), on_progress)
    to_judge = [(units[place], left[place].for_judge) for place in sorted(left) if left[place].for_judge]
    if judge and to_judge:
        judged = _judge(plan, judge, to_judge, cluster, write)
        _follow("verdicts", judged, 0, sum(number for _, number in to_judge), on_progress)


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
    plan: EvaluationPlan, units: Sequence[ScoringUnit], cluster: Cluster, write: ShardWriter
) -> Iterator[BatchCounts]:
    """Score what has to be scored where its worker can be killed."""
    for pending in left_over(units, plan.benchmarks, needs_check):
        yield from score_in_workers(plan.benchmarks, pending, int(cluster.cpu_total), write)


def _judge(
    plan: EvaluationPlan,
    judge: JudgePlan,
    units: Sequence[tuple[ScoringUnit, int]],
    cluster: Cluster,
    write: ShardWriter,
) -> Iterator[BatchCounts]:
    """Judge what is left: with an engine of its own where the judge is a model, else in the driver."""
    if judge.model is None:
        made = make_judge(judge)
        for pending in left_over([unit for unit, _ in units], plan.benchmarks, needs_judge):
            yield from judge_here(made, pending, judge.label, write)
        return
    # The evaluated engine's placement groups live as long as its driver's connection (ray#64035): without a
    # new one, two tensor-parallel engines would need the GPUs of both.
    disconnect()
    connect()
    engine, device = _judge_engine(plan, judge.model, cluster)
    max_tokens = plan.config.judge.max_tokens
    yield from generate(
        [
            JudgeRequests(unit, plan.benchmarks[unit.benchmark], number, max_tokens, judge.policy)
            for unit, number in units
        ],
        judge.model,
        engine,
        device,
        _JUDGE_SAMPLING,
        ReadReply(plan.variant.name, judge.label, judge.policy),
        write,
    )


def _judge_engine(plan: EvaluationPlan, model: Variant, cluster: Cluster) -> tuple[EngineConfig, Device]:
    """Settings and device of the judge's engine.

    Raises:
        ConfigError, ResourceError: The cluster cannot hold it.
    """
    engine = plan.config.judge.engine
    device = pick_device(model, engine.device, cluster.gpu_total)
    return resolve_engine(model, engine, device, cluster), device
