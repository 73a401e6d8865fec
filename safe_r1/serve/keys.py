"""Who may ask, and how much: bearer keys from a file, compared in constant time, and limits by key.

The file is TOML and is read again when it changes::

    [team-a]
    sha256 = "…"              # of the key, or: key = "…"
    requests_per_minute = 60  # instead of the service's own limit
"""

import hashlib
import hmac
import math
import os
import threading
import time
import tomllib
from pathlib import Path

from limits import RateLimitItemPerMinute
from limits.aio.strategies import MovingWindowRateLimiter
from limits.storage import storage_from_string
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from safe_r1.errors import ConfigError
from safe_r1.serve.api import ApiError
from safe_r1.serve.config import LimitConfig

_LOOK_EVERY_S = 2.0
_SHORTEST_KEY = 16


class Key(BaseModel):
    """One entry of the key file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    key: str | None = Field(default=None, min_length=_SHORTEST_KEY)
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    requests_per_minute: int | None = Field(default=None, ge=1)
    items_per_minute: int | None = Field(default=None, ge=1)
    items_per_batch: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_secret(self) -> "Key":
        if (self.key is None) == (self.sha256 is None):
            raise ValueError("give either key or sha256")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of the key, hexadecimal."""
        return self.sha256 or hashlib.sha256((self.key or "").encode()).hexdigest()


def read_keys(file: str) -> dict[str, Key]:
    """The entries of a key file by name.

    Raises:
        ConfigError: It cannot be read, or an entry is wrong. The message never holds a key.
    """
    try:
        tree = tomllib.loads(Path(file).read_text(encoding="utf-8"))
        keys = {name: Key.model_validate(entry) for name, entry in tree.items()}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"key file {file}: {type(error).__name__}; expected TOML with a table for each key"
        ) from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise ConfigError(
            f"key file {file}: {'.'.join(map(str, first['loc'])) or 'entry'}: {first['msg']}"
        ) from None
    if not keys:
        raise ConfigError(f"key file {file}: no key in it; nobody could ask")
    return keys


class KeyRing:
    """The keys of a file, kept up to date; a file that has become unreadable leaves the keys as they were.

    Without a file everybody is ``local``, so such a service must listen on loopback alone.
    """

    def __init__(self, file: str | None):
        self._file = file
        self._keys = read_keys(file) if file else {}
        self._stamp = self._look()
        self._due = 0.0
        self._lock = threading.Lock()

    def _look(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._file) if self._file else None
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_size) if found else None

    def _refresh(self) -> None:
        assert self._file
        with self._lock:
            if time.monotonic() < self._due:
                return
            self._due = time.monotonic() + _LOOK_EVERY_S
            stamp = self._look()
            if stamp is None or stamp == self._stamp:
                return
            try:
                self._keys, self._stamp = read_keys(self._file), stamp
            except ConfigError:
                return

    def find(self, authorization: str | None) -> tuple[str, Key | None]:
        """Name and entry of whoever sent this ``Authorization`` header.

        Raises:
            ApiError: 401, no key or none of ours.
        """
        if self._file is None:
            return "local", None
        self._refresh()
        scheme, _, secret = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not secret:
            raise ApiError(401, "missing_api_key", "no API key: send it as Authorization: Bearer KEY")
        digest = hashlib.sha256(secret.strip().encode("utf-8", "surrogateescape")).hexdigest()
        # Every entry is looked at, so that the time says nothing of where a key stands.
        found = [name for name, key in self._keys.items() if hmac.compare_digest(key.digest, digest)]
        if not found:
            raise ApiError(401, "invalid_api_key", "this API key is not known here")
        return found[0], self._keys[found[0]]


class Limits:
    """Counts what each key asks for in a moving minute."""

    def __init__(self, config: LimitConfig):
        self._config = config
        self._limiter = MovingWindowRateLimiter(storage_from_string(config.storage))  # pyright: ignore[reportArgumentType]

    def allowed(self, key: Key | None, setting: str) -> int:
        """What a key may, by the name of the setting."""
        return getattr(key, setting, None) or getattr(self._config, setting)

    async def take(self, name: str, key: Key | None, what: str, amount: int = 1) -> None:
        """Count ``amount`` requests or items of a key.

        Args:
            name: The key's name.
            key: Its entry.
            what: ``requests`` or ``items``.
            amount: How many.

        Raises:
            ApiError: 429 with the time to wait; nothing is counted then.
        """
        allowed = self.allowed(key, f"{what}_per_minute")
        limit = RateLimitItemPerMinute(allowed)
        if amount > allowed:
            raise ApiError(
                400, "too_many_items", f"{amount} {what} in one request; this key may send {allowed} a minute"
            )
        if not await self._limiter.hit(limit, what, name, cost=amount):
            reset = (await self._limiter.get_window_stats(limit, what, name)).reset_time
            wait = max(1, math.ceil(reset - time.time()))
            raise ApiError(
                429,
                "rate_limit_exceeded",
                f"more than {allowed} {what} a minute; try again in {wait} s",
                retry_after_s=wait,
            )
