"""A served model that is behind another URL: its client inside the ingress."""

from collections.abc import AsyncIterator, Sequence

from safe_r1.config import GenerationConfig
from safe_r1.errors import EndpointError
from safe_r1.inference.endpoint_client import ChatSampling
from safe_r1.inference.endpoint_session import Call, EndpointSession
from safe_r1.inference.remote import make_endpoints
from safe_r1.inference.reply_cache import Reply
from safe_r1.inference.requests import Sampling
from safe_r1.inference.spending import Spending
from safe_r1.models.variant import Variant
from safe_r1.schema import Message
from safe_r1.serve.base import ChatReply, Chunk, Generation, SamplingParams, ToolRequest
from safe_r1.serve.chat_request import unsupported
from safe_r1.serve.errors import CONTENT_FILTER, ApiError
from safe_r1.serve.sampling import choose_sampling


class RemoteModel:
    """Client of one model behind a URL; of several URLs and keys the first one is used.

    Attributes:
        variant: The model.
        slots: Requests in flight.
        own_tags: Tags of the model's thoughts where they are of no known form.
    """

    def __init__(self, variant: Variant, generation: GenerationConfig):
        if variant.endpoint is None:
            raise ValueError(f"{variant.name} is not behind a URL")
        self.variant = variant
        self.slots = variant.endpoint.concurrency
        self.own_tags = variant.thinking_tags(generation.thinking_tags)
        self._entry = variant.endpoint
        self._generation = generation
        self._session: EndpointSession | None = None

    async def generate(self, messages: list[Message], params: SamplingParams) -> Generation:
        """Generate one whole completion, its reasoning in tags.

        Raises:
            ApiError: 400 for a prompt that is too long or blocked, 503 for an endpoint that gives no answer.
        """
        reply = await self._ask(messages, params, [])
        return Generation(
            reply.full_text or "",
            reply.finish_reason or "stop",
            reply.prompt_tokens,
            reply.completion_tokens,
            self.own_tags,
        )

    async def chat(
        self,
        messages: list[Message],
        params: SamplingParams,
        stop: Sequence[str],
        *,
        stream: bool = False,
        tools: ToolRequest | None = None,
    ) -> ChatReply:
        """The whole reply as one chunk, also where a stream is asked for.

        Raises:
            ApiError: See ``generate``; 400 for settings that the client of endpoints does not send.
        """
        wanted = {
            "tools": tools,
            "n": params.num_choices > 1,
            "logprobs": params.top_logprobs is not None,
            "response_format": params.response_format,
            **params.engine_options,
        }
        for name in (name for name, value in wanted.items() if value):
            raise unsupported(name, f"is not supported by {self.variant.name}, which is behind a URL")
        reply = await self._ask(messages, params, stop)
        chunk = Chunk(
            reply.full_text or "", reply.finish_reason or "stop", reply.prompt_tokens, reply.completion_tokens
        )

        async def chunks() -> AsyncIterator[Chunk]:
            yield chunk

        return ChatReply("", reply.prompt_tokens, chunks(), self.own_tags)

    def price_of(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Price of that many tokens in the currency of the endpoint's prices; None without prices."""
        if self._entry.input_price is None or self._entry.output_price is None:
            return None
        return Spending(self._entry).price_of(prompt_tokens, completion_tokens)

    async def _ask(self, messages: list[Message], params: SamplingParams, stop: Sequence[str]) -> Reply:
        chosen = choose_sampling(params, self._generation, self.variant)
        sampling = ChatSampling(
            max_tokens=chosen.max_tokens, temperature=chosen.temperature, top_p=chosen.top_p
        )
        if chosen.seed is not None:
            sampling["seed"] = chosen.seed
        if stop:
            sampling["stop"] = list(stop)
        name = self.variant.name
        try:
            session = await self._connected()
            reply = await session.ask(Call(messages, sampling))
        except EndpointError as error:
            raise ApiError(503, "engine_unavailable", f"{name}: {error}", retry_after_s=30) from None
        if reply.blocked:
            message = f"the content filter of {name}'s provider blocked the {reply.blocked}"
            raise ApiError(400, CONTENT_FILTER, message)
        if reply.text is None:
            # What a server says may quote the request, so only its kind is returned.
            if reply.is_row_fault:
                raise ApiError(400, "invalid_messages", f"{name}: its endpoint refuses these messages")
            raise ApiError(
                503, "engine_unavailable", f"{name}: its endpoint gave no answer", retry_after_s=30
            )
        return reply

    async def _connected(self) -> EndpointSession:
        # In the event loop of the requests, which does not run yet when the ingress is made.
        if self._session is None:
            sampling = Sampling(self.variant.temperature, self.variant.top_p)
            session = EndpointSession(make_endpoints(self._entry, sampling)[0])
            self._session = await session.__aenter__()
        return self._session
