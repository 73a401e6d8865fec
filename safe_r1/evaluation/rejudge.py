"""Verdicts of a further judge on a finished run: nothing is generated again, and no verdict is replaced.

The verdicts of the run's own judge stay where they are. Those of every further judge have a folder of their
own in the run folder, with the rates and the report that they give::

    OUTPUT/RUN/VARIANT/BENCHMARK/judges/NAME@IDENTITY/
      verdicts/ metrics.json judge.json report.md report.html _SUCCESS

The same command again judges only what is missing. Verdicts that no judge gave (answer keys, checks,
completions without an answer) are taken over as they are.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
from pydantic import Field

from safe_r1.config import JudgeConfig, JudgeRule, ReportConfig
from safe_r1.errors import ConfigError, NoResultError, StorageError
from safe_r1.evaluation.follow import follow
from safe_r1.evaluation.judge_stage import JudgeRequests, ReadReply, judge_on_engine
from safe_r1.evaluation.publish import summarize, write_report
from safe_r1.evaluation.results import ShardWriter, has_labels
from safe_r1.evaluation.run_rows import read_run
from safe_r1.evaluation.sample_index import SampleIndex, index_samples
from safe_r1.evaluation.scoring import is_judged, judge_here
from safe_r1.evaluation.stage_index import index_completions, index_verdicts
from safe_r1.evaluation.units import ScoringUnit, scoring_units
from safe_r1.evaluation.workers import Workers
from safe_r1.inference.requests import BatchCounts
from safe_r1.judge.factory import JudgePlan, check_kind, make_judge, plan_judge
from safe_r1.progress import ProgressCallback
from safe_r1.provenance import now
from safe_r1.runs import JUDGES, LAYOUT, JsonObject, RunFolder, as_path, find_runs, read_table, write_table
from safe_r1.schema import JUDGED_PARTS, VERDICT_SCHEMA, Part
from safe_r1.settings import Settings, hide_credentials

COPY_PREFIX = "own-"
"""Begins the names of shards that hold copies of the run's verdicts that no judge gave."""


class RejudgeConfig(Settings):
    """Further judges of finished runs."""

    run: str = Field(description="finished runs: OUTPUT/RUN/VARIANT/BENCHMARK, or a folder or URI above it")
    judge: JudgeConfig = Field(default=JudgeConfig())
    further_judges: tuple[str, ...] = Field(
        default=(),
        description="kinds of more judges, asked with the settings of judge.* but model and policy",
    )
    judge_rule: JudgeRule | None = Field(
        default=None,
        description="one label of the run's own judge and these together: what more than half say, the worst "
        "for the model, or that of the first judge with one; null: none",
    )

    @property
    def judges(self) -> list[JudgeConfig]:
        """The settings of every judge."""
        return [self.judge, *(with_kind(self.judge, kind) for kind in self.further_judges)]


def with_kind(config: JudgeConfig, kind: str) -> JudgeConfig:
    """The settings of another judge that is asked in the same way.

    Raises:
        ConfigError: The kind is malformed.
    """
    check_kind(kind)
    return JudgeConfig.model_validate({**dict(config), "kind": kind, "model": None, "policy": None})


@dataclass(frozen=True)
class Rejudged:
    """The verdicts of a further judge on one run.

    Attributes:
        run: The run.
        folder: Where they are.
        judge: The judge as it is printed.
        metrics: Content of its ``metrics.json``.
        was_complete: Whether all of them were there before.
    """

    run: RunFolder
    folder: RunFolder
    judge: str
    metrics: JsonObject
    was_complete: bool


@dataclass(frozen=True)
class _Task:
    """One run that is judged again."""

    run: RunFolder
    folder: RunFolder
    info: JsonObject
    samples: SampleIndex
    parts: tuple[Part, ...]


def rejudge(path: str, config: JudgeConfig, on_progress: ProgressCallback) -> list[Rejudged]:
    """Give finished runs the verdicts of a further judge, doing only what is missing.

    Args:
        path: The runs, see ``RejudgeConfig``.
        config: The judge.
        on_progress: Called with the progress.

    Raises:
        ConfigError: No finished run with answers that a judge labels, the judge is the run's own, or it
            cannot label a task.
        NoResultError: The judge gave no label to any answer of a run; the rows are kept.
        SafeR1Error: See ``plan_judge``.
    """
    check_kind(config.kind)
    runs = _finished_runs(path)
    judge = plan_judge(config)
    # All that can be wrong is found before anything is judged.
    tasks = [_task(run, samples, judge) for run, samples in runs]
    for task in tasks:
        task.folder.open(
            {"judge": {"name": judge.name, "identity": judge.identity, "parts": list(task.parts)}},
            {"started_at": now(), "facts": judge.facts},
            name="judge.json",
        )
    complete = [task.folder.is_complete for task in tasks]
    _judge([task for task, done in zip(tasks, complete, strict=True) if not done], judge, on_progress)
    return [
        Rejudged(
            task.run,
            task.folder,
            judge.label,
            task.folder.read_json("metrics.json") or {} if done else _publish(task, judge),
            done,
        )
        for task, done in zip(tasks, complete, strict=True)
    ]


def judge_folder(run: RunFolder, label: str) -> RunFolder:
    """Where the verdicts of a further judge are; ``label`` is the judge as it is printed."""
    return RunFolder(run.path / JUDGES / re.sub(r"[^\w.@-]+", "-", label))


def _finished_runs(path: str) -> list[tuple[RunFolder, SampleIndex]]:
    """The finished runs at a path that have answers which a judge labels."""
    found = [run for run in find_runs(as_path(path)) if run.is_complete]
    if not found:
        raise StorageError(f"{hide_credentials(path)}: no finished run here; expected {LAYOUT}")
    indexed = [(run, index_samples(run)) for run in found]
    judged = [(run, samples) for run, samples in indexed if _tasks_of(samples) & JUDGED_PARTS.keys()]
    if not judged:
        raise ConfigError(
            f"{hide_credentials(path)}: no judge labels the answers of its tasks; expected a run with "
            f"{' or '.join(JUDGED_PARTS)}"
        )
    return judged


def _tasks_of(samples: SampleIndex) -> set[str]:
    return {kind.task for kind in samples.kinds}


def _task(run: RunFolder, samples: SampleIndex, judge: JudgePlan) -> _Task:
    judge.check_tasks({kind.task for kind in samples.kinds})
    info = run.read_json("run.json") or {}
    own = info.get("fingerprint", {}).get("judge", {})
    if own.get("identity") == judge.identity:
        raise ConfigError(f"{run.path}: {judge.label} is the judge of this run already; give another --judge")
    folder = judge_folder(run, judge.label)
    # The parts that the run's own judge has labelled, so that the two can be compared.
    return _Task(run, folder, info, samples, tuple(own.get("parts") or judge.config.parts))


def _judge(tasks: Sequence[_Task], judge: JudgePlan, on_progress: ProgressCallback) -> None:
    """Give all missing verdicts."""
    # By number: several variants may have a run of the same benchmark.
    units: dict[str, list[tuple[ScoringUnit, int]]] = {}
    for number, task in enumerate(tasks):
        copy_others(task.run, task.folder)
        completions = index_completions(task.run, task.samples)
        verdicts = index_verdicts(task.folder, task.samples)
        num_repeats = int(completions.repeat.max(initial=0)) + 1
        name = str(number)
        made = scoring_units(name, task.samples, completions, verdicts, num_repeats, task.parts)
        counted = [(unit, sum(1 for _ in unit.read())) for unit in made]
        units[name] = [(unit, num_rows) for unit, num_rows in counted if num_rows]
    total = sum(num_rows for of_run in units.values() for _, num_rows in of_run)
    if not total:
        return
    stream = _on_engine(tasks, judge, units) if judge.model else _here(tasks, judge, units)
    follow("verdicts", stream, 0, total, on_progress)


def copy_others(run: RunFolder, folder: RunFolder) -> None:
    """Take over the verdicts that no judge gave, from a run to the folder of a further judge."""
    for shard in run.shards("verdicts"):
        table = read_table(shard, schema=VERDICT_SCHEMA)
        others = table.filter(pa.array([not is_judged(judge) for judge in table.column("judge").to_pylist()]))
        if len(others):
            # Under the name of its shard: a repeated copy replaces itself.
            write_table(folder.path / "verdicts" / f"{COPY_PREFIX}{shard.name}", others)


_Units = Mapping[str, Sequence[tuple[ScoringUnit, int]]]
"""Work by the number of the run, each unit with its number of rows."""


def _here(tasks: Sequence[_Task], judge: JudgePlan, units: _Units) -> Iterator[BatchCounts]:
    made = make_judge(judge)
    for number, of_run in units.items():
        task = tasks[int(number)]
        # A sample bears the benchmark's name, as the folder of its run does.
        write = ShardWriter({task.run.path.name: task.folder}, "verdicts")
        for unit, _ in of_run:
            yield from judge_here(made, list(unit.read()), judge.label, write)


def _on_engine(tasks: Sequence[_Task], judge: JudgePlan, units: _Units) -> Iterator[BatchCounts]:
    """All runs on one engine, whose start takes longer than judging a few rows."""
    max_tokens = judge.config.reply_tokens
    requests = [
        JudgeRequests(unit, num_rows, max_tokens, judge.policy)
        for of_run in units.values()
        for unit, num_rows in of_run
    ]
    names = {str(number): task for number, task in enumerate(tasks)}
    variants = {name: task.info.get("variant", {}).get("name", "") for name, task in names.items()}
    write = ShardWriter({name: task.folder for name, task in names.items()}, "verdicts")
    has_worked = any(has_labels(task.folder, judge.label) for task in tasks)
    return judge_on_engine(judge, requests, ReadReply(variants, judge.label, judge.policy), write, has_worked)


def _publish(task: _Task, judge: JudgePlan) -> JsonObject:
    return publish_verdicts(task.run, task.folder, task.samples, task.parts, judge.facts)


def publish_verdicts(
    run: RunFolder,
    folder: RunFolder,
    samples: SampleIndex,
    parts: tuple[Part, ...],
    judge: Mapping[str, str],
    first: Collection[str] = frozenset(),
) -> JsonObject:
    """Write rates and report by the verdicts in a folder of their own; the marker comes last.

    Args:
        run: The run.
        folder: The verdicts.
        samples: The run's samples.
        parts: Parts of a completion that have a verdict.
        judge: What ``run.json`` would hold of the judge; see ``JudgePlan.facts``.
        first: Ids of samples that a report of a large run shows before others.

    Returns:
        The content of ``metrics.json``.

    Raises:
        NoResultError: No answer of a task has a label.
    """
    info = run.read_json("run.json") or {}
    max_rows = info.get("config", {}).get("report", {}).get("max_rows", ReportConfig().max_rows)
    rows = read_run(run, samples, Workers(0), parts, None, verdicts_of=folder)
    summary = summarize(rows, max_rows, first)
    if empty := [each.name for each in summary.coverage if not each.num_scored]:
        raise NoResultError(
            f"{run.path}: {judge['name']} gave no label to any answer of {', '.join(empty)}; its rows are in "
            f"{folder.path}, which may be removed to judge them anew"
        )
    tokens = (run.read_json("metrics.json") or {}).get("tokens", {})
    metrics = summary.metrics | {"tokens": tokens}
    info |= {
        "judge": dict(judge),
        "first_judge": info.get("judge"),
        "results_sha256": rows.results_hash(),
        "finished_at": now(),
    }
    folder.write_json("metrics.json", metrics)
    write_report(folder, summary, metrics, info)
    folder.publish()
    return metrics
