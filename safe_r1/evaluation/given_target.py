"""Answers that are in the file of the questions as the target of an evaluation: nothing is generated."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic

from safe_r1.errors import ConfigError
from safe_r1.evaluation.plan import EvaluationPlan
from safe_r1.evaluation.run_rows import Totals
from safe_r1.evaluation.workers import Workers
from safe_r1.inference.dialogues import CompleteAll, DialogueEngines
from safe_r1.inference.requests import BatchCounts, EngineResult, Request, RequestBatch
from safe_r1.inference.shard_buffer import Finished
from safe_r1.models.reasoning import split_reasoning
from safe_r1.provenance import versions
from safe_r1.resources import Cluster
from safe_r1.runs import JsonObject
from safe_r1.schema import Message


@dataclass
class GivenTarget:
    """Given answers."""

    plan: EvaluationPlan
    rows_per_batch: int = 4096
    continues: bool = False
    _num_workers: int = 0

    @property
    def rows_at_once(self) -> int:
        """None: copying answers takes no longer for being the last."""
        return 0

    @property
    def memory_gib(self) -> float:
        """Nothing is left of it when it is done."""
        return 0.0

    def preload(self) -> None:
        """Nothing: no engine is started."""

    def start(self, cluster: Cluster) -> str:
        """Nothing can be wrong: the plan has checked the file."""
        self._num_workers = cluster.num_workers
        return "given"

    def fingerprint(self, benchmark: str) -> JsonObject:
        """Nothing: the answers are a part of the data, whose hash is there."""
        return {"versions": versions(("safe_r1",))}

    def complete(
        self,
        batches: Sequence[RequestBatch],
        finish: Callable[[EngineResult], Finished],
        write: Callable[[Sequence[Finished]], None],
    ) -> Iterator[BatchCounts]:
        """Writes the answers as completions, one shard a batch."""
        copy = _CopyAnswers(finish, write)
        total = sum(batch.num_rows for batch in batches)
        for _, counts in Workers(self._num_workers).map(copy, batches, total):
            yield counts

    @property
    def spec(self) -> None:
        """None: nothing is generated."""

    def dialogues(self, benchmark: str, engines: DialogueEngines) -> CompleteAll:
        """Refused: the plan has checked that no attack asks for it."""
        raise ConfigError("a file has answers to the questions as they stand; give a model as --variant")

    def token_counter(self) -> None:
        """None: the tokenizer of the model that answered is not known."""

    def facts(self, benchmark: str, totals: Totals) -> JsonObject:
        """None: all is known at the start."""
        return {}

    def finished(self, benchmark: str) -> None:
        """Nothing is left behind."""

    def show_prompt(self, messages: Sequence[Message]) -> tuple[str, str]:
        """The dialogue, which was asked elsewhere."""
        return "\n".join(f"{turn['role']}: {turn['content']}" for turn in messages), "given with its answer"

    def resources(self, rows: Iterable[tuple[Request, int]]) -> str:
        """Nothing but the judge's."""
        return f"{sum(1 for _ in rows):,} given answers: nothing is generated"

    def capacity(self) -> list[str]:
        """No engine."""
        return []


@dataclass(frozen=True)
class _CopyAnswers(Generic[Finished]):
    """Makes completions of given answers; runs in Ray's workers."""

    finish: Callable[[EngineResult], Finished]
    write: Callable[[Sequence[Finished]], None]

    def __call__(self, batch: RequestBatch) -> BatchCounts:
        results = [_result(request) for request in batch.read()]
        self.write([self.finish(result) for result in results])
        return BatchCounts(len(results), sum(result["error"] is not None for result in results), tokens=0)


def _result(request: Request) -> EngineResult:
    # As a dialogue whose last turn is the user's, among others: an empty answer would be scored as wrong.
    error = "the file has no answer to this question" if request.given is None else None
    answer = request.given or ""
    reasoning = request.given_reasoning
    parts = (reasoning, answer) if reasoning else split_reasoning(answer)
    return {
        "key": request.key,
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "text": f"<think>\n{reasoning}\n</think>\n\n{answer}" if reasoning else answer,
        "finish_reason": "stop" if error is None else None,
        "error": error,
        "parts": parts,
        "blocked": None,
        "served_by": None,
    }
