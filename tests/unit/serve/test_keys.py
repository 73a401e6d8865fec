import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from safe_r1.errors import ConfigError
from safe_r1.serve import keys
from safe_r1.serve.api import ApiError
from safe_r1.serve.config import LimitConfig
from safe_r1.serve.keys import Key, KeyRing, Limits, read_keys

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
def test_others_are_turned_away(tmp_path: Path, header: str | None):
    ring = KeyRing(write(tmp_path / "keys.toml", f'[a]\nkey = "{SECRET}"'))
    with pytest.raises(ApiError) as caught:
        ring.find(header)
    assert caught.value.status == 401
    assert SECRET not in str(caught.value.body)


def test_the_file_is_read_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(keys, "_LOOK_EVERY_S", 0.0)
    file = tmp_path / "keys.toml"
    ring = KeyRing(write(file, f'[a]\nkey = "{SECRET}"'))
    write(file, '[b]\nkey = "a-newer-secret-here"', mtime=2)
    assert ring.find("Bearer a-newer-secret-here")[0] == "b"
    with pytest.raises(ApiError):
        ring.find(f"Bearer {SECRET}")
    write(file, "[b", mtime=3)
    assert ring.find("Bearer a-newer-secret-here")[0] == "b"
    file.unlink()
    assert ring.find("Bearer a-newer-secret-here")[0] == "b"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no key"),
        ("[a", "expected TOML"),
        ('[a]\nkey = "short"', "a.*at least 16|key"),
        (f'[a]\nkey = "{SECRET}"\nsha256 = "{"0" * 64}"', "either key or sha256"),
        (f'[a]\nkey = "{SECRET}"\nadmin = true', "admin"),
    ],
)
def test_a_wrong_file_is_one_clear_line_without_the_key(tmp_path: Path, text: str, said: str):
    with pytest.raises(ConfigError, match=said) as caught:
        read_keys(write(tmp_path / "keys.toml", text))
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_limits_by_key():
    async def ask() -> None:
        limits = Limits(LimitConfig(requests_per_minute=2, items_per_minute=10))
        await limits.take("a", None, "requests")
        await limits.take("a", None, "requests")
        with pytest.raises(ApiError) as caught:
            await limits.take("a", None, "requests")
        assert caught.value.status == 429
        assert 1 <= int(caught.value.headers["Retry-After"]) <= 60
        await limits.take("b", None, "requests")
        await limits.take("c", Key(key=SECRET, requests_per_minute=1), "requests")
        with pytest.raises(ApiError):
            await limits.take("c", Key(key=SECRET, requests_per_minute=1), "requests")
        await limits.take("a", None, "items", 10)
        with pytest.raises(ApiError) as caught:
            await limits.take("b", None, "items", 11)
        assert caught.value.code == "too_many_items"

    asyncio.run(ask())


def test_without_a_file_everybody_is_local():
    assert KeyRing(None).find(None) == ("local", None)
