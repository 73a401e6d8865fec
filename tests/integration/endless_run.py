"""The evaluation of a model that never ends its reasoning, which several tests look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safe_r1.runs import RunFolder

MAX_TOKENS = 24
ENGINE = (
    *("--set", "engine.max_model_len=1024"),
    *("--set", "engine.max_num_seqs=8"),
    *("--set", "engine.cpu_kv_cache_gib=1"),
    *("--set", f"generation.max_tokens={MAX_TOKENS}"),
)
_BENCHMARK = "chisafetybench-sample"
SETTINGS = ("--benchmark", _BENCHMARK, "--limit", "16", *ENGINE)


@dataclass(frozen=True)
class EndlessRun:
    """One job whose answers are all cut off in their reasoning, so that nothing is published.

    Attributes:
        output: Folder of all runs.
        model: Folder of the model.
        arguments: Flags of the job.
        shown: What the job printed.
    """

    output: Path
    model: Path
    arguments: Sequence[str]
    shown: str

    @property
    def folder(self) -> RunFolder:
        """The run's own folder."""
        return RunFolder.locate(str(self.output), "main", self.model.name, _BENCHMARK)
