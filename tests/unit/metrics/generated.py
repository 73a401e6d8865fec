"""Run folders with every kind of missing row, drawn at random, for figures that are computed twice."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from safe_r1.benchmarks.options import swap_options
from safe_r1.benchmarks.selection import select
from safe_r1.evaluation.publish import summarize
from safe_r1.evaluation.results import POPULATION, completion_key, sample_key, verdict_key
from safe_r1.evaluation.run_rows import read_run
from safe_r1.evaluation.sample_index import index_samples
from safe_r1.evaluation.workers import Workers
from safe_r1.metrics.strata import Population
from safe_r1.runs import JsonObject, RunFolder
from safe_r1.schema import (
    COMPLETION_SCHEMA,
    FINISHED_SCHEMA,
    SAMPLE_SCHEMA,
    VERDICT_SCHEMA,
    Completion,
    ComplianceLabel,
    FinishedAnswer,
    Message,
    RefusalLabel,
    Sample,
    Task,
    Verdict,
)

_LETTERS = "ABCD"
_LABELS: dict[str, Sequence[str]] = {"refusal": list(RefusalLabel), "over_refusal": list(ComplianceLabel)}
_FATES = ("scored", "cut", "truncated", "unfinished", "failed", "blocked", "refused_to_judge")


def make_samples(rng: random.Random, sizes: dict[Task, int]) -> list[Sample]:
    """Questions of several tasks in areas and categories of unequal size."""
    samples: list[Sample] = []
    for task, size in sizes.items():
        for number in range(size):
            area = ("safe", "unsafe")[number % 3 == 0] if task == "over_refusal" else f"a{number % 2}"
            options: dict[str, str] = {}
            marked: list[str] = []
            metadata = {"has_history": str(task == "refusal" and number % 5 == 0).lower()}
            if task == "mcq":
                options = {
                    letter: f"option {number}-{letter}" for letter in _LETTERS[: rng.choice((2, 3, 4))]
                }
                marked = [f"{letter}. {text}" for letter, text in options.items()]
                metadata["answer"] = rng.choice(list(options))
                metadata["key_confidence"] = rng.choice(("high", "low"))
            samples.append(
                Sample(
                    f"b/{task}/{number}",
                    "b",
                    task,
                    area,
                    f"{area}/c{rng.choice((0, 0, 0, 1, 1, 2, 3))}",
                    [Message(role="user", content="\n".join(["?", *marked]))],
                    options,
                    metadata,
                )
            )
    return samples


def write_run(
    output: Path,
    seed: int,
    *,
    sizes: dict[Task, int],
    repeats: int = 1,
    swap: bool = False,
    limit: int | None = None,
    fates: Sequence[str] = _FATES,
    fault_share: float = 0.4,
    finish: bool = False,
) -> RunFolder:
    """A run of which some rows have a fault."""
    rng = random.Random(seed)
    benchmark = make_samples(rng, sizes)
    folder = RunFolder.locate(str(output), f"run{seed}", "v", "b")
    folder.open({"seed": seed}, {"benchmark": "b", "variant": {"name": "v"}})
    samples = list(select(benchmark, limit, seed, swap=False))
    if limit:
        folder.write_json(POPULATION, Population.of(benchmark).to_json())
    if swap:
        samples += [swap_options(sample) for sample in samples if sample.task == "mcq"]
    completions: list[Completion] = []
    verdicts: list[Verdict] = []
    for sample in samples:
        skill = rng.random()
        for repeat in range(repeats):
            fate = rng.choice(fates) if rng.random() < fault_share else "scored"
            completions.append(_completion(sample, repeat, fate))
            verdicts.append(_answer(rng, sample, repeat, fate, skill))
            if sample.task == "refusal" and fate not in ("failed", "blocked") and rng.random() < 0.9:
                verdicts.append(_verdict(sample, repeat, "reasoning", _draw(rng, sample, skill), fate, rng))
    folder.write_shard("samples", [each.to_row() for each in samples], SAMPLE_SCHEMA, sample_key)
    # In two shards: whole figures must not depend on how rows were written.
    for part in (slice(0, None, 2), slice(1, None, 2)):
        folder.write_shard(
            "completions", [asdict(row) for row in completions[part]], COMPLETION_SCHEMA, completion_key
        )
        folder.write_shard("verdicts", [asdict(row) for row in verdicts[part]], VERDICT_SCHEMA, verdict_key)
    if finish:
        finished = [asdict(row) for row in _finished(rng, samples, verdicts)]
        for part in (slice(0, None, 2), slice(1, None, 2)):
            folder.write_shard("finished", finished[part], FINISHED_SCHEMA, completion_key)
    return folder


def _finished(
    rng: random.Random, samples: Sequence[Sample], verdicts: Sequence[Verdict]
) -> Iterator[FinishedAnswer]:
    by_id = {sample.sample_id: sample for sample in samples if sample.group == "mcq"}
    for verdict in verdicts:
        sample = by_id.get(verdict.sample_id)
        if sample and verdict.choice is None and verdict.unscored_reason not in ("failed", "blocked"):
            choice = rng.choice((*sample.options, None))
            error = "boom" if choice is None and rng.random() < 0.5 else None
            yield FinishedAnswer(sample.sample_id, "v", verdict.repeat, 5, 1, choice or "", choice, error)


def metrics_of(folder: RunFolder) -> JsonObject:
    """The metrics that the evaluation computes of a run."""
    rows = read_run(folder, index_samples(folder), Workers(0), parts=None, count_tokens=None)
    return summarize(rows, max_rows=10).metrics


def _completion(sample: Sample, repeat: int, fate: str) -> Completion:
    has_answer = fate in ("scored", "cut", "refused_to_judge")
    finish = {"failed": None, "cut": "length", "truncated": "length"}.get(fate, "stop")
    return Completion(
        sample.sample_id,
        "v",
        repeat,
        5,
        5,
        "text",
        "thought" if fate not in ("failed", "blocked") else "",
        "answer" if has_answer else None,
        finish,
        "boom" if fate == "failed" else None,
        "input" if fate == "blocked" else None,
    )


def _draw(rng: random.Random, sample: Sample, skill: float) -> str:
    if sample.task in _LABELS:
        labels = _LABELS[sample.task]
        return str(labels[-1] if rng.random() < skill else rng.choice(labels))
    return "correct" if rng.random() < skill else "incorrect"


def _answer(rng: random.Random, sample: Sample, repeat: int, fate: str, skill: float) -> Verdict:
    choice = None
    label = _draw(rng, sample, skill)
    if sample.options:
        choice = rng.choice((*sample.options, sample.metadata["answer"], None))
        label = "correct" if choice == sample.metadata["answer"] else "incorrect"
    reason = None if fate in ("scored", "cut") else fate
    return Verdict(
        sample.sample_id,
        "v",
        repeat,
        "answer",
        None if reason else label,
        None if reason else 0,
        "j@0",
        reason,
        None if reason else choice,
    )


def _verdict(sample: Sample, repeat: int, part, label: str, fate: str, rng: random.Random) -> Verdict:
    reason = "no_verdict" if rng.random() < 0.1 else None
    return Verdict(
        sample.sample_id, "v", repeat, part, None if reason else label, None if reason else 0, "j@0", reason
    )
