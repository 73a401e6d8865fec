"""When the engine of a judge model starts: beside the evaluated model's last rows, or after them."""

import logging
import time
from collections.abc import Iterator
from dataclasses import replace

from safe_r1.errors import SafeR1Error
from safe_r1.evaluation.judge_stage import judge_engine
from safe_r1.evaluation.plan import EvaluationPlan
from safe_r1.evaluation.target import Target
from safe_r1.inference.batch import EngineSpec
from safe_r1.inference.early_engine import EarlyEngine
from safe_r1.inference.engine import engine_arguments, engine_place
from safe_r1.inference.memory import cpu_memory_gib, free_memory_gib
from safe_r1.inference.placement import has_room
from safe_r1.inference.requests import BatchCounts, Sampling
from safe_r1.judge.factory import engine_sampling
from safe_r1.progress import STARTUP_LOGGER
from safe_r1.resources import Cluster

startup = logging.getLogger(STARTUP_LOGGER)

# An engine of several replicas gives some of them back while it drains.
_RETRY_S = 30.0


class JudgeStart:
    """Starts the engine of a judge model while the evaluated model works on its last rows.

    These are as many as it works on at the same time: then none waits any more, its engine runs emptier with
    every row, and the time until the judge is loaded is not lost. Only where the cluster has room for both.

    Attributes:
        engine: The judge's engine, once it has been started.
    """

    def __init__(self, plan: EvaluationPlan, target: Target, cluster: Cluster):
        self._judge = plan.judge if plan.judge and plan.judge.model else None
        self._target = target
        self._cluster = cluster
        self._is_wanted = self._judge is not None and plan.config.judge_starts_early
        self._next_try = 0.0
        self._has_told = False
        self.engine: EarlyEngine | None = None

    def watch(self, stream: Iterator[BatchCounts], num_rows: int) -> Iterator[BatchCounts]:
        """Pass the counts of the evaluated model on, and start the judge's engine when it is time.

        Args:
            stream: Counts of the rows that it finishes.
            num_rows: Rows that it is asked for.
        """
        num_left = num_rows
        for counts in stream:
            num_left -= counts.rows
            if self._is_wanted and 0 < num_left <= self._target.rows_at_once:
                self._try(num_left)
            yield counts

    def discard(self) -> None:
        """End the engine if nothing was asked of it."""
        if self.engine is not None:
            self.engine.discard()

    def _try(self, num_left: int) -> None:
        if time.monotonic() < self._next_try:
            return
        found = self._find_room()
        if isinstance(found, str):
            self._next_try = time.monotonic() + _RETRY_S
            if not self._has_told:
                startup.info("judge: its engine starts after the last completions, as %s", found)
            self._has_told = True
            return
        self._is_wanted = False
        startup.info("judge: its engine starts now, beside the last %d completions", num_left)
        self.engine = EarlyEngine(found)

    def _find_room(self) -> EngineSpec | str:
        """The engine as it can start now, or why it cannot."""
        assert self._judge is not None
        assert self._judge.model is not None
        config = self._judge.config
        # What the evaluated engine has reserved, it may not have filled yet.
        room_gib = min(free_memory_gib(), self._cluster.memory_gib - self._target.memory_gib)
        try:
            cluster = replace(self._cluster, memory_gib=room_gib)
            engine, device = judge_engine(config.engine, self._judge.model, cluster)
        except SafeR1Error:
            # Alone it fits: that was checked before the job began.
            needed_gib = cpu_memory_gib(self._judge.model, config.engine, self._cluster.memory_gib)
            return f"it needs up to {needed_gib:.1f} GiB of memory, and {max(0.0, room_gib):.1f} are free"
        arguments = engine_arguments(self._judge.model, engine, device)
        if not has_room(engine_place(arguments, engine, device)):
            kind = "GPUs" if device == "gpu" else "CPUs"
            return f"the cluster has no free {kind} for it"
        return EngineSpec(self._judge.model, engine, device, Sampling(**engine_sampling(config)))
