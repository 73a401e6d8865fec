"""The evaluation job: one variant on some benchmarks, from samples to a published report.

samples → completions (→ turns of attacks that adapt) → verdicts (→ finished answers) → metrics → report →
``_SUCCESS``. Each stage does only
what is missing in its folder, so the same command resumes an interrupted run.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from safe_r1.config import EvaluateConfig
from safe_r1.evaluation.adaptive_plan import DialogueSpecs, plan_engines
from safe_r1.evaluation.adaptive_stage import run_searches
from safe_r1.evaluation.finishing import finish_answers
from safe_r1.evaluation.follow import follow
from safe_r1.evaluation.judge_stage import judge_engine
from safe_r1.evaluation.judge_start import JudgeStart
from safe_r1.evaluation.missing import missing_requests
from safe_r1.evaluation.plan import EvaluationPlan, make_plan
from safe_r1.evaluation.publish import BenchmarkResult, publish_all, read_metrics
from safe_r1.evaluation.results import POPULATION, ReadCompletion, ShardWriter
from safe_r1.evaluation.sample_index import SampleIndex, store_samples
from safe_r1.evaluation.scoring import is_judged
from safe_r1.evaluation.target import Target
from safe_r1.evaluation.targets import make_target
from safe_r1.evaluation.verdicts import give_verdicts
from safe_r1.evaluation.workers import Workers
from safe_r1.locks.run_lock import hold
from safe_r1.progress import ProgressCallback
from safe_r1.provenance import hardware, now, versions
from safe_r1.report.export import export_missing
from safe_r1.report.trackers import check_trackers
from safe_r1.resources import Cluster, connect, disconnect
from safe_r1.runs import RunFolder, read_table
from safe_r1.settings import public_settings


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
    target = make_target(plan)
    with ThreadPoolExecutor(1) as pool:
        # A local Ray starts processes and waits for them: time for the imports of what follows.
        pool.submit(target.preload)
        cluster = connect()
    device = target.start(cluster)
    if plan.judge and plan.judge.model:
        judge_engine(config.judge.engine, plan.judge.model, cluster)
    specs = DialogueSpecs()
    if plan.searches:
        specs = plan_engines(plan.attacker, plan.judge, target.spec, cluster)
    # Everything that can be wrong has been checked: only from here on is anything written or started.
    for name, fingerprint in plan.fingerprints.items():
        fingerprint.update(target.fingerprint(name))
    samples = _open(plan, cluster, device)
    try:
        return _run(plan, target, specs, samples, cluster, on_progress)
    finally:
        for folder in plan.folders.values():
            if log:
                folder.keep_log(log)


def _run(
    plan: EvaluationPlan,
    target: Target,
    specs: DialogueSpecs,
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
        judge = JudgeStart(plan, target, cluster)
        try:
            timings = _complete(plan, target, samples, judge, on_progress)
            has_worked = target.spec is not None and timings["completions_tokens"]
            if has_worked and any(name in plan.searches for name in samples):
                # As before the engine of a judge: the last one's GPUs are free with a new connection alone.
                disconnect()
                connect()
            timings |= run_searches(plan, target, specs, samples, on_progress)
            give_verdicts(plan, samples, cluster, on_progress, judge.engine)
        finally:
            judge.discard()
        if plan.config.finish_answers:
            finish_answers(plan, target, samples, on_progress)
        for result in results:
            if not result.was_complete:
                result.timings = timings | {"wall_s": round(time.monotonic() - started, 1)}
        todo = [result for result in results if not result.was_complete]
        publish_all(plan, target, todo, samples, Workers(cluster.num_workers))
    for result in results:
        result.metrics = read_metrics(result.folder)
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
        # First, as another job that is just ending may have judged meanwhile.
        hold(folder.path)
        # The judge may be changed before it has judged anything: nothing before that depends on it.
        # A finished folder stays as it is.
        is_fixed = folder.is_complete or _has_judged(folder)
        folder.open(fingerprint, info, mutable=() if is_fixed else ("judge",))
        if not folder.is_complete:
            if population := plan.populations.get(name):
                folder.write_json(POPULATION, population.to_json())
            indexes[name] = store_samples(folder, plan.samples[name])
    return indexes


def _has_judged(folder: RunFolder) -> bool:
    # The next prompt of an attack that adapts depends on what the judge said of the last answer.
    if folder.shards("turns"):
        return True
    judges = (read_table(shard, columns=["judge"]).column(0).unique() for shard in folder.shards("verdicts"))
    return any(is_judged(judge) for column in judges for judge in column.to_pylist())


def _complete(
    plan: EvaluationPlan,
    target: Target,
    samples: dict[str, SampleIndex],
    judge: JudgeStart,
    on_progress: ProgressCallback,
) -> dict[str, float]:
    """Generate the missing completions; gives the timings of this stage."""
    samples = {name: index for name, index in samples.items() if name not in plan.searches}
    batches = missing_requests(plan, samples, target.rows_per_batch)
    total = sum(len(index) * plan.repeats(name) for name, index in samples.items())
    num_missing = sum(batch.num_rows for batch in batches)
    write = ShardWriter(plan.folders, "completions")
    finish = ReadCompletion(plan.variant.name, plan.thinking_tags)
    stream = target.complete(batches, finish, write)
    if not plan.searches:
        # What comes next needs the room otherwise.
        stream = judge.watch(stream, num_missing)
    return follow("completions", stream, total - num_missing, total, on_progress)
