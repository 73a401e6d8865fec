"""Replies of a chat endpoint, and the cache on disk that keeps them by content.

The cache may be shared by any number of processes.
"""

import errno
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import diskcache

from safe_r1.errors import StorageError

_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE}
_ERRORS = (OSError, sqlite3.Error, diskcache.Timeout)

Write = Callable[[str, "Reply"], None]
"""Stores a reply under its key."""


@dataclass(frozen=True)
class Overhead:
    """Requests beyond the one that gave a row its answer, as far as they may have been paid.

    Attributes:
        num_probes: Requests that found out whether a refusal is about the content.
        num_unanswered: Attempts of which no answer arrived, such as those that timed out.
        prompt_tokens, completion_tokens: Of both; at most, where the endpoint did not say.
    """

    num_probes: int = 0
    num_unanswered: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "Overhead") -> "Overhead":
        return Overhead(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    def __bool__(self) -> bool:
        return any(astuple(self))


NO_OVERHEAD = Overhead()


@dataclass(frozen=True)
class Reply:
    """Result of one call: the reply of the model, or why the call failed.

    Attributes:
        text: The reply; None where the call failed, and ``error`` says why.
        finish_reason: The endpoint's.
        is_row_fault: True where the row and not the endpoint is at fault, so that other rows may succeed.
        prompt_tokens, completion_tokens: As the endpoint counts them; 0 where it does not.
        reasoning: The reasoning where the endpoint sends it apart from the text.
        blocked: ``input`` or ``output`` where the provider's content filter took the prompt or the reply;
            else empty.
        partial: What was sent of a reply that was blocked.
        served_by: Model and ``system_fingerprint`` as the endpoint reports them.
        overhead: What else the call took.
    """

    text: str | None
    finish_reason: str | None = None
    error: str = ""
    is_row_fault: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning: str = ""
    blocked: str = ""
    partial: str = ""
    served_by: str = ""
    overhead: Overhead = NO_OVERHEAD

    @property
    def full_text(self) -> str | None:
        """Reasoning and text as the model wrote them; a reply cut in its reasoning leaves it open."""
        if self.text is None or not self.reasoning or "</think>" in self.text:
            return self.text
        if not self.text and self.finish_reason == "length":
            return f"<think>\n{self.reasoning}"
        return f"<think>\n{self.reasoning}\n</think>\n\n{self.text}"


def _read(row: dict[str, Any]) -> Reply:
    # Replies of earlier versions have none.
    overhead = row.pop("overhead", {})
    return Reply(**row, overhead=Overhead(**overhead))


class ReplyCache:
    """Replies by key in a folder; without a folder it is always empty."""

    def __init__(self, folder: str | Path | None, title: str):
        """Create the cache; touches no file.

        Args:
            folder: Where the replies are; None keeps nothing.
            title: Owner of the cache, for messages.
        """
        self._folder = folder
        self._title = title

    def read(self, keys: Iterable[str]) -> dict[str, Reply]:
        """The replies that are there.

        Raises:
            StorageError: The folder cannot be used.
        """
        if self._folder is None:
            return {}
        try:
            with self._open() as cache:
                rows = {key: cache.get(key) for key in keys}
        except (*_ERRORS, ValueError) as error:
            raise self._error(error) from None
        return {key: _read(row) for key, row in rows.items() if isinstance(row, dict)}

    @contextmanager
    def writing(self) -> Iterator[Write]:
        """Open the cache once for many writes.

        Raises:
            StorageError: The folder cannot be used; also raised by the function that is given.
        """
        if self._folder is None:
            yield lambda key, reply: None
            return
        try:
            cache = self._open()
        except _ERRORS as error:
            raise self._error(error) from None

        def write(key: str, reply: Reply) -> None:
            try:
                cache.set(key, asdict(reply), retry=True)
            except _ERRORS as error:
                raise self._error(error) from None

        with cache:
            yield write

    def _open(self) -> diskcache.Cache:
        # Nothing is ever evicted: a lost row would cost a call and could change a result. JSON, so that no
        # pickle is read.
        return diskcache.Cache(str(self._folder), disk=diskcache.JSONDisk, eviction_policy="none", timeout=60)

    def _error(self, error: Exception) -> StorageError:
        reason = " ".join(str(error).split())[:200]
        if getattr(error, "sqlite_errorcode", None) in _FULL or getattr(error, "errno", None) == errno.ENOSPC:
            # Never to be deleted for that: each reply was paid.
            return StorageError(
                f"{self._title}: its cache {self._folder} cannot be written ({reason}); free space, then the "
                "same command goes on"
            )
        return StorageError(
            f"{self._title}: its cache {self._folder} cannot be used ({reason}); expected a writable folder "
            "with an intact cache; choose another folder or delete this one"
        )
