"""What is seen of single attempts, which the openai client repeats by itself: those that may have been paid
without an answer, and how long there has been none.
"""

import logging
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from safe_r1.inference.endpoint_transport import BoundedHttpClient
from safe_r1.inference.reply_cache import NO_OVERHEAD, Overhead, Reply
from safe_r1.progress import NOTICES

notices = logging.getLogger(NOTICES)

# Errors of the transport before anything was sent.
_NOT_SENT = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout"})
# A gateway gave up waiting, while the model may have gone on.
_GAVE_UP = frozenset({408, 504, 524})
# Single refusals are usual, and the client waits some seconds for each.
_QUIET_S = 10.0
_PACE_S = 60.0

Outcome = int | str
"""HTTP status of an attempt, or the class of the error that ended it."""


def may_have_been_paid(outcome: Outcome) -> bool:
    """Whether the model may have worked on an attempt of which no answer arrived."""
    return outcome in _GAVE_UP if isinstance(outcome, int) else outcome not in _NOT_SENT


def is_trouble(outcome: Outcome) -> bool:
    """Whether an attempt ended in a way that is waited out."""
    return isinstance(outcome, str) or outcome in (408, 429) or outcome >= 500


@dataclass
class Meter:
    """What a call takes beyond its answer.

    Attributes:
        most: What the request that is under way can take.
        overhead: What has been taken.
    """

    most: Overhead = NO_OVERHEAD
    overhead: Overhead = NO_OVERHEAD

    def unanswered(self) -> None:
        """No answer to the request arrived."""
        self.overhead += replace(self.most, num_unanswered=1)

    def probed(self, reply: Reply | None) -> None:
        """A probe ended; without a reply it was refused, which costs nothing."""
        taken = Overhead(num_probes=1)
        if reply is not None and reply.completion_tokens:
            taken += Overhead(0, 0, reply.prompt_tokens, reply.completion_tokens)
        elif reply is not None and reply.text is not None:
            taken += self.most
        self.overhead += taken


METER: ContextVar[Meter] = ContextVar("METER")
"""Of the call that this task sends: its attempts are seen far below, in the HTTP client."""


class WatchedHttpClient(BoundedHttpClient):
    """The HTTP client of a session, which reports the outcome of every attempt and its seconds."""

    def __init__(self, timeout_s: float, attempted: Callable[[Outcome, float], None]):
        super().__init__(timeout_s)
        self._attempted = attempted

    async def send(self, *args: Any, **kwargs: Any) -> Any:
        """Send one request, and read its answer."""
        began = time.monotonic()
        try:
            response = await super().send(*args, **kwargs)
        except Exception as error:
            # By name: which of httpx's generations the library uses is its own affair.
            self._attempted(type(error).__name__, time.monotonic() - began)
            raise
        self._attempted(response.status_code, time.monotonic() - began)
        return response


class Outage:
    """Tells the terminal, at a calm pace, that an endpoint gives no answers and what is done about it."""

    def __init__(self, title: str, patience_s: float, now: Callable[[], float] = time.monotonic):
        """Create it for one endpoint.

        Args:
            title: The endpoint in messages, without secrets.
            patience_s: How long answers are waited for.
            now: The clock, in seconds.
        """
        self._title = title
        self._patience_s = patience_s
        self._now = now
        self._since: float | None = None
        self._started_at = ""
        self._told_at: float | None = None
        self._num_attempts = 0

    def failed(self, outcome: Outcome, seconds: float) -> None:
        """An attempt that took some seconds ended without an answer."""
        now = self._now()
        if self._since is None:
            # A time-out is told at once: it was waited for already.
            self._since = now - seconds
            self._started_at = time.strftime("%H:%M:%S", time.localtime(time.time() - seconds))
        self._num_attempts += 1
        is_due = self._told_at is None or now - self._told_at >= _PACE_S
        if now - self._since < _QUIET_S or not is_due:
            return
        self._told_at = now
        kind = f"HTTP {outcome}" if isinstance(outcome, int) else outcome
        notices.warning(
            "%s: no answer since %s (%s, %d attempt%s); requests are sent again, and given up after %.0f s "
            "without any answer",
            self._title,
            self._started_at,
            kind,
            self._num_attempts,
            "" if self._num_attempts == 1 else "s",
            self._patience_s,
        )

    def ended(self) -> None:
        """An answer arrived."""
        if self._told_at is not None and self._since is not None:
            notices.warning("%s: answers again after %.0f s", self._title, self._now() - self._since)
        self._since = None
        self._told_at = None
        self._num_attempts = 0
