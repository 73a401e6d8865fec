"""Settings files, and files of model folders, that are damaged or made to harm: one line, and no waiting."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from safe_r1.benchmarks import own_questions
from safe_r1.benchmarks.answer_key import load_key
from safe_r1.calibration.label_files import read_labels
from safe_r1.cli import app
from safe_r1.config import EvaluateConfig
from safe_r1.corpus.recipe import load_recipe
from safe_r1.errors import ConfigError, SafeR1Error, StorageError
from safe_r1.models.endpoints import find_endpoint
from safe_r1.models.files import make_cache
from safe_r1.models.registry import read_folder
from safe_r1.models.template_check import check_templates
from safe_r1.runs import RunFolder
from safe_r1.settings import load_config

ROOT = Path(__file__).parents[2]
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


RUN_COMMANDS = [
    ("report", "{}"),
    ("export", "{}"),
    ("repair", "{}"),
    ("status", "{}"),
    ("label-sample", "{}", "--n", "4"),
    ("calibrate", "{}", "--labels", "x.csv"),
    ("compare", "{}", "{}", "--baseline", "a", "--output", "{}"),
    ("gate", "{}", "--min", "rr-1=1"),
]
PLACES = ["s4://bucket/x", "no-such-scheme://x", "://", "/dev/null", "/dev/null/x", "a\0b", "x" * 5000]


@pytest.mark.parametrize("place", PLACES, ids=range(len(PLACES)))
@pytest.mark.parametrize("command", RUN_COMMANDS, ids=lambda command: command[0])
def test_a_place_that_cannot_hold_a_run_is_one_line(command: tuple[str, ...], place: str):
    result = CliRunner().invoke(app, [each.format(place) for each in command])
    assert isinstance(result.exception, SafeR1Error), (result.output, result.exception)
    assert "\n" not in result.exception.shown
    assert result.exception.exit_code == 2


@pytest.mark.parametrize("place", PLACES[:5], ids=range(5))
def test_a_place_that_cannot_hold_data_is_one_line(place: str, tmp_path: Path):
    config = load_config(EvaluateConfig, None, [], variant="demo")
    for read in (
        lambda: own_questions(place, config).load(),
        lambda: load_key(place),
        lambda: read_labels(place),
        lambda: load_recipe(f"{place}.toml", []),
        lambda: RunFolder.locate(place, "main", "v", "b").write_text("a", "b"),
    ):
        with pytest.raises(SafeR1Error) as caught:
            read()
        assert "\n" not in caught.value.shown
        assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.xlsx", "a.parquet", "a.jsonl.gz"])
def test_a_pipe_in_the_place_of_data_is_not_waited_for(name: str, tmp_path: Path):
    os.mkfifo(tmp_path / name)
    file = str(tmp_path / name)
    config = load_config(EvaluateConfig, None, [], variant="demo")
    for read in (
        lambda: own_questions(file, config).load(),
        lambda: load_key(file),
        lambda: read_labels(file),
    ):
        with pytest.raises(SafeR1Error):
            read()


ENDPOINTS = [b"", b"\xff", b"a = " + b"[" * 5_000, b"a = " + b"9" * 5_000, b"url = [1]\nmodel = {}", b"url"]


@pytest.mark.parametrize("content", ENDPOINTS, ids=range(len(ENDPOINTS)))
def test_a_hostile_endpoint_file_is_one_line(content: bytes, tmp_path: Path):
    (tmp_path / "a.toml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        find_endpoint(str(tmp_path / "a.toml"))
    assert "\n" not in caught.value.shown


def test_a_pipe_in_the_place_of_an_endpoint_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "a.toml")
    with pytest.raises(ConfigError, match="no regular file"):
        find_endpoint(str(tmp_path / "a.toml"))


@pytest.mark.slow
def test_chinese_paths_and_texts_where_the_locale_knows_ascii_alone(tmp_path: Path):
    questions = tmp_path / "问题.csv"
    questions.write_text("question,A,B,answer\n天空是什么颜色？,蓝,绿,A\n", "utf-8")
    environment = {**os.environ, "LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""}
    command = [sys.executable, "-m", "safe_r1.cli", "benchmark", "check", str(questions)]
    done = subprocess.run(command, env=environment, capture_output=True, cwd=ROOT, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "天空是什么颜色" in done.stdout.decode("utf-8")
    command = [sys.executable, "-m", "safe_r1.cli", "report", str(tmp_path / "没有")]
    done = subprocess.run(command, env=environment, capture_output=True, cwd=ROOT, check=False, timeout=120)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert "没有" in done.stderr.decode("utf-8")


@pytest.mark.slow
def test_a_cache_that_is_a_file_is_one_line_of_a_job(tmp_path: Path):
    (tmp_path / "cache").write_text("")
    environment = {**os.environ, "SAFE_R1_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "ray_jobs.evaluate", "--variant", "demo", "--dry-run"]
    done = subprocess.run(command, env=environment, capture_output=True, cwd=ROOT, check=False, timeout=120)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"SAFE_R1_CACHE" in done.stderr
