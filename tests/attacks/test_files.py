"""Settings files, and files of model folders, that are damaged or made to harm: one line, and no waiting."""

import json
import os
from pathlib import Path

import pytest

from safe_r1.config import EvaluateConfig
from safe_r1.errors import ConfigError, SafeR1Error, StorageError
from safe_r1.models.files import make_cache
from safe_r1.models.registry import read_folder
from safe_r1.models.template_check import check_templates
from safe_r1.settings import load_config

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
SETTINGS = {
    "laughs.yaml": LAUGHS.encode(),
    "cycle.yaml": b"judge: &a {engine: *a}",
    "deep.yaml": b"[" * 20_000,
    "deep.toml": b"a = " + b"[" * 20_000,
    "number.toml": b"limit = " + b"9" * 10_000,
    "number.yaml": b"limit: " + b"9" * 10_000,
    "date.yaml": b"run: 2026-99-99",
    "list.yaml": b"[1, 2]",
    "empty.yaml": b"",
    "keys.yaml": b"{1: 2, [3]: 4}",
    "tag.yaml": b"!!python/object/apply:os.system [ls]",
    "bytes.yaml": b"\xff\xfe\x00",
    "nul.yaml": b"run: a\x00b",
}
CONFIGS = [
    b"",
    b"[]",
    b"{",
    b"[" * 100_000,
    b"\xff",
    b"9" * 10_000,
    b'{"model_type": ["x"], "num_attention_heads": 1e999}',
]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_hostile_settings_file_is_one_line(name: str, tmp_path: Path):
    (tmp_path / name).write_bytes(SETTINGS[name])
    with pytest.raises(ConfigError) as caught:
        load_config(EvaluateConfig, str(tmp_path / name), [], variant="demo")
    assert "\n" not in caught.value.shown
    assert caught.value.exit_code == 2


def test_aliases_that_stay_small_are_read(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("engine: &e {dtype: float32}\njudge: {engine: *e}\n")
    config = load_config(EvaluateConfig, str(tmp_path / "a.yaml"), [], variant="demo")
    assert config.judge.engine.dtype == config.engine.dtype == "float32"


@pytest.mark.parametrize("name", ["settings.yaml", "settings.toml"])
def test_a_pipe_is_not_waited_for(name: str, tmp_path: Path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ConfigError, match="no regular file"):
        load_config(EvaluateConfig, str(tmp_path / name), [], variant="demo")


@pytest.mark.parametrize("content", CONFIGS, ids=range(len(CONFIGS)))
def test_a_hostile_config_of_a_model_is_one_line(content: bytes, tmp_path: Path):
    (tmp_path / "config.json").write_bytes(content)
    # An export, whose tokenizer is not read here.
    (tmp_path / "safe_r1.json").write_text(json.dumps({"base": "r1-distill-qwen-1.5b"}))
    if content.startswith(b'{"'):
        assert read_folder(tmp_path).num_gpus >= 1
        return
    with pytest.raises(SafeR1Error) as caught:
        read_folder(tmp_path)
    assert "\n" not in caught.value.shown


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja"])
def test_a_pipe_in_a_model_folder_is_not_waited_for(name: str, tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(SafeR1Error, match="neither a file nor a folder"):
        read_folder(tmp_path)


def test_a_cache_that_is_a_file_is_named(tmp_path: Path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(StorageError, match="SAFE_R1_CACHE"):
        make_cache(tmp_path / "cache" / "models")


@pytest.mark.slow
@pytest.mark.parametrize(
    "template",
    ["{{ 'a' * 4000000000 }}", "{{ 'a' * 4000000 }}", [{"name": 5}], {"default": 5}],
    ids=["memory", "length", "list", "type"],
)
def test_a_hostile_template_is_refused_before_it_is_rendered_here(template: object):
    with pytest.raises(SafeR1Error, match="chat template"):
        check_templates(template, "model")
