import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from safe_r1.errors import ConfigError
from safe_r1.serve import keys
from safe_r1.serve.config import LimitConfig
from safe_r1.serve.errors import ApiError
from safe_r1.serve.keys import ApiKey, KeyRing, RateLimits, read_keys

SECRET = "a-secret-of-some-length"


def write(file: Path, text: str, mtime: int = 1) -> str:
    file.write_text(text, "utf-8")
    os.utime(file, (mtime, mtime))
    return str(file)


def test_several_keys_plain_and_hashed(tmp_path: Path):
    digest = hashlib.sha256(b"another-secret-here").hexdigest()
    ring = KeyRing(
        write(
            tmp_path / "keys.toml", f'[a]\nkey = "{SECRET}"\n[b]\nsha256 = "{digest}"\nitems_per_minute = 5'
        )
    )
    assert ring.find(f"Bearer {SECRET}")[0] == "a"
    name, key = ring.find("bearer another-secret-here")
    assert name == "b"
    assert key is not None
    assert key.items_per_minute == 5


@pytest.mark.parametrize(
    "header", [None, "", "Bearer ", "Basic abc", SECRET, "Bearer wrong", f"Bearer {SECRET}x"]
)
def test_invalid_keys_are_rejected(tmp_path: Path, header: str | None):
    ring = KeyRing(write(tmp_path / "keys.toml", f'[a]\nkey = "{SECRET}"'))
    with pytest.raises(ApiError) as caught:
        ring.find(header)
    assert caught.value.status == 401
    assert SECRET not in str(caught.value.body)


def test_the_file_is_reloaded_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(keys, "_CHECK_INTERVAL_S", 0.0)
    file = tmp_path / "keys.toml"
    ring = KeyRing(write(file, f'[a]\nkey = "{SECRET}"'))
    write(file, '[b]\nkey = "a-newer-secret-here"', mtime=2)
    assert ring.find("Bearer a-newer-secret-here")[0] == "b"
    with pytest.raises(ApiError):
        ring.find(f"Bearer {SECRET}")
    # Of the same size and time.
    write(file, '[b]\nkey = "a-newest-secret-her"', mtime=2)
    with pytest.raises(ApiError):
        ring.find("Bearer a-newer-secret-here")


TWO = f'[a]\nkey = "{SECRET}"\n[b]\nkey = "a-newer-secret-here"\n'


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        (None, []),
        ("", []),
        ("[b", []),
        ("\0", []),
        (f'a = "{SECRET}"', []),
        # The valid entries of a file in error, if they were in the valid one.
        (f'[a]\nkey = "{SECRET}"\n[b]\nkey = "short"', ["a"]),
        (f'[a]\nkey = "{SECRET}"\n[c]\nkey = "a-key-that-is-new"\n[d]\n', ["a"]),
        ('[b]\nkey = "a-key-that-is-new"\n[d]\n', []),
    ],
)
def test_a_file_in_error_keeps_nobody_who_is_not_in_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    text: str | None,
    accepted: list[str],
):
    monkeypatch.setattr(keys, "_CHECK_INTERVAL_S", 0.0)
    monkeypatch.setattr(keys, "_RETRY_INTERVAL_S", 0.0)
    file = tmp_path / "keys.toml"
    ring = KeyRing(write(file, TWO))
    assert not ring.problem
    if text is None:
        file.unlink()
    else:
        write(file, text)

    def find(secret: str) -> str:
        try:
            return ring.find(f"Bearer {secret}")[0]
        except ApiError as error:
            return str(error.status)

    found = map(find, (SECRET, "a-newer-secret-here", "a-key-that-is-new"))
    assert [name for name in found if name != "503"] == accepted
    [record] = caplog.records
    assert str(file) in record.message
    assert SECRET not in caplog.text
    assert "\n" not in ring.problem
    write(file, TWO)
    assert find("a-newer-secret-here") == "b"
    assert not ring.problem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no key"),
        ("[a", "expected TOML"),
        ('[a]\nkey = "short"', "a.*at least 16|key"),
        (f'[a]\nkey = "{SECRET}"\nsha256 = "{"0" * 64}"', "either key or sha256"),
        (f'[a]\nkey = "{SECRET}"\nadmin = true', "admin"),
        ('[a]\nkey = "密钥密钥密钥密钥密钥密钥密钥密钥"', "a: .*ASCII"),
        ('[a]\nkey = "a secret with some spaces"', "a: .*without spaces"),
        ('["a\\nb"]\nkey = "short"', "a b.key: "),
    ],
)
def test_an_invalid_file_is_one_clear_line_without_the_key(tmp_path: Path, text: str, message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        read_keys(write(tmp_path / "keys.toml", text))
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_limits_by_key():
    async def run() -> None:
        limits = RateLimits(LimitConfig(requests_per_minute=2, items_per_minute=10))
        await limits.charge("a", None, "requests")
        await limits.charge("a", None, "requests")
        with pytest.raises(ApiError) as caught:
            await limits.charge("a", None, "requests")
        assert caught.value.status == 429
        assert 1 <= int(caught.value.headers["Retry-After"]) <= 60
        await limits.charge("b", None, "requests")
        await limits.charge("c", ApiKey(key=SECRET, requests_per_minute=1), "requests")
        with pytest.raises(ApiError):
            await limits.charge("c", ApiKey(key=SECRET, requests_per_minute=1), "requests")
        await limits.charge("a", None, "items", 10)
        with pytest.raises(ApiError) as caught:
            await limits.charge("b", None, "items", 11)
        assert caught.value.code == "too_many_items"

    asyncio.run(run())


def test_without_a_file_every_caller_is_local():
    assert KeyRing(None).find(None) == ("local", None)
