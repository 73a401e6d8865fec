"""The deployment of a model: Ray's server of an engine, with one call a completion.

Ray's own way to the engine renders OpenAI's replies in the replica, collects them for 50 ms and passes each
through a streaming generator. Here the engine's tokens are the request, its text is the reply, and text in
progress takes the way of ``safe_r1.serve.deltas``.
"""

import functools
from typing import TYPE_CHECKING, Any

from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer

from safe_r1.serve.deltas import Delta, DeltaSender
from safe_r1.serve.engine_call import EngineReply, EngineRequest

if TYPE_CHECKING:
    from vllm.engine.protocol import EngineClient


class ModelServer(LLMServer):
    """One replica of a model."""

    async def __init__(self, llm_config: LLMConfig, *, executor: str | None = None):
        """Start the engine.

        Args:
            llm_config: Of the model.
            executor: Class of vLLM that runs the model where it is not the one that Ray chooses.
        """
        self._executor = executor
        self._deltas = DeltaSender()
        await super().__init__(llm_config)

    def _get_default_engine_class(self) -> Any:
        from safe_r1.serve.replica_engine import ReplicaEngine

        return functools.partial(ReplicaEngine, executor=self._executor)

    async def _start_engine(self) -> None:
        # Ray's own would start an actor on this cluster for reports of its use.
        engine: Any = self.engine
        await engine.start()

    async def complete(self, request: EngineRequest) -> EngineReply:
        """Complete a prompt."""
        from vllm import SamplingParams
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import RequestOutputKind

        kind = RequestOutputKind.DELTA if request.sink else RequestOutputKind.FINAL_ONLY
        engine: Any = self.engine
        client: EngineClient = engine._engine_client
        parts: list[str] = []
        num_chars = num_tokens = 0
        finish_reason = None
        try:
            params = SamplingParams(**request.sampling, output_kind=kind)
            async for output in client.generate({"prompt_token_ids": request.tokens}, params, request.id):
                [part] = output.outputs
                num_tokens += len(part.token_ids)
                finish_reason = part.finish_reason or finish_reason
                if part.text:
                    if request.sink:
                        self._deltas.send(request.sink, Delta(num_chars, part.text))
                    parts.append(part.text)
                    num_chars += len(part.text)
        except (VLLMClientError, ValueError) as error:
            return EngineReply(error=str(error))
        return EngineReply("".join(parts), finish_reason or "stop", num_tokens)
