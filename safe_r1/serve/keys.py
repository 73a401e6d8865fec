"""API keys from a file, compared in constant time, and rate limits by key.

The key file is TOML and is read again when it changes::

    [team-a]
    sha256 = "…"              # of the key, or: key = "…"
    requests_per_minute = 60  # overrides the service's own limit
"""

import hashlib
import hmac
import math
import os
import threading
import time
import tomllib
from pathlib import Path
from typing import Literal

from limits import RateLimitItemPerMinute
from limits.aio.strategies import MovingWindowRateLimiter
from limits.storage import storage_from_string
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from safe_r1.errors import ConfigError
from safe_r1.serve.config import LimitConfig
from safe_r1.serve.errors import ApiError

_CHECK_INTERVAL_S = 2.0
_MIN_KEY_LENGTH = 16


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
    try:
        tree = tomllib.loads(Path(file).read_text(encoding="utf-8"))
        keys = {name: ApiKey.model_validate(entry) for name, entry in tree.items()}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"key file {file}: {type(error).__name__}; expected TOML with a table for each key"
        ) from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "entry"
        raise ConfigError(f"key file {file}: {field}: {first['msg']}") from None
    if not keys:
        raise ConfigError(f"key file {file}: no key in it; add a table for each key")
    return keys


class KeyRing:
    """The keys of a file, reloaded when it changes; while the file is invalid, the last valid keys apply.

    Without a file every caller is named ``local``, so such a service must listen on loopback only.
    """

    def __init__(self, file: str | None):
        self._file = file
        self._keys = read_keys(file) if file else {}
        self._stamp = self._read_stamp()
        self._next_check = 0.0
        self._lock = threading.Lock()

    def _read_stamp(self) -> tuple[int, int] | None:
        """Modification time and size of the file."""
        try:
            found = os.stat(self._file) if self._file else None
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_size) if found else None

    def _reload(self) -> None:
        assert self._file
        with self._lock:
            if time.monotonic() < self._next_check:
                return
            self._next_check = time.monotonic() + _CHECK_INTERVAL_S
            stamp = self._read_stamp()
            # A file that is missing for a moment is being replaced.
            if stamp is None or stamp == self._stamp:
                return
            try:
                self._keys = read_keys(self._file)
            except ConfigError:
                return
            self._stamp = stamp

    def find(self, authorization: str | None) -> tuple[str, ApiKey | None]:
        """Name and entry of the key in an ``Authorization`` header.

        Raises:
            ApiError: 401, no key or an unknown one.
        """
        if self._file is None:
            return "local", None
        self._reload()
        scheme, _, secret = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not secret:
            raise ApiError(401, "missing_api_key", "no API key: send it as Authorization: Bearer KEY")
        digest = hashlib.sha256(secret.strip().encode("utf-8", "surrogateescape")).hexdigest()
        # Every entry is compared, so that the response time does not reveal which one matched.
        found = [name for name, key in self._keys.items() if hmac.compare_digest(key.digest, digest)]
        if not found:
            raise ApiError(401, "invalid_api_key", "unknown API key")
        return found[0], self._keys[found[0]]


class RateLimits:
    """Counts the requests and items of each key in a moving window of one minute."""

    def __init__(self, config: LimitConfig):
        self._config = config
        self._limiter = MovingWindowRateLimiter(storage_from_string(config.storage))  # pyright: ignore[reportArgumentType]

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
        allowed = self.limit_of(key, "requests_per_minute" if unit == "requests" else "items_per_minute")
        limit = RateLimitItemPerMinute(allowed)
        if amount > allowed:
            message = f"{amount} {unit} in one request; the limit of this key is {allowed} per minute"
            raise ApiError(400, "too_many_items", message)
        if not await self._limiter.hit(limit, unit, name, cost=amount):
            reset = (await self._limiter.get_window_stats(limit, unit, name)).reset_time
            wait = max(1, math.ceil(reset - time.time()))
            message = f"more than {allowed} {unit} per minute; try again in {wait} s"
            raise ApiError(429, "rate_limit_exceeded", message, retry_after_s=wait)
