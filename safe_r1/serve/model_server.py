"""The deployment of a model: Ray's server of an engine, with one call a completion.

Ray's own way to the engine renders OpenAI's replies in the replica, collects them for 50 ms and passes each
through a streaming generator. Here the engine's tokens are the request, its text is the reply, and text in
progress takes the way of ``safe_r1.serve.deltas``.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer

from safe_r1.serve.deltas import DeltaSender
from safe_r1.serve.engine_call import ChoiceReply, Delta, EngineReply, EngineRequest, TokenScore

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.engine.protocol import EngineClient
    from vllm.logprobs import Logprob
    from vllm.outputs import CompletionOutput


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
        from vllm.exceptions import VLLMClientError

        engine: Any = self.engine
        client: EngineClient = engine._engine_client
        choices: dict[int, _Choice] = {}
        num_tokens = 0
        try:
            params = _sampling_params(request)
            async for output in client.generate({"prompt_token_ids": request.tokens}, params, request.id):
                for part in output.outputs:
                    num_tokens += len(part.token_ids)
                    delta = choices.setdefault(part.index, _Choice(part.index)).add(part)
                    if request.sink and (delta.text or delta.logprobs):
                        self._deltas.send(request.sink, delta)
        except (VLLMClientError, ValueError) as error:
            return EngineReply(error=_explain(error))
        whole = tuple(choices[index].whole() for index in sorted(choices))
        return EngineReply(whole, num_tokens)


@dataclass
class _Choice:
    """A choice so far."""

    index: int
    text: str = ""
    logprobs: list[TokenScore] = field(default_factory=list)
    finish_reason: str | None = None

    def add(self, part: "CompletionOutput") -> Delta:
        """What the engine has added."""
        rows = zip(part.token_ids, part.logprobs or (), strict=False)
        scores = [_score(token, entries) for token, entries in rows if entries]
        delta = Delta(self.index, len(self.text), part.text, len(self.logprobs), scores)
        self.text += part.text
        self.logprobs += scores
        self.finish_reason = part.finish_reason or self.finish_reason
        return delta

    def whole(self) -> ChoiceReply:
        """The whole choice."""
        return ChoiceReply(Delta(self.index, 0, self.text, 0, self.logprobs), self.finish_reason or "stop")


def _score(token: int, entries: "Mapping[int, Logprob]") -> TokenScore:
    """The engine adds the token itself to the likeliest ones."""
    best = sorted(entries.items(), key=lambda entry: -entry[1].logprob)
    return token, entries[token].logprob, [(other, entry.logprob) for other, entry in best]


def _sampling_params(request: EngineRequest) -> "SamplingParams":
    """As vLLM's own server makes them.

    Raises:
        ValueError: A setting that the engine refuses.
    """
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    body = {**request.body, "prompt": request.tokens, "stream": request.sink is not None}
    completion = CompletionRequest.model_validate(body)
    # Set afterwards, since vLLM's check of a request allows four of them, and its engine any number.
    completion.stop = request.stop or None
    return completion.to_sampling_params(body["max_tokens"], {})


def _explain(error: Exception) -> str:
    """The error in words that do not quote the request, as pydantic's own do."""
    from pydantic import ValidationError

    return "its engine refuses these settings" if isinstance(error, ValidationError) else str(error)
