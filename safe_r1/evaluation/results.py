"""The rows of a run folder: their keys, how workers write them, and how they are read back, each once."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from safe_r1.models.reasoning import split_reasoning
from safe_r1.runs import RunFolder, latest, sha256
from safe_r1.schema import COMPLETION_SCHEMA, SAMPLE_SCHEMA, VERDICT_SCHEMA, Completion, Sample, Verdict

Row = dict[str, Any]


def sample_key(row: Row) -> tuple[str]:
    """Identity of a sample."""
    return (row["sample_id"],)


def completion_key(row: Row) -> tuple[str, int]:
    """Identity of a completion inside a run."""
    return row["sample_id"], row["repeat"]


def verdict_key(row: Row) -> tuple[str, int, str]:
    """Identity of a verdict inside a run."""
    return row["sample_id"], row["repeat"], row["part"]


@dataclass(frozen=True)
class ShardWriter:
    """Writes a batch of rows to the folders of their benchmarks; runs in Ray's workers."""

    folders: dict[str, RunFolder]
    stage: str

    def __call__(self, rows: list[Row]) -> None:
        """A row's benchmark is the head of its ``sample_id``."""
        schema, key = (
            (COMPLETION_SCHEMA, completion_key)
            if self.stage == "completions"
            else (VERDICT_SCHEMA, verdict_key)
        )
        for name, folder in self.folders.items():
            mine = [row for row in rows if row["sample_id"].split("/")[0] == name]
            if mine:
                folder.write_shard(self.stage, mine, schema, key)


@dataclass(frozen=True)
class ReadCompletion:
    """The finish step of the evaluated engine: its text to a completion row."""

    variant: str

    def __call__(self, row: Row) -> Row:
        """Splits the reasoning off; a row without a completion keeps its error."""
        sample_id, repeat = row["key"].split("\t")
        reasoning, answer = ("", None) if row["error"] else split_reasoning(row["text"])
        return asdict(
            Completion(
                sample_id,
                self.variant,
                int(repeat),
                row["prompt_tokens"],
                row["completion_tokens"],
                row["text"],
                reasoning,
                answer,
                row["finish_reason"],
                row["error"],
            )
        )


def read_completions(folder: RunFolder) -> dict[tuple[Any, ...], Row]:
    """One completion a key; a failed one only where there is no other."""
    return latest(
        folder.read_rows("completions", COMPLETION_SCHEMA), completion_key, lambda row: row["error"] is None
    )


def read_verdicts(folder: RunFolder) -> dict[tuple[Any, ...], Row]:
    """One verdict a key; one that a judge may still give only where there is no other."""
    return latest(folder.read_rows("verdicts", VERDICT_SCHEMA), verdict_key, is_settled)


def read_results(folder: RunFolder) -> tuple[list[Sample], list[Completion], list[Verdict]]:
    """All rows of a run, each once."""
    return (
        [Sample.from_row(row) for row in folder.read_rows("samples", SAMPLE_SCHEMA)],
        [Completion(**row) for row in read_completions(folder).values()],
        [Verdict(**row) for row in read_verdicts(folder).values()],
    )


def is_settled(row: Row) -> bool:
    """False for a verdict that a judge which did not answer may still give."""
    return row["unscored_reason"] != "judge_error"


def results_hash(completions: Sequence[Completion], verdicts: Sequence[Verdict]) -> str:
    """Hash over all rows in order: equal for two runs exactly where all their rows are."""
    return sha256([[asdict(row) for row in completions], [asdict(row) for row in verdicts]])
