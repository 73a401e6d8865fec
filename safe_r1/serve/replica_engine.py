"""The engine of a served model, in the same processes as an evaluation's. It imports vLLM, as replicas do."""

from typing import TYPE_CHECKING, Any

from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve.llm import LLMConfig

if TYPE_CHECKING:
    from vllm.config import VllmConfig


class ReplicaEngine(VLLMEngine):
    """Ray's engine with an executor of our choice: on CPU Ray takes a process of its own for the model."""

    def __init__(self, llm_config: LLMConfig, executor: str | None):
        super().__init__(llm_config)
        self._executor = executor

    def _start_async_llm_engine(
        self,
        vllm_engine_args: Any,
        vllm_engine_config: "VllmConfig",
        placement_group: Any,
    ) -> Any:
        if self._executor:
            vllm_engine_config.parallel_config.distributed_executor_backend = self._executor
        return super()._start_async_llm_engine(vllm_engine_args, vllm_engine_config, placement_group)
