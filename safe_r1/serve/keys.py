"""API keys from a file, compared in constant time, and rate limits by key.

The key file is TOML and is read again within seconds when its content changes::

    [team-a]
    sha256 = "…"              # of the key, or: key = "…"
    requests_per_minute = 60  # overrides the service's own limit
"""

import hashlib
import hmac
import logging
import math
import os
import threading
import time
import tomllib
from pathlib import Path
from typing import Literal

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter
from limits.storage import storage_from_string
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from safe_r1.errors import ConfigError
from safe_r1.serve.config import LimitConfig
from safe_r1.serve.errors import ApiError

_CHECK_INTERVAL_S = 2.0
# While the file is invalid: it may be in the middle of being replaced.
_RETRY_INTERVAL_S = 0.2
_MAX_FILE_BYTES = 4 << 20
_MIN_KEY_LENGTH = 16
_WINDOW_S = 60
# More than a clock is off between two requests while it is adjusted gradually.
_CLOCK_STEP_S = 1.0
KEY_REVOKED = "api_key_revoked"
"""Code of the answer to a row of a batch whose owner has no key any more."""
logger = logging.getLogger(__name__)


class ApiKey(BaseModel):
    """One entry of the key file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    key: str | None = Field(default=None, min_length=_MIN_KEY_LENGTH)
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    requests_per_minute: int | None = Field(default=None, ge=1)
    items_per_minute: int | None = Field(default=None, ge=1)
    items_per_batch: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _check_secret(self) -> "ApiKey":
        if (self.key is None) == (self.sha256 is None):
            raise ValueError("give either key or sha256")
        if self.key and not (self.key.isascii() and self.key.isprintable() and " " not in self.key):
            raise ValueError("a key has ASCII letters, digits and signs alone, without spaces")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of the key, hexadecimal."""
        return self.sha256 or hashlib.sha256((self.key or "").encode()).hexdigest()


def read_keys(file: str) -> dict[str, ApiKey]:
    """Entries of a key file by name.

    Raises:
        ConfigError: The file cannot be read, or an entry is wrong. The message never quotes a key.
    """
    keys, problem = _parse(file, _read(file))
    if problem:
        raise ConfigError(problem)
    return keys


def _read(file: str) -> bytes | None:
    """Content of a key file; None where it cannot be read."""
    try:
        # A pipe or a device would block, or never end.
        if not Path(file).is_file() or os.stat(file).st_size > _MAX_FILE_BYTES:
            return None
        return Path(file).read_bytes()
    except OSError:
        return None


def _parse(file: str, content: bytes | None) -> tuple[dict[str, ApiKey], str]:
    """The valid entries by name, and the first problem in one line, which never quotes a key."""
    if content is None:
        return {}, f"key file {file}: not a file that can be read; expected TOML with a table for each key"
    try:
        tree = tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        return {}, f"key file {file}: {type(error).__name__}; expected TOML with a table for each key"
    keys: dict[str, ApiKey] = {}
    problem = "" if tree else f"key file {file}: no key in it; add a table for each key"
    for name, entry in tree.items():
        try:
            keys[name] = ApiKey.model_validate(entry)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            field = " ".join(".".join(map(str, (name, *first["loc"]))).split())
            message = first["msg"].removeprefix("Value error, ")
            problem = problem or f"key file {file}: {field}: {message}"
    return keys, problem


class KeyRing:
    """The keys of a file, read again when its content changes.

    While the file is invalid, a key is accepted only if it is a valid entry of the file as it is now and was
    one when the file was last valid: nobody comes in by a file that is in error, and nobody stays who may
    have been removed from it. Without a file every caller is named ``local``, so such a service must listen
    on loopback only.

    Attributes:
        problem: What is wrong with the file, in one line that quotes no key; empty if nothing is.
    """

    def __init__(self, file: str | None):
        self._file = file
        self._keys: dict[str, ApiKey] = {}
        self._last_valid: dict[str, ApiKey] = {}
        self._digest = ""
        self._next_check = 0.0
        self._lock = threading.Lock()
        self.problem = ""
        self.check()

    def check(self) -> None:
        """Read the file if it has changed."""
        with self._lock:
            if self._file is None or time.monotonic() < self._next_check:
                return
            content = _read(self._file)
            # By content: a file that is copied over another may keep its size and time.
            digest = "unreadable" if content is None else hashlib.sha256(content).hexdigest()
            if digest != self._digest:
                self._digest = digest
                self._apply(*_parse(self._file, content))
            interval = _RETRY_INTERVAL_S if self.problem else _CHECK_INTERVAL_S
            self._next_check = time.monotonic() + interval

    def _apply(self, keys: dict[str, ApiKey], problem: str) -> None:
        if not problem:
            self._keys = self._last_valid = keys
            if self.problem:
                logger.warning("key file %s: valid again", self._file)
        else:
            known = {key.digest for key in self._last_valid.values()}
            self._keys = {name: key for name, key in keys.items() if key.digest in known}
            message = "%s; of its keys %d are accepted until it is repaired"
            logger.error(message, problem, len(self._keys))
        self.problem = problem

    def find(self, authorization: str | None) -> tuple[str, ApiKey | None]:
        """Name and entry of the key in an ``Authorization`` header.

        Raises:
            ApiError: 401, no key or an unknown one; 503, one that the file, which is invalid, may have.
        """
        if self._file is None:
            return "local", None
        self.check()
        scheme, _, secret = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not secret:
            raise ApiError(401, "missing_api_key", "no API key: send it as Authorization: Bearer KEY")
        digest = hashlib.sha256(secret.strip().encode("utf-8", "surrogateescape")).hexdigest()
        # Every entry is compared, so that the response time does not reveal which one matched.
        found = [name for name, key in self._keys.items() if hmac.compare_digest(key.digest, digest)]
        if not found and self.problem:
            raise self._unavailable()
        if not found:
            raise ApiError(401, "invalid_api_key", "unknown API key")
        return found[0], self._keys[found[0]]

    def check_owner(self, name: str) -> None:
        """Check that the owner of a batch still has a key; another secret under the same name is one.

        Raises:
            ApiError: 401 with the code ``KEY_REVOKED``; 503, the file, which is invalid, may have it.
        """
        if self._file is None:
            return
        self.check()
        if name in self._keys:
            return
        if self.problem:
            raise self._unavailable()
        message = f"the API key {name!r} of this batch's owner was revoked"
        raise ApiError(401, KEY_REVOKED, message)

    def _unavailable(self) -> ApiError:
        message = "the API keys cannot be read until the service's operator repairs their file"
        return ApiError(503, "keys_unavailable", message, retry_after_s=5)


class RateLimits:
    """Counts the requests and items of each key in a moving window of one minute."""

    def __init__(self, config: LimitConfig):
        self._config = config
        self._storage = storage_from_string(config.storage)
        self._limiter = MovingWindowRateLimiter(self._storage)  # pyright: ignore[reportArgumentType]
        self._clock_offset = time.time() - time.monotonic()

    def limit_of(
        self,
        key: ApiKey | None,
        setting: Literal["requests_per_minute", "items_per_minute", "items_per_batch"],
    ) -> int:
        """The limit of a key: that of its entry, or the service's own."""
        return getattr(key, setting, None) or getattr(self._config, setting)

    async def charge(
        self, name: str, key: ApiKey | None, unit: Literal["requests", "items"], amount: int = 1
    ) -> None:
        """Count ``amount`` requests or items against a key's limit.

        Args:
            name: The key's name.
            key: Its entry.
            unit: ``requests`` or ``items``.
            amount: Number of requests or items.

        Raises:
            ApiError: 429 with the seconds to wait, or 400 for more items than a minute allows; nothing is
                counted then.
        """
        await self._forget_the_future()
        allowed = self.limit_of(key, "requests_per_minute" if unit == "requests" else "items_per_minute")
        limit = RateLimitItemPerMinute(allowed)
        if amount > allowed:
            message = f"{amount} {unit} in one request; the limit of this key is {allowed} per minute"
            raise ApiError(400, "too_many_items", message)
        if not await self._limiter.hit(limit, unit, name, cost=amount):
            reset = (await self._limiter.get_window_stats(limit, unit, name)).reset_time
            wait = min(_WINDOW_S, max(1, math.ceil(reset - time.time())))
            message = f"more than {allowed} {unit} per minute; try again in {wait} s"
            raise ApiError(429, "rate_limit_exceeded", message, retry_after_s=wait)

    async def _forget_the_future(self) -> None:
        """Begin all windows anew where the machine's clock was set back.

        They are kept by that clock: a caller who has used up a minute would have to wait for as long as the
        clock was set back.
        """
        before = self._clock_offset
        self._clock_offset = time.time() - time.monotonic()
        # Windows in Redis are those of all replicas.
        if self._clock_offset < before - _CLOCK_STEP_S and isinstance(self._storage, MemoryStorage):
            await self._storage.reset()
