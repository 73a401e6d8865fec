"""The evaluation job: one variant on some benchmarks, from samples to a published report.

samples → completions → verdicts → metrics → report → ``_SUCCESS``. Each stage does only what is missing in
its folder, so the same command resumes an interrupted run.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from safe_r1.config import EvaluateConfig
from safe_r1.errors import IntegrityError, RowsLostError
from safe_r1.evaluation.plan import EvaluationPlan, make_plan
from safe_r1.evaluation.publish import BenchmarkResult, publish_all
from safe_r1.evaluation.results import (
    BenchmarkRow,
    ReadCompletion,
    RequestKey,
    ShardWriter,
    is_settled,
    read_completions,
    read_verdicts,
    sample_key,
)
from safe_r1.evaluation.scoring import (
    Pending,
    ReadReply,
    expected_parts,
    is_judged,
    judge_here,
    judge_requests,
    score_in_workers,
    score_without_judge,
)
from safe_r1.evaluation.target import Target, make_target
from safe_r1.inference.batch import generate
from safe_r1.inference.device import pick_device
from safe_r1.inference.engine import check_resources
from safe_r1.inference.requests import BatchCounts, Request, Sampling, in_batches, row_seed
from safe_r1.judge.factory import JudgePlan, make_judge
from safe_r1.progress import Progress, ProgressCallback
from safe_r1.provenance import hardware, now, versions
from safe_r1.report.export import export_missing
from safe_r1.report.trackers import check_trackers
from safe_r1.resources import Cluster, connect, disconnect
from safe_r1.runs import Key, Row, check_complete
from safe_r1.schema import JUDGED_PARTS, SAMPLE_SCHEMA, Completion, Sample, Verdict
from safe_r1.settings import public_settings

_ROWS_PER_SHARD = 512
# A column of a shard holds 2 GiB, and the hidden tests of one programming problem can be megabytes.
_CHARS_PER_SHARD = 64 << 20
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
        judge_device = pick_device(plan.judge.model, config.judge.engine.device, cluster.gpu_total)
        check_resources(
            plan.judge.model, config.judge.engine, judge_device, cluster.gpu_total, cluster.memory_gib
        )
    # Everything that can be wrong has been checked: only from here on is anything written or started.
    for name, fingerprint in plan.fingerprints.items():
        fingerprint.update(target.fingerprint(name))
    _open(plan, cluster, device)
    try:
        return _run(plan, target, cluster, on_progress)
    finally:
        for folder in plan.folders.values():
            if log:
                folder.keep_log(log)


def _run(
    plan: EvaluationPlan, target: Target, cluster: Cluster, on_progress: ProgressCallback
) -> list[BenchmarkResult]:
    # Complete runs are not touched: nothing is written to a folder after its marker.
    todo = {name: samples for name, samples in plan.samples.items() if not plan.folders[name].is_complete}
    results = [
        BenchmarkResult(name, plan.folders[name], {}, was_complete=name not in todo) for name in plan.samples
    ]
    if todo:
        started = time.monotonic()
        timings = _complete(plan, target, todo, on_progress)
        _score(plan, todo, cluster, on_progress)
        for result in results:
            if not result.was_complete:
                result.timings = timings | {"wall_s": round(time.monotonic() - started, 1)}
        publish_all(plan, target, [result for result in results if not result.was_complete])
    for result in results:
        result.metrics = result.folder.read_json("metrics.json") or {}
        if result.was_complete:
            result.exports = export_missing(result.folder, plan.config.export)
    return results


def _open(plan: EvaluationPlan, cluster: Cluster, device: str) -> None:
    """Create or check the run folders, and write the samples."""
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
        has_judged = any(map(is_judged, read_verdicts(folder).values()))
        folder.open(fingerprint, info, mutable=() if has_judged else ("judge",))
        if not folder.is_complete:
            # Samples of an interrupted session are there already, and a repeated write would double them.
            known = {row["sample_id"] for row in folder.read_rows("samples", SAMPLE_SCHEMA)}
            missing = [sample for sample in plan.samples[name] if sample.sample_id not in known]
            for shard in _sample_shards(missing):
                folder.write_shard("samples", shard, SAMPLE_SCHEMA, sample_key)


def _sample_shards(samples: Sequence[Sample]) -> Iterator[list[Row]]:
    """The samples as rows, in shards of bounded number and size."""
    shard: list[Row] = []
    num_chars = 0
    for sample in samples:
        size = sum(map(len, sample.metadata.values())) + sum(len(turn["content"]) for turn in sample.messages)
        if shard and (len(shard) == _ROWS_PER_SHARD or num_chars + size > _CHARS_PER_SHARD):
            yield shard
            shard = []
            num_chars = 0
        shard.append(sample.to_row())
        num_chars += size
    if shard:
        yield shard


def _complete(
    plan: EvaluationPlan, target: Target, todo: dict[str, list[Sample]], on_progress: ProgressCallback
) -> dict[str, float]:
    """Generate the missing completions; gives the timings of this stage."""
    requests = missing_requests(plan, todo)
    total = sum(len(samples) * plan.repeats(name) for name, samples in todo.items())
    write = ShardWriter(plan.folders, "completions")
    stream = target.complete(requests, ReadCompletion(plan.variant.name), write)
    return _follow("completions", stream, total - len(requests), total, on_progress)


def missing_requests(plan: EvaluationPlan, todo: dict[str, list[Sample]]) -> list[Request]:
    """What is still to be asked."""
    requests: list[Request] = []
    for name, samples in todo.items():
        # Failed rows are generated again: the machine that failed them may be gone.
        done = {key for key, row in read_completions(plan.folders[name]).items() if row["error"] is None}
        requests += [
            _request(plan, sample, repeat)
            # Repeat by repeat: a run that is interrupted has all questions in its first repeats.
            for repeat in range(plan.repeats(name))
            for sample in samples
            if (sample.sample_id, repeat) not in done
        ]
    return requests


def _request(plan: EvaluationPlan, sample: Sample, repeat: int) -> Request:
    return Request(
        RequestKey.of(sample, repeat).to_text(),
        list(plan.benchmarks[sample.benchmark].as_asked(sample, repeat).messages),
        plan.max_tokens(sample),
        row_seed(plan.config.generation.seed, sample.sample_id, repeat),
    )


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
    plan: EvaluationPlan, todo: dict[str, list[Sample]], cluster: Cluster, on_progress: ProgressCallback
) -> None:
    """Give the missing verdicts: in the driver where possible, then in scoring workers, then by the judge."""
    for_workers: list[Pending] = []
    for_judge: list[Pending] = []
    write = ShardWriter(plan.folders, "verdicts")
    for name, samples in todo.items():
        scored: list[BenchmarkRow[Verdict]] = []
        for pending in _without_verdict(plan, name, samples):
            benchmark = plan.benchmarks[name]
            verdict = None
            if pending.part == "answer":
                verdict = score_without_judge(benchmark, pending.sample, pending.completion)
            if verdict:
                scored.append(BenchmarkRow(name, verdict))
            elif pending.sample.task in JUDGED_PARTS:
                for_judge.append(pending)
            elif benchmark.score_limit_s is not None:
                for_workers.append(pending)
            else:
                raise IntegrityError(
                    f"{name}: no score for {pending.sample.sample_id}, and no judge labels its task "
                    f"{pending.sample.task!r}; Benchmark.score may give None for "
                    f"{' and '.join(JUDGED_PARTS)} alone"
                )
        for start in range(0, len(scored), _ROWS_PER_SHARD):
            write(scored[start : start + _ROWS_PER_SHARD])
    if for_workers:
        stream = score_in_workers(plan.benchmarks, for_workers, int(cluster.cpu_total), write)
        _follow("checks", stream, 0, len(for_workers), on_progress)
    if plan.judge and for_judge:
        stream = _judge(plan, plan.judge, for_judge, cluster, write)
        _follow("verdicts", stream, 0, len(for_judge), on_progress)


def _without_verdict(plan: EvaluationPlan, name: str, samples: Sequence[Sample]) -> Iterator[Pending]:
    """Parts of a benchmark's completions that have no verdict yet.

    Raises:
        IntegrityError: Completions are missing.
        RowsLostError: Too many of them failed.
    """
    folder = plan.folders[name]
    completions = read_completions(folder)
    wanted = [(sample.sample_id, repeat) for sample in samples for repeat in range(plan.repeats(name))]
    check_complete(f"{name}: completions", wanted, completions)
    _refuse_failures(name, completions, plan.config.max_failed_share)
    # Verdicts that the judge failed to give are tried again, and those of completions that failed.
    settled = {key for key, row in read_verdicts(folder).items() if is_settled(row)}
    by_id = {sample.sample_id: sample for sample in samples}
    for key, row in completions.items():
        completion = Completion(**row)
        sample = by_id[completion.sample_id]
        for part in expected_parts(sample, completion, plan.config.judge.parts):
            if (*key, part) not in settled:
                yield Pending(sample, completion, part)


def _judge(
    plan: EvaluationPlan,
    judge: JudgePlan,
    pending: Sequence[Pending],
    cluster: Cluster,
    write: ShardWriter,
) -> Iterator[BatchCounts]:
    """Judge what is pending: with an engine of its own where the judge is a model, else in the driver."""
    if judge.model is None:
        return judge_here(make_judge(judge), pending, judge.label, write)
    # The evaluated engine's placement groups live as long as its driver's connection (ray#64035): without a
    # new one, two tensor-parallel engines would need the GPUs of both.
    disconnect()
    connect()
    engine = plan.config.judge.engine
    return generate(
        in_batches(judge_requests(pending, plan.config.judge.max_tokens, judge.policy)),
        judge.model,
        engine,
        pick_device(judge.model, engine.device, cluster.gpu_total),
        _JUDGE_SAMPLING,
        ReadReply(plan.variant.name, judge.label, judge.policy),
        write,
    )


def _refuse_failures(name: str, completions: dict[Key, Row], allowed: float) -> None:
    failed = [row for row in completions.values() if row["error"] is not None]
    if len(failed) > allowed * len(completions):
        raise RowsLostError(
            f"{name}: {len(failed)} of {len(completions)} rows failed, more than "
            f"max_failed_share={allowed:g} allows; first: {failed[0]['sample_id']}: "
            f"{failed[0]['error'][:200]}. The same command tries the failed rows again."
        )
