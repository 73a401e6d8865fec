"""Work on one shard: the questions that are still to be asked, the completions that wait for verdicts.

Units are made from the small columns of a run, and read their texts where they are worked on, so that the
driver holds none.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from upath import UPath

from safe_r1.benchmarks import Benchmark
from safe_r1.evaluation.results import RequestKey
from safe_r1.evaluation.sample_index import Ints, SampleIndex
from safe_r1.evaluation.stage_index import Bools, StageIndex, key_of, split_by_shard
from safe_r1.inference.requests import Opening, Request, row_seed
from safe_r1.judge.base import JudgeItem
from safe_r1.runs import Row, read_table
from safe_r1.schema import (
    COMPLETION_SCHEMA,
    JUDGED_PARTS,
    OPENING_ANSWER,
    OPENING_THOUGHT,
    SAMPLE_SCHEMA,
    Completion,
    Part,
    Sample,
    Task,
)


@dataclass(frozen=True)
class Pending:
    """One part of a completion that waits for its verdict."""

    sample: Sample
    completion: Completion
    part: Part

    @property
    def key(self) -> RequestKey:
        """What a request about it carries."""
        return RequestKey.of(self.sample, self.completion.repeat, self.part)

    @property
    def item(self) -> JudgeItem:
        """The judge's input."""
        text = self.completion.answer if self.part == "answer" else self.completion.reasoning
        return JudgeItem(
            messages=self.sample.messages, text=text or "", part=self.part, task=self.sample.task
        )


def expected_parts(sample: Sample, completion: Completion, parts: Sequence[Part]) -> list[Part]:
    """Parts of a completion that get a verdict: the answer, and the reasoning if it exists and is judged.

    Args:
        sample: The question.
        completion: The completion of it.
        parts: Parts that the run judges.
    """
    judges_reasoning = "reasoning" in JUDGED_PARTS.get(sample.task, ()) and "reasoning" in parts
    return ["answer", "reasoning"] if judges_reasoning and completion.reasoning else ["answer"]


@dataclass(frozen=True)
class SampleRequests:
    """Questions of one shard in one repeat: a ``RequestBatch``.

    Attributes:
        benchmark: Their benchmark.
        shard: File of the samples.
        rows: Their rows in it.
        repeat: The repeat.
        max_tokens: Maximum length of a completion by task.
        seed: Of the run.
    """

    benchmark: Benchmark
    shard: UPath
    rows: Ints
    repeat: int
    max_tokens: Mapping[Task, int]
    seed: int

    @property
    def num_rows(self) -> int:
        """Number of questions."""
        return len(self.rows)

    def read(self) -> Iterator[Request]:
        """The questions as the model is asked."""
        for sample in read_samples(self.shard, self.rows):
            yield request_of(self.benchmark, sample, self.repeat, self.max_tokens[sample.task], self.seed)


def request_of(benchmark: Benchmark, sample: Sample, repeat: int, max_tokens: int, seed: int) -> Request:
    """A question as the model is asked in one repeat."""
    asked = benchmark.as_asked(sample, repeat)
    thought, answer = map(asked.metadata.get, (OPENING_THOUGHT, OPENING_ANSWER))
    return Request(
        RequestKey.of(sample, repeat).to_text(),
        list(asked.messages),
        max_tokens,
        row_seed(seed, sample.sample_id, repeat),
        opening=None if thought is None and answer is None else Opening(thought, answer),
        given=sample.metadata.get("given_answer"),
        given_reasoning=sample.metadata.get("given_reasoning", ""),
    )


def read_samples(shard: UPath, rows: Ints) -> Iterator[Sample]:
    """Some samples of a file."""
    return map(Sample.from_row, _read(shard, SAMPLE_SCHEMA, rows))


def read_completions_at(shard: UPath, rows: Ints) -> Iterator[Completion]:
    """Some completions of a file."""
    return (Completion(**row) for row in _read(shard, COMPLETION_SCHEMA, rows))


def _read(shard: UPath, schema: pa.Schema, rows: Ints) -> list[Row]:
    return read_table(shard, schema=schema).take(pa.array(rows)).to_pylist()


@dataclass(frozen=True)
class ScoringUnit:
    """Completions of one shard of which some parts may lack their verdict.

    Attributes:
        benchmark: Name of the benchmark, under which its verdicts are written.
        shard: File of the completions.
        rows: Their rows in it, shape (rows,), as the next four.
        has_answer, has_reasoning: Whether the verdict on that part is there for good.
        sample_shard: File of each one's sample, as a position in ``sample_shards``.
        sample_row: Row of the sample in that file.
        sample_shards: The files that hold the samples.
        parts: Parts that the run judges.
    """

    benchmark: str
    shard: UPath
    rows: Ints
    has_answer: Bools
    has_reasoning: Bools
    sample_shard: Ints
    sample_row: Ints
    sample_shards: list[UPath]
    parts: tuple[Part, ...]

    @property
    def num_rows(self) -> int:
        """Number of completions."""
        return len(self.rows)

    def read(self) -> Iterator[Pending]:
        """The parts that lack their verdict."""
        samples: dict[int, Sample] = {}
        for number, shard in enumerate(self.sample_shards):
            mine = np.flatnonzero(self.sample_shard == number)
            samples |= zip(mine.tolist(), read_samples(shard, self.sample_row[mine]), strict=True)
        for place, completion in enumerate(read_completions_at(self.shard, self.rows)):
            sample = samples[place]
            for part in expected_parts(sample, completion, self.parts):
                if not (self.has_answer if part == "answer" else self.has_reasoning)[place]:
                    yield Pending(sample, completion, part)


def scoring_units(
    benchmark: str,
    samples: SampleIndex,
    completions: StageIndex,
    verdicts: StageIndex,
    num_repeats: int,
    parts: tuple[Part, ...],
) -> list[ScoringUnit]:
    """A unit for each shard of completions that may have work left."""
    settled = [
        np.isin(
            key_of(completions, num_repeats),
            key_of(verdicts, num_repeats)[verdicts.is_final & (verdicts.part == number)],
        )
        for number in (0, 1)
    ]
    is_open = ~settled[0]
    if "reasoning" in parts:
        # Whether there is a reasoning only its text says.
        is_open |= samples.has_judged_reasoning(completions.position) & ~settled[1]
    return units_of(benchmark, samples, completions, is_open, settled, parts)


def units_of(
    benchmark: str,
    samples: SampleIndex,
    completions: StageIndex,
    is_open: Bools,
    settled: Sequence[Bools],
    parts: tuple[Part, ...],
) -> list[ScoringUnit]:
    """A unit for each shard of completions that holds open ones.

    Args:
        benchmark: Name of the benchmark.
        samples: Its samples.
        completions: Its completions.
        is_open: Those that are in a unit, shape (completions,).
        settled: Whether the verdict on the answer, and that on the reasoning, is there, each of that shape.
        parts: Parts that the run judges.
    """
    units: list[ScoringUnit] = []
    for members in split_by_shard(completions):
        mine = members[is_open[members]]
        if not len(mine):
            continue
        position = completions.position[mine]
        used, sample_shard = np.unique(samples.shard[position], return_inverse=True)
        units.append(
            ScoringUnit(
                benchmark,
                completions.shards[int(completions.shard[mine[0]])],
                completions.row[mine],
                settled[0][mine],
                settled[1][mine],
                sample_shard,
                samples.row[position],
                [samples.shards[number] for number in used],
                parts,
            )
        )
    return units
