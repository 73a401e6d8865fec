"""Stands for vLLM in tests of lost nodes: processes on all GPUs of an engine that answer together."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayError
from ray.llm._internal.batch.stages.base import StatefulStageUDF
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

_ROW_S = 0.05


@ray.remote(num_cpus=0, num_gpus=1)
class Worker:
    """One worker of an engine."""

    def __init__(self, rank: int):
        self._rank = rank

    async def answer(self) -> int:
        """Its part of a row."""
        await asyncio.sleep(_ROW_S)
        return self._rank


class FinalOutputStageStandIn(StatefulStageUDF):
    """In place of ``safe_r1.inference.engine_stage.FinalOutputStage``: a row needs all workers of the engine.

    The text of a row says which row it is, with which seed, and which workers answered.
    """

    def __init__(
        self,
        data_column: str,
        expected_input_keys: list[str],
        engine_kwargs: dict[str, Any],
        **others: object,
    ):
        super().__init__(data_column, expected_input_keys)
        group = ray.util.get_current_placement_group()
        size = engine_kwargs["tensor_parallel_size"] * engine_kwargs["pipeline_parallel_size"]
        self._workers: list[Any] = []
        if group is not None:
            strategies = [PlacementGroupSchedulingStrategy(group, rank) for rank in range(size)]
            self._workers = [
                Worker.options(scheduling_strategy=strategy).remote(rank)
                for rank, strategy in enumerate(strategies)
            ]
            ray.get([worker.answer.remote() for worker in self._workers])

    async def udf(  # pyright: ignore[reportIncompatibleMethodOverride] - as in Ray's own stages
        self, rows: Sequence[dict[str, Any]]
    ) -> AsyncIterator[dict[str, Any]]:
        """The rows of a batch."""
        for row in rows:
            await asyncio.sleep(_ROW_S)
            try:
                ranks = await asyncio.gather(*(worker.answer.remote() for worker in self._workers))
            except RayError:
                # As Ray's stage when vLLM has lost a worker.
                os._exit(1)
            text = f"{row['key']} {row['sampling_params']['seed']} {sorted(ranks)}"
            yield {
                self.IDX_IN_BATCH_COLUMN: row[self.IDX_IN_BATCH_COLUMN],
                "generated_text": text,
                "num_generated_tokens": 1,
                "__inference_error__": "",
            }
