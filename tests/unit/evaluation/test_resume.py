"""What a session finds of earlier ones, and what it leaves to do."""

import random
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from safe_r1.benchmarks import Benchmark
from safe_r1.benchmarks.base import BaseBenchmark
from safe_r1.config import EvaluateConfig
from safe_r1.errors import DataError, RunConflictError
from safe_r1.evaluation import plan as plans
from safe_r1.evaluation import verdicts as stage
from safe_r1.evaluation.engine_target import EngineTarget
from safe_r1.evaluation.job import _open
from safe_r1.evaluation.plan import EvaluationPlan
from safe_r1.evaluation.results import (
    ShardWriter,
    completion_key,
    has_completions,
    has_labels,
    sample_key,
)
from safe_r1.evaluation.sample_index import SampleIndex, store_samples
from safe_r1.evaluation.scoring import ScoreUnit
from safe_r1.evaluation.stage_index import index_completions, index_verdicts
from safe_r1.evaluation.units import ScoringUnit, read_samples, scoring_units
from safe_r1.resources import Cluster
from safe_r1.runs import RunFolder
from safe_r1.schema import COMPLETION_SCHEMA, SAMPLE_SCHEMA, Completion, Sample

NAME = "b"
VARIANT = "v"


class Keyed(BaseBenchmark):
    """Multiple choice of which A is always right."""

    name = NAME
    title = NAME

    def score(self, sample: Sample, repeat: int, answer: str) -> Any:
        return SimpleNamespace(is_correct=answer == "A", found=answer, explanation="")


def question(number: int) -> Sample:
    options = {"A": "是", "B": "否"}
    messages = [{"role": "user", "content": f"问 {number}"}]
    return Sample(f"b/mcq/{number}", NAME, "mcq", "a", "a", cast(Any, messages), options, {"answer": "A"})


def completed(sample: Sample, error: str | None = None) -> Completion:
    return Completion(sample.sample_id, VARIANT, 0, 3, 4, "", "", None if error else "A", None, error)


def add(folder: RunFolder, *rows: Completion) -> None:
    folder.write_shard("completions", [asdict(row) for row in rows], COMPLETION_SCHEMA, completion_key)


def open_units(folder: RunFolder, samples: SampleIndex) -> list[ScoringUnit]:
    completions = index_completions(folder, samples)
    return scoring_units(NAME, samples, completions, index_verdicts(folder, samples), 1, ("answer",))


def score(folder: RunFolder, samples: SampleIndex) -> None:
    write = ShardWriter({NAME: folder}, "verdicts")
    for unit in open_units(folder, samples):
        ScoreUnit({NAME: cast(Benchmark, Keyed())}, None, write)(unit)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.locate(str(tmp_path), "main", VARIANT, NAME)


def test_a_row_that_failed_is_scored_anew_when_it_has_come(folder: RunFolder):
    questions = [question(number) for number in range(12)]
    samples = store_samples(folder, questions)
    add(folder, *(completed(each, "boom" if number % 3 else None) for number, each in enumerate(questions)))
    score(folder, samples)
    assert index_verdicts(folder, samples).is_final.sum() == 4
    # In shards of one row: by their hashes some lie before, some behind the first one.
    for number, each in enumerate(questions):
        if number % 3:
            add(folder, completed(each))
    units = open_units(folder, samples)
    assert sum(unit.num_rows for unit in units) == 8
    score(folder, samples)
    verdicts = index_verdicts(folder, samples)
    assert (len(verdicts), verdicts.is_final.sum()) == (12, 12)
    assert not open_units(folder, samples)


def test_a_failure_that_comes_later_changes_nothing(folder: RunFolder):
    questions = [question(number) for number in range(40)]
    samples = store_samples(folder, questions)
    for each in questions:
        add(folder, completed(each))
    add(folder, *(completed(each, "boom") for each in questions))
    assert index_completions(folder, samples).is_final.all()


def test_samples_that_an_earlier_version_wrote_are_found(folder: RunFolder):
    questions = [question(number) for number in range(1200)]
    # In shards of 512 rows in any order, of which the job was killed before the last.
    earlier = random.Random(0).sample(questions, len(questions))[:1024]
    for start in (0, 512):
        rows = [each.to_row() for each in earlier[start : start + 512]]
        folder.write_shard("samples", rows, SAMPLE_SCHEMA, sample_key)
    samples = store_samples(folder, questions)
    assert samples.ids.to_pylist() == [each.sample_id for each in questions]
    for place in range(0, len(questions), 97):
        shard = samples.shards[int(samples.shard[place])]
        [found] = read_samples(shard, samples.row[place : place + 1])
        assert found == questions[place]


def test_whether_model_and_judge_have_worked(folder: RunFolder):
    questions = [question(number) for number in range(2)]
    samples = store_samples(folder, questions)
    assert not has_completions(folder)
    add(folder, completed(questions[0], "boom"))
    assert not has_completions(folder)
    add(folder, completed(questions[1]))
    assert has_completions(folder)
    score(folder, samples)
    assert has_labels(folder, "answer-key")
    assert not has_labels(folder, "j@12345678")


@pytest.mark.parametrize("error", [None, "boom"])
def test_an_engine_is_told_whether_its_model_has_worked(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, error: str | None
):
    told: list[bool] = []
    monkeypatch.setattr("safe_r1.evaluation.engine_target.generate", lambda *args: told.append(args[-1]))
    store_samples(folder, [question(0)])
    add(folder, completed(question(0), error))
    plan = SimpleNamespace(folders={NAME: folder}, engine=None, variant=None, sampling=None)
    EngineTarget(cast(EvaluationPlan, plan)).complete([], cast(Any, None), cast(Any, None))
    assert told == [error is None]


@pytest.mark.slow
def test_a_few_left_over_rows_of_many_shards_are_checked_together(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
):
    class Slow(Keyed):
        score_limit_s = 5.0

    questions = [replace(question(number), task="math", options={}) for number in range(50)]
    samples = store_samples(folder, questions)
    for each in questions:
        add(folder, completed(each))
    calls: list[int] = []

    def scored(_: object, pending: list[object], *__: object) -> Iterator[object]:
        calls.append(len(pending))
        return iter(())

    monkeypatch.setattr(stage, "score_in_workers", scored)
    monkeypatch.setattr(stage, "_ROWS_TOGETHER", 20)
    plan = SimpleNamespace(benchmarks={NAME: Slow()})
    cluster = Cluster(gpu_total=0, cpu_total=2, memory_gib=4)
    units = open_units(folder, samples)
    assert len(units) == 50
    list(stage._check(cast(EvaluationPlan, plan), units, cluster, cast(Any, None)))
    assert calls == [20, 20, 10]


def test_a_finished_folder_keeps_its_judge(folder: RunFolder):
    data = {"answer_key": "0", "answer_key_name": "x"}
    first, second = ({"judge": {"name": name}, "data": data} for name in ("j", "k"))
    plan = SimpleNamespace(
        folders={NAME: folder},
        fingerprints={NAME: first},
        variant=SimpleNamespace(public=dict),
        judge=None,
        config=EvaluateConfig(variant=VARIANT),
        benchmarks={NAME: Keyed()},
        samples={NAME: [question(0)]},
        populations={},
    )
    cluster = Cluster(gpu_total=0, cpu_total=2, memory_gib=4)
    assert set(_open(cast(EvaluationPlan, plan), cluster, "cpu")) == {NAME}
    folder.publish()
    before = (folder.path / "run.json").read_text()
    plan.fingerprints = {NAME: second}
    with pytest.raises(RunConflictError, match="judge"):
        _open(cast(EvaluationPlan, plan), cluster, "cpu")
    assert (folder.path / "run.json").read_text() == before


def test_a_benchmark_without_questions_is_refused():
    class Empty(Keyed):
        def load(self, *_: object) -> list[Sample]:
            return []

    with pytest.raises(DataError, match="b: no questions"):
        plans._load(cast(Any, Empty()), EvaluateConfig(variant=VARIANT))
