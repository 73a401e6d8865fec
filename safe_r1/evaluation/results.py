"""The rows of a run folder: their keys, how workers write them, and how they are read back."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Generic, Literal, Self, TypeVar

from safe_r1.inference.requests import EngineResult
from safe_r1.metrics.strata import Population
from safe_r1.models.reasoning import split_reasoning
from safe_r1.models.thinking import ThinkingTags
from safe_r1.runs import STAGE_SCHEMAS, Key, Row, RunFolder, latest, read_table
from safe_r1.schema import (
    COMPLETION_SCHEMA,
    SAMPLE_SCHEMA,
    TRIED_AGAIN,
    VERDICT_SCHEMA,
    Completion,
    FinishedAnswer,
    Part,
    Sample,
    Task,
    Verdict,
)

POPULATION = "population.json"
"""Numbers of all questions of the benchmark, in the folder of a run that asks a selection of them."""


def sample_key(row: Row) -> tuple[str]:
    """Identity of a sample."""
    return (row["sample_id"],)


def completion_key(row: Row) -> tuple[str, int]:
    """Identity of a completion inside a run."""
    return row["sample_id"], row["repeat"]


def turn_key(row: Row) -> tuple[str, int, int, int, str]:
    """Identity of a call of an attack that adapts, inside a run."""
    return row["sample_id"], row["repeat"], row["depth"], row["branch"], row["step"]


def verdict_key(row: Row) -> tuple[str, int, str]:
    """Identity of a verdict inside a run."""
    return row["sample_id"], row["repeat"], row["part"]


_KEYS: Mapping[str, Callable[[Row], Key]] = {
    "completions": completion_key,
    "verdicts": verdict_key,
    "finished": completion_key,
}


@dataclass(frozen=True)
class RequestKey:
    """What a request to an engine is about; passed to the engine as text and returned with its result.

    Attributes:
        benchmark: Name of the benchmark.
        sample_id: The sample.
        task: The sample's task.
        repeat: The repeat.
        part: The part that is judged; of a request to the evaluated model ``answer``, or ``finished`` where
            it is asked to end that answer.
        piece: Of a text that is judged in pieces, the number of the piece from 0.
        num_pieces: In how many pieces it is judged.
        place: Of a call of an attack that adapts, where it stands in its conversation.
    """

    benchmark: str
    sample_id: str
    task: Task
    repeat: int
    part: Part | Literal["finished"] = "answer"
    piece: int = 0
    num_pieces: int = 1
    place: str = ""

    @classmethod
    def of(cls, sample: Sample, repeat: int, part: Part | Literal["finished"] = "answer") -> Self:
        """The key of a sample in one repeat."""
        return cls(sample.benchmark, sample.sample_id, sample.task, repeat, part)

    def to_text(self) -> str:
        """As one line of JSON."""
        fields = asdict(self)
        if self.num_pieces == 1:
            # Journals of earlier runs have keys without pieces.
            del fields["piece"], fields["num_pieces"]
        if not self.place:
            del fields["place"]
        return json.dumps(fields, ensure_ascii=False)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Inverse of ``to_text``."""
        return cls(**json.loads(text))


FinishedRow = TypeVar("FinishedRow", Completion, Verdict, FinishedAnswer)


@dataclass(frozen=True)
class BenchmarkRow(Generic[FinishedRow]):
    """A finished row with the benchmark whose folder it belongs to."""

    benchmark: str
    row: FinishedRow


@dataclass(frozen=True)
class ShardWriter:
    """Writes a batch of rows to the folders of their benchmarks; runs in the driver and in Ray's workers.

    Attributes:
        folders: Run folder by benchmark.
        stage: ``completions``, ``verdicts`` or ``finished``.
    """

    folders: dict[str, RunFolder]
    stage: str

    def __call__(self, rows: Sequence[BenchmarkRow[FinishedRow]]) -> None:
        """Write one shard for each benchmark among the rows."""
        # One engine serves all benchmarks of a job, so its batches hold rows of several.
        for benchmark in dict.fromkeys(each.benchmark for each in rows):
            mine = [asdict(each.row) for each in rows if each.benchmark == benchmark]
            self.folders[benchmark].write_shard(
                self.stage, mine, STAGE_SCHEMAS[self.stage], _KEYS[self.stage]
            )


@dataclass(frozen=True)
class ReadCompletion:
    """Turns a result of the evaluated engine into a completion; runs in Ray's workers.

    Attributes:
        variant: Name of the evaluated variant.
        own_tags: Tags of its thoughts where they are of no known form.
    """

    variant: str
    own_tags: ThinkingTags | None = None

    def __call__(self, result: EngineResult) -> BenchmarkRow[Completion]:
        """Splits the reasoning from the answer; a result without a completion keeps its error."""
        key = RequestKey.from_text(result["key"])
        # A failed row has no answer, which is not the same as an empty one: that would be scored as wrong.
        parts = result["parts"]
        # An endpoint splits what it knows: its own field, and the known forms.
        has_own = self.own_tags is not None and self.own_tags.close in result["text"]
        if parts is None or (has_own and not result["blocked"]):
            parts = split_reasoning(result["text"], self.own_tags)
        reasoning, answer = ("", None) if result["error"] else parts
        completion = Completion(
            sample_id=key.sample_id,
            variant=self.variant,
            repeat=key.repeat,
            prompt_tokens=result["prompt_tokens"],
            completion_tokens=result["completion_tokens"],
            completion=result["text"],
            reasoning=reasoning,
            answer=answer,
            finish_reason=result["finish_reason"],
            error=result["error"],
            blocked=result["blocked"],
            served_by=result["served_by"],
        )
        return BenchmarkRow(key.benchmark, completion)


def has_completions(folder: RunFolder) -> bool:
    """Whether the model has completed any row."""
    errors = (read_table(shard, columns=["error"]).column(0) for shard in folder.shards("completions"))
    return any(column.null_count for column in errors)


def has_labels(folder: RunFolder, judge: str) -> bool:
    """Whether a judge has labelled any row; ``judge`` is its label."""
    names = ["judge", "label"]
    tables = (read_table(shard, columns=names) for shard in folder.shards("verdicts"))
    return any(judge in table.drop_null().column("judge").unique().to_pylist() for table in tables)


def read_completions(folder: RunFolder) -> dict[Key, Row]:
    """One completion for each key; a failed one only where there is no other."""
    rows = folder.read_rows("completions", COMPLETION_SCHEMA)
    return latest(rows, completion_key, lambda row: row["error"] is None)


def read_verdicts(folder: RunFolder) -> dict[Key, Row]:
    """One verdict for each key; one that may be tried again only where there is no other."""
    return latest(folder.read_rows("verdicts", VERDICT_SCHEMA), verdict_key, is_settled)


def read_results(folder: RunFolder) -> tuple[list[Sample], list[Completion], list[Verdict]]:
    """All rows of a run, each once."""
    return (
        [Sample.from_row(row) for row in folder.read_rows("samples", SAMPLE_SCHEMA)],
        [Completion(**row) for row in read_completions(folder).values()],
        [Verdict(**row) for row in read_verdicts(folder).values()],
    )


def read_population(folder: RunFolder) -> Population | None:
    """All questions of the benchmark of a run that asks a selection; None for one that asks all of them.

    None also for a selection of an earlier version, whose rates stay those of the selection.
    """
    content = folder.read_json(POPULATION)
    return Population.from_json(content) if content else None


def is_settled(row: Row) -> bool:
    """False for a verdict that is missing because an engine or a judge failed, and that may still come."""
    return row["unscored_reason"] not in TRIED_AGAIN


def hashed_completion(row: Row) -> Row:
    """What of a completion the hash of a run's results is made of."""
    # Columns that came later count only where they say something.
    dropped = {"served_by"} if row["blocked"] else {"served_by", "blocked"}
    return {name: value for name, value in row.items() if name not in dropped}


def hashed_verdict(row: Row) -> Row:
    """What of a verdict the hash of a run's results is made of."""
    # Without the judge's identity, which is in the fingerprint, and without its confidence: no rate is
    # made of it, the last digit of a probability differs between machines, and older runs have none.
    kept = {name: value for name, value in row.items() if name != "confidence"}
    return kept | {"judge": row["judge"].partition("@")[0]}
