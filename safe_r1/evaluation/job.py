"""The evaluation job: one variant on some benchmarks, from samples to a published report.

samples → completions → verdicts → metrics → report → ``_SUCCESS``. Each step does only what its folder lacks,
so the same command finishes whatever was cut short.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from upath import UPath

from safe_r1.benchmarks.gpqa import as_asked
from safe_r1.config import EvaluateConfig
from safe_r1.errors import RowsLostError, StorageError
from safe_r1.evaluation.plan import Plan, finish_plan, make_plan
from safe_r1.evaluation.results import (
    ReadCompletion,
    Row,
    ShardWriter,
    is_settled,
    read_completions,
    read_results,
    read_verdicts,
    results_hash,
    sample_key,
)
from safe_r1.evaluation.scoring import (
    ReadReply,
    Task,
    agreement_note,
    check_tasks,
    expected_parts,
    is_judged,
    judge_requests,
    judge_tasks,
    make_judge,
    score_without_judge,
)
from safe_r1.inference.batch import BatchCounts, Request, Sampling, generate, row_seed
from safe_r1.inference.engine import check_resources
from safe_r1.metrics.lengths import token_lengths
from safe_r1.metrics.rates import compute_metrics
from safe_r1.progress import Progress, ProgressCallback
from safe_r1.provenance import hardware, now, versions
from safe_r1.report.html import render_html
from safe_r1.report.markdown import render_markdown
from safe_r1.resources import Cluster, Device, connect, disconnect, pick_device
from safe_r1.runs import RunFolder, check_complete
from safe_r1.schema import JUDGED_TASKS, SAMPLE_SCHEMA, Completion, Sample, Verdict

_ROWS_PER_SHARD = 512
_PROBLEMS_PER_SHARD = 32


@dataclass
class Outcome:
    """What became of one benchmark: its folder, metrics, and whether it had been complete before."""

    benchmark: str
    folder: RunFolder
    metrics: dict[str, Any]
    was_complete: bool = False
    timings: dict[str, float] = field(default_factory=dict)


def evaluate(config: EvaluateConfig, on_progress: ProgressCallback, log: Path | None = None) -> list[Outcome]:
    """Run the job to its published end, doing only what is missing.

    Args:
        config: The settings.
        on_progress: Called with the progress of each stage.
        log: This session's log, copied into the run folders at the end, however it ends.

    Raises:
        SafeR1Error: Anything a user can repair; what was finished until then is kept.
    """
    plan = make_plan(config)
    cluster = connect()
    device = pick_device(plan.variant, config.engine.device, cluster.gpu_total)
    check_resources(plan.variant, plan.engine, device, cluster.gpu_total, cluster.memory_gib)
    if plan.judge_variant:
        judge_device = pick_device(plan.judge_variant, config.judge.engine.device, cluster.gpu_total)
        check_resources(
            plan.judge_variant, config.judge.engine, judge_device, cluster.gpu_total, cluster.memory_gib
        )
    finish_plan(plan, device)
    _open(plan, cluster, device)
    try:
        return _run(plan, device, cluster, on_progress)
    finally:
        for folder in plan.folders.values():
            if log:
                folder.keep_log(log)


def _run(plan: Plan, device: Device, cluster: Cluster, on_progress: ProgressCallback) -> list[Outcome]:
    todo = {name: samples for name, samples in plan.samples.items() if not plan.folders[name].is_complete}
    outcomes = [Outcome(name, plan.folders[name], {}, was_complete=name not in todo) for name in plan.samples]
    if todo:
        started = time.monotonic()
        timings = _complete(plan, todo, device, on_progress)
        _judge(plan, todo, cluster, on_progress)
        for outcome in outcomes:
            if not outcome.was_complete:
                outcome.timings = timings | {"wall_s": round(time.monotonic() - started, 1)}
                _publish(plan, outcome)
    for outcome in outcomes:
        outcome.metrics = outcome.folder.read_json("metrics.json") or {}
    return outcomes


def _open(plan: Plan, cluster: Cluster, device: Device) -> None:
    """Create or check the run folders, and write the samples."""
    for name, folder in plan.folders.items():
        fingerprint = plan.fingerprints[name]
        folder.open(
            fingerprint,
            {
                "variant": asdict(plan.variant),
                "benchmark": name,
                "judge": plan.judge,
                "answer_key": {
                    "name": fingerprint["data"]["answer_key_name"],
                    "sha256": fingerprint["data"]["answer_key"],
                },
                "config": plan.config.model_dump(mode="json"),
                "versions": versions(),
                "hardware": hardware()
                | {"device": device, "cluster_gpus": cluster.gpu_total, "cluster_cpus": cluster.cpu_total},
                "started_at": now(),
            },
            # Another judge may be chosen until the first has judged: nothing before that depends on it.
            free=() if any(map(is_judged, read_verdicts(folder).values())) else ("judge",),
        )
        if not folder.is_complete:
            rows = [sample.to_row() for sample in plan.samples[name]]
            known = {row["sample_id"] for row in folder.read_rows("samples", SAMPLE_SCHEMA)}
            missing = [row for row in rows if row["sample_id"] not in known]
            # A problem's hidden tests are megabytes, and a column of a shard holds 2 GiB.
            size = (
                _PROBLEMS_PER_SHARD
                if any(sample.task == "code" for sample in plan.samples[name])
                else _ROWS_PER_SHARD
            )
            for start in range(0, len(missing), size):
                folder.write_shard("samples", missing[start : start + size], SAMPLE_SCHEMA, sample_key)


def _complete(
    plan: Plan, todo: dict[str, list[Sample]], device: Device, on_progress: ProgressCallback
) -> dict[str, float]:
    """Generate what is missing; gives the timings of this stage."""
    requests = []
    total = sum(len(samples) * plan.repeats(name) for name, samples in todo.items())
    for name, samples in todo.items():
        done = {key for key, row in read_completions(plan.folders[name]).items() if row["error"] is None}
        requests += [
            Request(
                f"{sample.sample_id}\t{repeat}",
                list(as_asked(sample, repeat).messages),
                plan.max_tokens(sample),
                row_seed(plan.config.generation.seed, sample.sample_id, repeat),
            )
            for repeat in range(plan.repeats(name))
            for sample in samples
            if (sample.sample_id, repeat) not in done
        ]
    stream = generate(
        requests,
        plan.variant,
        plan.engine,
        device,
        plan.sampling,
        ReadCompletion(plan.variant.name),
        ShardWriter(plan.folders, "completions"),
    )
    return _follow("completions", stream, total - len(requests), total, on_progress)


def _follow(
    stage: str, stream: Iterator[BatchCounts], done: int, total: int, on_progress: ProgressCallback
) -> dict[str, float]:
    """Drive a stream, report on it and time it.

    ``steady_tokens_per_s`` counts from the end of the first batch, so that the start of the engine is not in
    it.
    """
    failed = tokens = first_tokens = 0
    begin = first = last = time.monotonic()
    on_progress(Progress(stage, done, total))
    for batch_counts in stream:
        last = time.monotonic()
        if not tokens:
            first, first_tokens = last, batch_counts.tokens
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


def _judge(
    plan: Plan, todo: dict[str, list[Sample]], cluster: Cluster, on_progress: ProgressCallback
) -> None:
    """Score what is missing: at once where that can be, then by checks in Ray's workers, then by the judge."""
    tasks: list[Task] = []
    unchecked: list[Task] = []
    write = ShardWriter(plan.folders, "verdicts")
    for name, samples in todo.items():
        folder = plan.folders[name]
        completions = read_completions(folder)
        wanted = [(sample.sample_id, repeat) for sample in samples for repeat in range(plan.repeats(name))]
        check_complete(f"{name}: completions", wanted, completions)
        _refuse_failures(name, completions, plan.config.max_failed_share)
        settled = {key for key, row in read_verdicts(folder).items() if is_settled(row)}
        by_id = {sample.sample_id: sample for sample in samples}
        direct: list[Row] = []
        for key, row in completions.items():
            sample, completion = by_id[key[0]], Completion(**row)
            for part in expected_parts(sample, completion, plan.config.judge.parts):
                if (*key, part) in settled:
                    continue
                verdict = score_without_judge(sample, completion) if part == "answer" else None
                if verdict:
                    direct.append(asdict(verdict))
                elif sample.task in JUDGED_TASKS:
                    tasks.append(Task(sample, completion, part))
                else:
                    unchecked.append(Task(sample, completion, part))
        for start in range(0, len(direct), _ROWS_PER_SHARD):
            write(direct[start : start + _ROWS_PER_SHARD])
    if unchecked:
        _follow(
            "checks", check_tasks(unchecked, int(cluster.cpu_total), write), 0, len(unchecked), on_progress
        )
    if not tasks:
        return
    if plan.judge_variant:
        # The evaluated engine's placement groups live as long as its driver's connection (ray#64035): without
        # a new one, two tensor-parallel engines would need the GPUs of both.
        disconnect()
        connect()
        engine = plan.config.judge.engine
        stream = generate(
            judge_requests(tasks, plan.config.judge.max_tokens),
            plan.judge_variant,
            engine,
            pick_device(plan.judge_variant, engine.device, cluster.gpu_total),
            Sampling(0.0, 1.0),
            ReadReply(plan.variant.name, plan.judge),
            write,
        )
    else:
        stream = judge_tasks(make_judge(plan.config.judge), tasks, plan.judge, write)
    _follow("verdicts", stream, 0, len(tasks), on_progress)


def _refuse_failures(name: str, completions: dict[tuple[Any, ...], Row], allowed: float) -> None:
    failed = [row for row in completions.values() if row["error"] is not None]
    if len(failed) > allowed * len(completions):
        raise RowsLostError(
            f"{name}: {len(failed)} of {len(completions)} rows failed, more than max_failed_share={allowed:g} allows; "
            f"first: {failed[0]['sample_id']}: {failed[0]['error'][:200]}. The same command tries the failed rows again."
        )


def _publish(plan: Plan, outcome: Outcome) -> None:
    """Check that every count adds up, then write metrics, report and, last, the marker."""
    folder, samples = outcome.folder, plan.samples[outcome.benchmark]
    order = {sample.sample_id: position for position, sample in enumerate(samples)}
    completions = [Completion(**row) for row in read_completions(folder).values()]
    completions.sort(key=lambda row: (order[row.sample_id], row.repeat))
    verdicts = [Verdict(**row) for row in read_verdicts(folder).values()]
    by_id = {sample.sample_id: sample for sample in samples}
    parts = plan.config.judge.parts
    wanted = [
        (row.sample_id, row.repeat, part)
        for row in completions
        for part in expected_parts(by_id[row.sample_id], row, parts)
    ]
    check_complete(
        f"{outcome.benchmark}: verdicts", wanted, [(row.sample_id, row.repeat, row.part) for row in verdicts]
    )
    verdicts.sort(key=lambda row: (order[row.sample_id], row.repeat, row.part))
    metrics = compute_metrics(samples, completions, verdicts)
    metrics["tokens"] = token_lengths(completions, plan.load_tokenizer())
    info = folder.read_json("run.json") or {}
    sessions = [*info.get("sessions", []), outcome.timings]
    info |= {
        "finished_at": now(),
        "sessions": sessions,
        "wall_s": sum(session["wall_s"] for session in sessions),
    }
    if any(sample.task in JUDGED_TASKS for sample in samples):
        info["judge"] = {"name": plan.judge, "agreement": agreement_note(plan.config.judge)}
    info["results_sha256"] = results_hash(completions, verdicts)
    folder.write_json("run.json", info)
    folder.write_json("metrics.json", metrics)
    _write_report(folder, samples, completions, verdicts, metrics, info)
    folder.publish()


def _write_report(
    folder: RunFolder,
    samples: Sequence[Sample],
    completions: Sequence[Completion],
    verdicts: Sequence[Verdict],
    metrics: dict[str, Any],
    info: dict[str, Any],
) -> None:
    folder.write_text("report.md", render_markdown(metrics, info))
    folder.write_text("report.html", render_html(samples, completions, verdicts, metrics, info))


def rewrite_report(path: str) -> str:
    """Render the report of a finished run again from its rows; gives the place of ``report.html``.

    Raises:
        StorageError: The folder holds no finished run.
    """
    folder = RunFolder(UPath(path))
    if not folder.is_complete:
        raise StorageError(
            f"{path}: no finished run here (no _SUCCESS); expected OUTPUT/RUN/VARIANT/BENCHMARK"
        )
    samples, completions, verdicts = read_results(folder)
    metrics, info = folder.read_json("metrics.json") or {}, folder.read_json("run.json") or {}
    _write_report(folder, samples, completions, verdicts, metrics, info)
    return str(folder.path / "report.html")
