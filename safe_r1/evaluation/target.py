"""What the job asks of the evaluated model, wherever it runs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from safe_r1.evaluation.run_rows import CountTokens, Totals
from safe_r1.inference.batch import EngineSpec
from safe_r1.inference.dialogues import CompleteAll, DialogueEngines
from safe_r1.inference.requests import BatchCounts, EngineResult, Request, RequestBatch
from safe_r1.inference.shard_buffer import Finished
from safe_r1.resources import Cluster
from safe_r1.runs import JsonObject
from safe_r1.schema import Message


class Target(Protocol):
    """What the job asks of the evaluated model."""

    @property
    def rows_per_batch(self) -> int:
        """Rows of the batches that ``complete`` is given, at most."""
        ...

    @property
    def rows_at_once(self) -> int:
        """Rows that it works on at the same time, at most; 0 where it does not work row by row."""
        ...

    @property
    def memory_gib(self) -> float:
        """Memory of this machine that it takes while it completes rows, in GiB."""
        ...

    def preload(self) -> None:
        """Import what ``complete`` needs; called in a thread of its own, and not needed."""
        ...

    def start(self, cluster: Cluster) -> str:
        """Check that it can be used from this cluster; gives the name of its device.

        Raises:
            SafeR1Error: It cannot.
        """
        ...

    def fingerprint(self, benchmark: str) -> JsonObject:
        """What else could change its completions on a benchmark: engine, context, versions."""
        ...

    @property
    def continues(self) -> bool:
        """Whether it can go on with a completion (``Request.continuation``)."""
        ...

    def complete(
        self,
        batches: Sequence[RequestBatch],
        finish: Callable[[EngineResult], Finished],
        write: Callable[[Sequence[Finished]], None],
    ) -> Iterator[BatchCounts]:
        """Complete the requests, in about this order; yields counts as rows are finished.

        Args:
            batches: The requests.
            finish: Turns a result into what is written.
            write: Writes some rows as one shard, atomically.
        """
        ...

    @property
    def spec(self) -> EngineSpec | None:
        """What its engine is started with; None where it runs on none here."""
        ...

    def dialogues(self, benchmark: str, engines: DialogueEngines) -> CompleteAll:
        """The model as it is asked turn by turn.

        Args:
            benchmark: Name of the benchmark.
            engines: Where its engine is started, if it has one.
        """
        ...

    def token_counter(self) -> CountTokens | None:
        """Counts the tokens of reasonings; None where they cannot be counted."""
        ...

    def facts(self, benchmark: str, totals: Totals) -> JsonObject:
        """Entries of ``run.json`` that are known at the end."""
        ...

    def finished(self, benchmark: str) -> None:
        """The results of a benchmark are published."""
        ...

    def show_prompt(self, messages: Sequence[Message]) -> tuple[str, str]:
        """A prompt as the model gets it, and its length in words."""
        ...

    def resources(self, rows: Iterable[tuple[Request, int]]) -> str:
        """What a run takes, in one line.

        Args:
            rows: What is asked, each with the mean length of such a completion in tokens.
        """
        ...

    def capacity(self) -> list[str]:
        """What an engine holds at once, a line for each device that may be chosen."""
        ...
