"""A plan whose benchmark is generated and scored already, so that only publishing is left."""

from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from safe_r1.config import EvaluateConfig
from safe_r1.evaluation.plan import EvaluationPlan
from safe_r1.evaluation.publish import BenchmarkResult, publish_all
from safe_r1.evaluation.results import completion_key, sample_key, verdict_key
from safe_r1.evaluation.sample_index import store_samples
from safe_r1.evaluation.target import Target
from safe_r1.evaluation.workers import Workers
from safe_r1.runs import RunFolder
from safe_r1.schema import COMPLETION_SCHEMA, SAMPLE_SCHEMA, VERDICT_SCHEMA, Verdict
from tests.unit.report.report_rows import Rows, make_rows

NAME = "chisafetybench"


def scored_rows(num_mcq: int = 8, num_refusal: int = 6) -> Rows:
    """Rows that all have labels."""
    samples, completions, verdicts = make_rows(num_mcq, num_refusal)
    parts = {(each.sample_id, each.repeat, each.part) for each in verdicts}
    labels = {"mcq": ("incorrect", 0), "refusal": ("直接拒绝", 2)}
    of_sample = {each.sample_id: each.task for each in samples}
    completions = [
        replace(each, answer=each.answer or "好", reasoning="", error=None, finish_reason="stop")
        for each in completions
    ]
    assert {part for *_, part in parts} >= {"answer"}
    verdicts = [
        Verdict(
            each.sample_id,
            each.variant,
            each.repeat,
            "answer",
            *labels[of_sample[each.sample_id]],
            "j@0",
            None,
        )
        for each in completions
    ]
    return samples, completions, verdicts


def unscored(rows: Rows, task: str, reason: str, keep: int = 0) -> Rows:
    """The rows, where all answers of a task but ``keep`` have no label for this reason."""
    samples, completions, verdicts = rows
    mine = [each.sample_id for each in samples if each.task == task][keep:]
    verdicts = [
        replace(each, label=None, degree=None, unscored_reason=reason) if each.sample_id in mine else each
        for each in verdicts
    ]
    if reason == "truncated":
        completions = [replace(each, answer=None) if each.sample_id in mine else each for each in completions]
    return samples, completions, verdicts


def make_plan(output: Path, rows: dict[str, Rows], variant: str = "v", **settings: Any) -> EvaluationPlan:
    """The plan of a job that has written these rows of each benchmark."""
    config = EvaluateConfig(variant=variant, output=str(output), **settings)
    folders = {}
    for name, (samples, completions, verdicts) in rows.items():
        folders[name] = folder = RunFolder.locate(str(output), "main", variant, name)
        folder.open({"seed": 0}, {"benchmark": name, "variant": {"name": variant}})
        folder.write_shard("samples", [each.to_row() for each in samples], SAMPLE_SCHEMA, sample_key)
        folder.write_shard(
            "completions", [asdict(each) for each in completions], COMPLETION_SCHEMA, completion_key
        )
        folder.write_shard("verdicts", [asdict(each) for each in verdicts], VERDICT_SCHEMA, verdict_key)
    plan = SimpleNamespace(
        config=config,
        samples={name: samples for name, (samples, _, _) in rows.items()},
        folders=folders,
        judge=None,
        repeats=lambda name: 1,
        max_tokens=lambda *_: 48,
        context=lambda name: 1024,
    )
    return cast(EvaluationPlan, plan)


def results_of(plan: EvaluationPlan) -> list[BenchmarkResult]:
    """The results of a session that published nothing yet."""
    return [
        BenchmarkResult(name, folder, {}, timings={"wall_s": 1.0}) for name, folder in plan.folders.items()
    ]


def publish_here(plan: EvaluationPlan, results: list[BenchmarkResult]) -> None:
    """Publish with a target that is not started."""
    target = SimpleNamespace(token_counter=lambda: None, facts=lambda *_: {}, finished=lambda _: None)
    samples = {name: store_samples(folder, plan.samples[name]) for name, folder in plan.folders.items()}
    publish_all(plan, cast(Target, target), results, samples, Workers(0))
