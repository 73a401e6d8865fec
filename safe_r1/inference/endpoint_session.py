"""Calls of one endpoint within one event loop: its connections, its ceiling, and what it refuses."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import openai
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential_jitter

from safe_r1.inference.endpoint_attempts import (
    METER,
    Meter,
    Outage,
    Outcome,
    WatchedHttpClient,
    is_trouble,
    may_have_been_paid,
)
from safe_r1.inference.endpoint_client import ChatSampling, EndpointClient
from safe_r1.inference.endpoint_reply import Refusal, read_completion, read_refusal
from safe_r1.inference.endpoint_transport import UnreadableAnswerError
from safe_r1.inference.rate_limits import AdaptiveCeiling, MinuteLimits
from safe_r1.inference.reply_cache import Overhead, Reply
from safe_r1.schema import Message

# Harmless, and repeated to the length of a prompt: what fails with the prompt alone fails for its content.
_PROBE_TEXT = "今天天气很好，适合出门散步。"
_PROBE_TOKENS = 16
_TOKEN_PARAMETERS = ("max_tokens", "max_completion_tokens")
# Chinese text has about one token for three bytes of UTF-8, English one for four.
_BYTES_PER_TOKEN = 3
# Tokens that a chat template adds to a turn, at most.
_TOKENS_PER_TURN = 8
_LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True)
class Call:
    """One dialogue that is sent.

    Attributes:
        messages: The dialogue.
        sampling: Settings that take precedence over those of all calls.
    """

    messages: list[Message]
    sampling: ChatSampling | None = None

    @property
    def prompt_tokens(self) -> int:
        """About how many tokens the dialogue has."""
        return (
            sum(len(turn["content"].encode(errors="replace")) for turn in self.messages) // _BYTES_PER_TOKEN
        )

    @property
    def most_prompt_tokens(self) -> int:
        """How many tokens the dialogue has at most."""
        # A token has at least one byte.
        return sum(len(turn["content"].encode(errors="replace")) + _TOKENS_PER_TURN for turn in self.messages)


class _Busy(Exception):
    """The endpoint answered 429 or 5xx, or broke the connection, however often it was tried."""

    def __init__(self, reply: Reply):
        super().__init__(reply.error)
        self.reply = reply


class EndpointSession:
    """Sends calls; what it learns of the endpoint holds for all later ones.

    Attributes:
        left_out: Parameters that the endpoint refused, and what was done about each.
    """

    def __init__(self, endpoint: EndpointClient):
        self._endpoint = endpoint
        # The client's own retries are a matter of seconds; a busy provider may need minutes.
        self._retrying = AsyncRetrying(
            retry=retry_if_exception_type(_Busy),
            wait=wait_exponential_jitter(initial=1, max=_LONGEST_PAUSE_S),
            stop=self._is_out_of_patience,
            reraise=True,
        )
        self._ceiling = AdaptiveCeiling(endpoint.concurrency)
        self._outage = Outage(f"{endpoint.title} {endpoint.shown_url}", endpoint.settings.patience_s)
        settings = endpoint.settings
        self._limits = MinuteLimits(settings.requests_per_minute, settings.tokens_per_minute)
        self._mean_completion_tokens = 0.0
        self._succeeded_at = time.monotonic()
        self._has_succeeded = False
        self._token_parameter = "max_tokens"
        self._most_tokens: int | None = None
        # Wordings of refusals that a probe has shown to be about the content.
        self._block_wordings: set[str] = set()
        self.left_out: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        self._client = openai.AsyncOpenAI(
            **self._endpoint.client_settings(),
            http_client=WatchedHttpClient(self._endpoint.settings.timeout_s, self._attempted),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    def _attempted(self, outcome: Outcome, seconds: float) -> None:
        # Here and not where replies are read: the openai client repeats refused requests by itself.
        if outcome in (429, 503):
            self._ceiling.refused()
        if may_have_been_paid(outcome):
            METER.get().unanswered()
        if is_trouble(outcome):
            self._outage.failed(outcome, seconds)
        else:
            self._outage.ended()

    async def ask(self, call: Call) -> Reply:
        """The reply to a call, or why there is none.

        Raises:
            EndpointError: The endpoint cannot be used at all.
        """
        meter = Meter()
        METER.set(meter)
        async with self._ceiling.place():
            await self._limits.wait(call.prompt_tokens + int(self._mean_completion_tokens))
            try:
                reply = await self._retrying(self._attempt, call)
            except _Busy as busy:
                reply = busy.reply
        if reply.text is not None:
            self._ceiling.succeeded()
            self._has_succeeded = True
            self._succeeded_at = time.monotonic()
            self._mean_completion_tokens += 0.1 * (reply.completion_tokens - self._mean_completion_tokens)
        return replace(reply, overhead=meter.overhead)

    def _is_out_of_patience(self, state: RetryCallState) -> bool:
        return time.monotonic() - self._succeeded_at >= self._endpoint.settings.patience_s

    async def _attempt(self, call: Call) -> Reply:
        """One reply, after leaving out whatever parameters the endpoint refuses."""
        while True:
            sent = self._parameters(call)
            reply = await self._send(call, sent)
            if isinstance(reply, Reply):
                return reply
            if self._adapt(reply, sent, call):
                continue
            if reply.blocked or reply.wording in self._block_wordings:
                return Reply(None, error=reply.text, is_row_fault=True, blocked=reply.blocked or "input")
            if probed := await self._probe(call, reply):
                return probed
            # Without a probe, words that may mean a block are taken for a fault of this row alone.
            is_row_fault = reply.is_too_long or (reply.may_be_block and not self._endpoint.adapts)
            return Reply(None, error=reply.text, is_row_fault=is_row_fault)

    async def _send(self, call: Call, parameters: Mapping[str, Any]) -> Reply | Refusal:
        endpoint = self._endpoint
        meter = METER.get()
        meter.most = Overhead(
            prompt_tokens=call.most_prompt_tokens, completion_tokens=parameters.get(self._token_parameter, 0)
        )
        try:
            answer = await self._create(call, parameters)
        except openai.APITimeoutError:
            return Reply(None, error=f"no answer within {endpoint.settings.timeout_s:g} s")
        except openai.APIConnectionError as error:
            # Nobody listens: at the start that is a wrong URL, later a server that restarts.
            if (
                type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")
                and not self._has_succeeded
            ):
                raise endpoint.unusable(error) from None
            raise _Busy(
                Reply(None, error=f"the connection broke ({type(error.__cause__).__name__})")
            ) from None
        except openai.APIStatusError as error:
            refusal = read_refusal(error, endpoint.settings.block_patterns, endpoint.redact)
            if refusal.concerns_all:
                raise endpoint.unusable(error) from None
            if refusal.is_busy:
                raise _Busy(Reply(None, error=refusal.text)) from None
            return refusal
        except UnreadableAnswerError as error:
            return Reply(None, error=str(error))
        except (openai.APIError, ValueError, RecursionError):
            meter.unanswered()
            return Reply(None, error="the reply is not valid JSON")
        reply = read_completion(answer, endpoint.settings.block_patterns, endpoint.redact)
        if isinstance(reply, Refusal):
            return self._checked(reply)
        if reply.text is None and not reply.blocked:
            # A success of which nothing can be read, its usage neither.
            meter.unanswered()
        return reply

    def _checked(self, refusal: Refusal) -> Refusal:
        """A refusal in the body of a success, where it is about this request alone."""
        if refusal.concerns_all:
            raise self._endpoint.error(refusal.text)
        if refusal.is_busy:
            if refusal.status == 429:
                self._ceiling.refused()
            else:
                METER.get().unanswered()
            raise _Busy(Reply(None, error=refusal.text))
        return refusal

    async def _create(self, call: Call, parameters: Mapping[str, Any]) -> Any:
        """What the openai client makes of the answer to one request."""
        endpoint = self._endpoint
        shared = {"model": endpoint.model, "extra_body": endpoint.settings.extra_body or None, **parameters}
        if endpoint.is_raw:
            return await self._client.completions.create(prompt=call.messages[-1]["content"], **shared)
        return await self._client.chat.completions.create(  # pyright: ignore[reportCallIssue]
            messages=call.messages,  # pyright: ignore[reportArgumentType]
            **shared,
        )

    def _parameters(self, call: Call) -> dict[str, Any]:
        parameters: dict[str, Any] = {**self._endpoint.sampling, **(call.sampling or {})}
        if (tokens := parameters.pop("max_tokens", None)) is not None:
            parameters[self._token_parameter] = min(tokens, self._most_tokens or tokens)
        return {name: value for name, value in parameters.items() if name not in self.left_out}

    def _adapt(self, refusal: Refusal, sent: Mapping[str, Any], call: Call) -> bool:
        """Whether a refused parameter was found and left out, so that the call can be sent again.

        Calls that were sent together are refused together: the first one's finding holds for all.
        """
        if not self._endpoint.adapts:
            return False
        name = refusal.refused_parameter(sent, call.messages)
        if name is None:
            return False
        if name == "max_tokens" and "max_completion_tokens" in refusal.text:
            self._token_parameter = "max_completion_tokens"
        elif name in _TOKEN_PARAMETERS and (most := refusal.largest_number_below(sent[name])):
            self._most_tokens = most
        else:
            self.left_out[name] = refusal.text
        return True

    @property
    def adaptations(self) -> dict[str, str]:
        """What is sent in another form than the settings say, and why, for reports."""
        found = dict(self.left_out)
        if self._most_tokens:
            found[self._token_parameter] = f"at most {self._most_tokens}: the endpoint takes no more"
        return found

    async def _probe(self, call: Call, refusal: Refusal) -> Reply | None:
        """Find out whether an unknown refusal is about the content: a harmless call of the same form
        succeeds, and the refused one fails again.

        Returns:
            A blocked reply, or the answer of the second time; None where it is another refusal.
        """
        if refusal.is_too_long or not self._endpoint.adapts:
            return None
        harmless = [
            Message(role=turn["role"], content=_repeat(_PROBE_TEXT, len(turn["content"])))
            for turn in call.messages
        ]
        probe_call = Call(harmless, ChatSampling(max_tokens=_PROBE_TOKENS))
        meter = METER.get()
        probe = await self._send(probe_call, self._parameters(probe_call))
        meter.probed(probe if isinstance(probe, Reply) else None)
        if isinstance(probe, Refusal) or probe.text is None:
            return None
        again = await self._send(call, self._parameters(call))
        if isinstance(again, Reply):
            return again
        meter.probed(None)
        if again.wording != refusal.wording:
            return None
        self._block_wordings.add(refusal.wording)
        return Reply(None, error=refusal.text, is_row_fault=True, blocked="input")


def _repeat(text: str, length: int) -> str:
    return (text * (length // len(text) + 1))[: max(length, 1)]
