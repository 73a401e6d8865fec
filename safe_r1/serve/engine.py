"""The ingress's client of a model that is served by engines of the cluster.

Prompts are rendered and tokenized by ``safe_r1.models.chat`` and reach vLLM as tokens, so a served model gets
exactly the prompts of an evaluation. Each model is a Serve deployment with its own autoscaling.
"""

import asyncio
import functools
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from safe_r1.config import GenerationConfig
from safe_r1.models.chat import PLAIN_STOPS, load_tokenizer, render
from safe_r1.schema import Message
from safe_r1.serve.base import ChatReply, Chunk, Generation, SamplingParams, ToolRequest
from safe_r1.serve.chat_request import unsupported
from safe_r1.serve.deltas import DeltaReceiver
from safe_r1.serve.deployment import DeploymentSpec, frees_thoughts
from safe_r1.serve.engine_call import Delta, EngineReply, EngineRequest
from safe_r1.serve.errors import ApiError
from safe_r1.serve.sampling import choose_sampling
from safe_r1.serve.token_text import TokenText
from safe_r1.serve.tools import ToolSupport

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle


class ServedModel:
    """Client of one model's deployment, used by the ingress.

    Attributes:
        variant: The model's registry entry.
        context: Context length in tokens, prompt and completion together.
        slots: Sequences that all its replicas together decode concurrently.
        own_tags: Tags of the model's thoughts where they are of no known form.
    """

    def __init__(
        self,
        spec: DeploymentSpec,
        handle: "DeploymentHandle",
        generation: GenerationConfig,
        receiver: DeltaReceiver,
        tool_parser: str = "auto",
    ):
        """Connect to the deployment.

        Args:
            spec: How the model is deployed.
            handle: Its deployment.
            generation: Sampling defaults.
            receiver: Of this process, for completions that are streamed.
            tool_parser: See ``tools.choose_parser``.
        """
        self.variant = spec.variant
        self.context = spec.context
        self.slots = spec.replica_slots * spec.max_replicas
        self.own_tags = spec.variant.thinking_tags(generation.thinking_tags)
        self._generation = generation
        self._handle = handle
        self._receiver = receiver
        # Loaded now and not by the first requests: transformers raises ImportError when several threads
        # import its submodules at once.
        self._tokenizer = load_tokenizer(
            spec.variant.source, spec.variant.revision, spec.engine.trust_remote_code
        )
        self._spec = spec
        self._tool_parser = tool_parser

    @functools.cached_property
    def _token_text(self) -> TokenText:
        return TokenText(self._tokenizer)

    @functools.cached_property
    def _tools(self) -> ToolSupport:
        return ToolSupport(self.variant.name, self.variant.prompt_format, self._tokenizer, self._tool_parser)

    @functools.cached_property
    def _takes_formats(self) -> bool:
        return not self.variant.prompt_format.is_reasoning or frees_thoughts(self._spec)

    async def generate(self, messages: list[Message], params: SamplingParams) -> Generation:
        """Generate one whole completion; its text begins with the prompt's reasoning prefix.

        Raises:
            ApiError: Prompt too long, overload, or engine down.
        """
        tokens, prefix = await self.render(messages)
        async for chunk in self.complete(tokens, params, self.stops):
            return Generation(
                prefix + chunk.text,
                chunk.finish_reason or "stop",
                len(tokens),
                chunk.completion_tokens,
                self.own_tags,
            )
        raise ApiError(503, "engine_unavailable", f"{self.variant.name}: the engine ended without an answer")

    async def chat(
        self,
        messages: list[Message],
        params: SamplingParams,
        stop: Sequence[str],
        *,
        stream: bool = False,
        tools: ToolRequest | None = None,
    ) -> ChatReply:
        """The reply to a dialogue.

        Raises:
            ApiError: Prompt too long, rejected by the chat template, or tools and formats that the model does
                not support; later overload, or engine down.
        """
        read_calls = None
        if tools and tools.tools:
            read_calls = self._tools.read_calls(tools)
            params = replace(
                params,
                response_format=self._tools.response_format(tools) or params.response_format,
                # The tags of calls are special tokens of many models.
                engine_options={**params.engine_options, "skip_special_tokens": False},
            )
        if params.response_format and not self._takes_formats:
            name = "tool_choice" if tools else "response_format"
            reason = f"is not supported by {self.variant.name}: its thoughts have no tokens of their own"
            raise unsupported(name, reason)
        tokens, prefix = await self.render(messages, tools)
        chunks = self.complete(tokens, params, [*self.stops, *stop], stream=stream)
        return ChatReply(prefix, len(tokens), chunks, self.own_tags, read_calls)

    async def count_tokens(self, text: str) -> int:
        """Tokens of a text that the model wrote."""
        return len(await asyncio.to_thread(self._tokenizer.encode, text, add_special_tokens=False))

    @property
    def stops(self) -> list[str]:
        """Stop strings that end the model's turn, for models without an end-of-turn token."""
        return list(PLAIN_STOPS) if self.variant.style == "plain" else []

    async def render(
        self, messages: list[Message], tools: ToolRequest | None = None
    ) -> tuple[list[int], str]:
        """Render a dialogue to prompt tokens; one with tools is taken from there.

        Returns:
            The tokens, and the reasoning prefix at their end (empty if the prompt has none).

        Raises:
            ApiError: The prompt fills the context, or the chat template rejects the dialogue.
        """
        try:
            if tools:
                tokens, prefix = await asyncio.to_thread(self._tools.render, tools)
            else:
                tokens, prefix = await asyncio.to_thread(
                    render, messages, self.variant.prompt_format, self._tokenizer
                )
        except (ValueError, TypeError, TemplateError) as error:
            # For example no user turn, or two in a row. The message may quote the request, so only the type
            # is returned.
            kind = type(error).__name__
            message = f"the chat template of {self.variant.name} rejects these messages ({kind})"
            raise ApiError(400, "invalid_messages", message, "messages") from None
        self._check_length(tokens)
        return tokens, prefix

    async def tokenize(self, prompt: str | list[int]) -> list[int]:
        """Tokens of a text, with the special tokens that the tokenizer adds; tokens are returned unchanged.

        Raises:
            ApiError: The prompt fills the context.
        """
        tokens = await asyncio.to_thread(self._tokenize, prompt) if isinstance(prompt, str) else prompt
        self._check_length(tokens)
        return tokens

    def _tokenize(self, prompt: str) -> list[int]:
        return self._tokenizer(prompt)["input_ids"]

    def _check_length(self, tokens: list[int]) -> None:
        if len(tokens) >= self.context:
            message = (
                f"the prompt has {len(tokens)} tokens; the context of {self.variant.name} is "
                f"{self.context} tokens, prompt and answer together"
            )
            raise ApiError(400, "context_length_exceeded", message)

    async def complete(
        self, tokens: list[int], params: SamplingParams, stop: list[str], *, stream: bool = False
    ) -> AsyncIterator[Chunk]:
        """Complete a tokenized prompt: yields one chunk, or with ``stream`` each one that the engine sends.

        Raises:
            ApiError: Overload, engine down, or an error of the engine.
        """
        request = self._request(tokens, params, stop)
        num_top = params.top_logprobs or 0
        if not stream:
            for chunk in self._last_chunks(await self._call(request), len(tokens), num_top):
                yield chunk
            return
        async with self._receiver.subscribe() as subscription:
            call = asyncio.create_task(self._call(replace(request, sink=subscription.sink)))
            call.add_done_callback(lambda _: subscription.end())
            try:
                async for delta in subscription.deltas():
                    yield self._chunk(delta, num_top)
                reply = subscription.rest(await call)
                for chunk in self._last_chunks(reply, len(tokens), num_top):
                    yield chunk
            finally:
                call.cancel()

    def _chunk(self, delta: Delta, num_top: int) -> Chunk:
        logprobs = self._token_text.logprobs(delta.logprobs, num_top) if delta.logprobs else ()
        return Chunk(delta.text, index=delta.index, logprobs=logprobs)

    def _last_chunks(self, reply: EngineReply, num_prompt: int, num_top: int) -> list[Chunk]:
        """The end of each choice, with the counts."""
        return [
            replace(
                self._chunk(choice.text, num_top),
                finish_reason=choice.finish_reason,
                prompt_tokens=num_prompt,
                completion_tokens=reply.num_tokens,
            )
            for choice in reply.choices
        ]

    def _request(self, tokens: list[int], params: SamplingParams, stop: list[str]) -> EngineRequest:
        sampling = choose_sampling(params, self._generation, self.variant)
        body: dict[str, object] = {
            **params.engine_options,
            "max_tokens": max(1, min(sampling.max_tokens, self.context - len(tokens))),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "stop_token_ids": list(self.variant.prompt_format.stop_token_ids) or None,
            "seed": sampling.seed,
            "n": params.num_choices,
            "logprobs": params.top_logprobs,
            "response_format": params.response_format,
        }
        return EngineRequest(uuid.uuid4().hex, tokens, body, stop)

    async def _call(self, request: EngineRequest) -> EngineReply:
        """The whole completion; a call that is cancelled ends the completion as well."""
        from ray.exceptions import RayError
        from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException

        name = self.variant.name
        response = self._handle.complete.remote(request)
        try:
            reply: EngineReply = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except BackPressureError:
            message = f"the queue of {name} is full; try again"
            raise ApiError(429, "overloaded", message, retry_after_s=5) from None
        except (DeploymentUnavailableError, RayServeException, RayError) as error:
            message = f"{name}: its engine is down or starting ({type(error).__name__})"
            raise ApiError(503, "engine_unavailable", message, retry_after_s=30) from None
        if reply.error:
            raise ApiError(400, "invalid_request", f"{name}: {reply.error}")
        return reply
