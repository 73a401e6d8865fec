import pytest

from safe_r1.config import EvaluateConfig
from safe_r1.errors import ConfigError
from safe_r1.settings import hide_credentials, load_config, public_settings, setting_names


def load(*overrides: str, file: str | None = None, **flags) -> EvaluateConfig:
    return load_config(EvaluateConfig, file, list(overrides), **{"variant": "demo", **flags})


def test_flags_win_over_set_and_set_over_file(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text("repeats = 2\nlimit = 5\n[generation]\ntemperature = 0.1\nseed = 9\n")
    config = load("generation.temperature=0.7", "limit=6", file=str(file), limit=7)
    assert (config.repeats, config.limit, config.generation.temperature, config.generation.seed) == (
        2,
        7,
        0.7,
        9,
    )


def test_yaml_file_is_read(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("engine:\n  replicas: 4\n")
    assert load(file=str(file)).engine.replicas == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("generation.temprature=1", "generation.temperature"),
        ("engin.dtype=float32", "unknown setting 'engin'"),
        ("generation.temperature=hot", "generation.temperature"),
        ("repeats", "NAME=VALUE"),
        ("repeats.x=1", "repeats"),
        ("judge.kind=the oracle", "lexicon, llm or a URL"),
        ("limit=0", "limit"),
        ("run=../elsewhere", "run"),
        ("generation.seed=[1", "not readable"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(override, message):
    with pytest.raises(ConfigError) as caught:
        load(override)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_named(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text("a = [")
    with pytest.raises(ConfigError, match=r"settings\.toml"):
        load(file=str(file))


def test_names_reach_into_groups():
    names = setting_names(EvaluateConfig)
    assert {"variant", "judge.engine.dtype", "generation.seed"} <= set(names)


def test_settings_are_shown_without_credentials():
    judge = "https://user:p%40ss@host:8000/v1"
    config = load("output=s3://key:secret@store/runs", judge__kind=judge)
    assert config.judge.kind == judge
    shown = str(public_settings(config))
    assert "https://host:8000/v1" in shown
    assert "s3://store/runs" in shown
    assert not any(word in shown for word in ("user", "p%40ss", "key:", "secret"))


@pytest.mark.parametrize("password", ["p@ss", "a@b@c", "plain"])
def test_the_whole_password_is_hidden(password: str):
    assert hide_credentials(f"x http://user:{password}@host/v1 y") == "x http://host/v1 y"


def test_keys_in_the_query_of_a_url_are_hidden():
    text = 'at https://host/v1?api-version=7&key=secret#model and http://other/v1?token=secret, "http://x/"'
    expected = 'at https://host/v1?api-version=…&key=…#model and http://other/v1?token=… "http://x/"'
    assert hide_credentials(text) == expected


def test_a_rejected_url_is_not_shown():
    with pytest.raises(ConfigError) as caught:
        load_config(EvaluateConfig, None, ["judge.kind=htp://u:secret@h/v1"], variant="demo")
    assert "secret" not in str(caught.value)


def test_thinking_tags_are_two_different_ones():
    given = load_config(EvaluateConfig, None, ['generation.thinking_tags=["[A]", "[/A]"]'], variant="demo")
    assert given.generation.thinking_tags == ("[A]", "[/A]")
    for tags in ('["[A]"]', '["[A]", "[A]"]', '["[A]", ""]'):
        with pytest.raises(ConfigError, match="thinking_tags"):
            load_config(EvaluateConfig, None, [f"generation.thinking_tags={tags}"], variant="demo")
