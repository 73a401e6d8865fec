"""What a user may type for a model behind a URL, and what of it is recorded."""

from pathlib import Path

import pytest

from safe_r1.errors import ConfigError
from safe_r1.models.registry import get_variant


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("endpoint:https://api.deepseek.com/v1#deepseek-reasoner", "deepseek-reasoner--api.deepseek.com"),
        ("endpoint:https://api.deepseek.com#deepseek-reasoner", "deepseek-reasoner--api.deepseek.com"),
        ("endpoint:http://127.0.0.1:8000/v1#Qwen/Qwen3-8B", "Qwen-Qwen3-8B--127.0.0.1-8000"),
        ("endpoint:http://127.0.0.1:8001/v1#Qwen/Qwen3-8B", "Qwen-Qwen3-8B--127.0.0.1-8001"),
        ("endpoint:https://gateway/team-a/v1#m", "m--gateway-team-a"),
        ("endpoint:https://u:p@host/v1#豆包 1.5", "豆包-1.5--host"),
        ("endpoint:http://[::1]:8000/v1#m", "m---1-8000"),
    ],
)
def test_models_and_places_have_names_of_their_own(text: str, name: str):
    variant = get_variant(text)
    assert (variant.name, variant.kind) == (name, "endpoint")


@pytest.mark.parametrize(
    "text",
    [
        "endpoint:https://api.deepseek.com/v1",
        "endpoint:#m",
        "endpoint:ftp://host/v1#m",
        "endpoint:http://[::1/v1#m",
        "endpoint:http://user:pass-word@#m",
        "endpoint:http://host:99999/v1#m",
        "endpoint:host/v1#m",
    ],
)
def test_what_is_no_endpoint_is_one_line_without_its_password(text: str):
    with pytest.raises(ConfigError, match="endpoint:URL#MODEL") as caught:
        get_variant(text)
    assert "\n" not in str(caught.value)
    assert "pass-word" not in str(caught.value)


def test_a_file_names_the_variable_of_the_key_and_never_the_key(tmp_path: Path):
    file = tmp_path / "mine.toml"
    entry = 'url = "https://h/v1"\nmodel = "m"\n'
    file.write_text(f'{entry}name = "mine"\nheaders = {{ X-Token = "header-secret" }}\n')
    variant = get_variant(str(file))
    assert variant.name == "mine"
    assert "header-secret" not in str(variant.public())
    file.write_text(f'{entry}api_key = "sk-secret"\n')
    with pytest.raises(ConfigError, match="api_key_env") as caught:
        get_variant(str(file))
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize("line", ['headers = { X = "密钥" }', "concurrency = 0", 'urll = "x"'])
def test_settings_that_do_not_fit_are_one_line(tmp_path: Path, line: str):
    file = tmp_path / "mine.toml"
    file.write_text(f'url = "https://h/v1"\nmodel = "m"\n{line}\n', encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        get_variant(str(file))
    assert "\n" not in str(caught.value)
    assert "密钥" not in str(caught.value)
