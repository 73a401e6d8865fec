"""The engine's stage of Ray Data LLM with one output a request.

Ray asks vLLM for the output so far after every step: for every token each of hundreds of sequences has its
text and tokens copied and a coroutine woken, in the process that also feeds the engine. Only the last output
is read. ``vllm.LLM`` asks for that one alone, and so does this stage.
"""

import logging
import os
import signal
import traceback
from typing import Any

from ray.llm._internal.batch.stages.vllm_engine_stage import vLLMEngineStageUDF

from safe_r1.inference.engine_process import prepare_engine

logger = logging.getLogger(__name__)


class FinalOutputStage(vLLMEngineStageUDF):
    """As its parent, which has no setting for it."""

    def __init__(self, *args: Any, **kwargs: Any):
        """Starts the engine. See the parent for the arguments."""
        prepare_engine()
        try:
            super().__init__(*args, **kwargs)
        except RuntimeError as error:
            if was_killed(error):
                # As where this process is killed: Ray starts another. An error would be the settings'.
                logger.error("the engine's core process was killed while it started")
                os._exit(1)
            raise
        ask_for_final_output(self.llm)


def was_killed(error: BaseException) -> bool:
    """Whether vLLM's engine did not start because its core process was ended from outside.

    vLLM's own message often holds no exit code, as it is written while the process ends.

    Args:
        error: As the start of the engine raised it.
    """
    managers = {
        id(manager): manager
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if (manager := getattr(frame.f_locals.get("launch"), "engine_manager", None)) is not None
    }
    processes = [process for each in managers.values() for process in getattr(each, "processes", ())]
    codes = [process.exitcode for process in processes]
    # vLLM ends the others where one has failed by itself.
    return -signal.SIGKILL in codes and not any(code is not None and code > 0 for code in codes)


def ask_for_final_output(engine: Any) -> None:
    """Have an engine of Ray's prepare requests that vLLM answers once, at their end."""
    from vllm.sampling_params import RequestOutputKind

    prepare = engine._prepare_llm_request

    async def prepare_for_final_output(row: dict[str, Any]) -> Any:
        request = await prepare(row)
        request.params.output_kind = RequestOutputKind.FINAL_ONLY
        return request

    engine._prepare_llm_request = prepare_for_final_output
