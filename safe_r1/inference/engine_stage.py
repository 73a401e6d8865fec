"""The engine's stage of Ray Data LLM with one output a request.

Ray asks vLLM for the output so far after every step: for every token each of hundreds of sequences has its
text and tokens copied and a coroutine woken, in the process that also feeds the engine. Only the last output
is read. ``vllm.LLM`` asks for that one alone, and so does this stage.
"""

from typing import Any

from ray.llm._internal.batch.stages.vllm_engine_stage import vLLMEngineStageUDF

from safe_r1.inference.engine_process import prepare_engine


class FinalOutputStage(vLLMEngineStageUDF):
    """As its parent, which has no setting for it."""

    def __init__(self, *args: Any, **kwargs: Any):
        """Starts the engine. See the parent for the arguments."""
        prepare_engine()
        super().__init__(*args, **kwargs)
        ask_for_final_output(self.llm)


def ask_for_final_output(engine: Any) -> None:
    """Have an engine of Ray's prepare requests that vLLM answers once, at their end."""
    from vllm.sampling_params import RequestOutputKind

    prepare = engine._prepare_llm_request

    async def prepare_for_final_output(row: dict[str, Any]) -> Any:
        request = await prepare(row)
        request.params.output_kind = RequestOutputKind.FINAL_ONLY
        return request

    engine._prepare_llm_request = prepare_for_final_output
