"""Readers of users' files, fuzzed: whatever is in a file, it is read or refused in one line, and soon.

Files begin as whole ones, or as ones that are damaged in a way that was met, and are then damaged further.
The tries are the same in every run; ``SAFE_R1_FUZZ_SEED=N`` gives others.
"""

import csv
import io
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from safe_r1.benchmarks import check_questions, evaluate_schema, own_questions
from safe_r1.benchmarks.answer_key import load_key
from safe_r1.calibration.label_files import read_labels
from safe_r1.config import EvaluateConfig
from safe_r1.corpus.own import own_recipe
from safe_r1.corpus.recipe import load_recipe
from safe_r1.corpus.rows import normalise
from safe_r1.errors import SafeR1Error, reading
from safe_r1.evaluation.publish import rewrite_report
from safe_r1.evaluation.repair import repair
from safe_r1.judge.policy import load_policy
from safe_r1.models.endpoints import find_endpoint
from safe_r1.models.registry import read_folder
from safe_r1.records.sources import list_parts, read_part
from safe_r1.serve.keys import read_keys
from safe_r1.settings import load_config
from tests.unit.compare.runs import refusal_samples, write_run

FUZZ_SEED = int(os.environ.get("SAFE_R1_FUZZ_SEED", "0"))
NUM_TRIES = 200
NUM_LONG_TRIES = 10_000
# Of the processor: a busy machine makes any try late.
CPU_LIMIT_S = 20

QUESTIONS = [
    {"question": f"第 {number} 个问题？", "A": "是", "B": "否", "answer": "A", "category": "甲"}
    for number in range(4)
]
TALKS = [
    {
        "messages": [
            {"role": "user", "content": f"问题 {number}"},
            {"role": "assistant", "content": f"<think>想</think>回答 {number}，这是一段话。"},
        ]
    }
    for number in range(4)
]
LABELS = [
    {"item": "a" * 16, "label": "直接拒绝", "labeller": "x"},
    {"item": "b" * 16, "label": "", "labeller": "x"},
]
SETTINGS = "limit = 3\nrun = 'a'\n[generation]\ntemperature = 0.5\n[judge]\nkind = 'lexicon'\n"
YAML = "limit: 3\nrun: a\ngeneration: {temperature: 0.5}\njudge: &j {kind: lexicon}\n"
RECIPE = """name = "own"
description = "x"
licences = ["own"]
[[sources]]
name = "a"
path = "a.jsonl"
kind = "general"
licence = "own"
"""
POLICY = """name = "mine"
user = "问题：{{ dialogue }} 回答：{{ text }}"
[[labels]]
text = "拒绝"
counts_as = "refusal"
[[labels]]
text = "有害"
counts_as = "harmful"
"""
KEYS = (
    "[team-a]\nkey = 'abcdefghijklmnopqrst'\nrequests_per_minute = 3\n[team-b]\nsha256 = '" + "a" * 64 + "'\n"
)
ENDPOINT = "url = 'http://127.0.0.1:1/v1'\nmodel = 'm'\n[headers]\nX-A = 'b'\n"
ANSWERS = [
    {"id": number, "answer": "A", "question_sha256": "a" * 64, "confidence": "high", "note": "x"}
    for number in range(3)
]
CONFIG = {
    "model_type": "qwen2",
    "num_attention_heads": 4,
    "hidden_size": 64,
    "architectures": ["Qwen2ForCausalLM"],
}


def lines(rows: Sequence[Mapping[str, object]]) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def table(rows: Sequence[Mapping[str, object]], delimiter: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def workbook(rows: Sequence[Mapping[str, object]]) -> bytes:
    book = openpyxl.Workbook()
    sheet = book.worksheets[0]
    sheet.append(list(rows[0]))
    for row in rows:
        sheet.append([str(value) for value in row.values()])
    content = io.BytesIO()
    book.save(content)
    return content.getvalue()


def parquet(rows: Sequence[Mapping[str, object]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), sink)
    return sink.getvalue().to_pybytes()


def read_questions(file: Path) -> None:
    check_questions(own_questions(str(file), load_config(evaluate_schema(), None, [], variant="demo")))


def read_talks(file: Path) -> None:
    recipe = own_recipe(str(file))
    [source] = recipe.sources
    for part in list_parts(source, None, size=100):
        for record in islice(read_part(source, part), 100):
            normalise(record, source)


def read_model(file: Path) -> None:
    # An export, whose tokenizer is not read here.
    (file.parent / "safe_r1.json").write_text('{"base": "r1-distill-qwen-1.5b"}')
    read_folder(file.parent)


@cache
def whole_run() -> Path:
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    run = write_run(root, "m", "asked", samples=refusal_samples(4), skill=0.6)
    rewrite_report(str(run))
    return run


def read_run(name: str) -> Callable[[Path], None]:
    """A file of a finished run that takes the place of the whole one; report, repair, report."""

    def read(file: Path) -> None:
        run = file.parent / "asked"
        shutil.copytree(whole_run(), run)
        [target] = run.glob(name)
        target.write_bytes(file.read_bytes())
        try:
            with reading(run):
                rewrite_report(str(run))
        finally:
            repair(str(run))

    return read


def of_run(name: str) -> Callable[[], bytes]:
    return lambda: next(iter(whole_run().glob(name))).read_bytes()


@dataclass(frozen=True)
class Reader:
    """What reads a file, and a whole one."""

    name: str
    content: Callable[[], bytes]
    read: Callable[[Path], object]


def settings_reader(file: Path) -> object:
    return load_config(EvaluateConfig, str(file), [], variant="demo")


READERS = {
    "settings in TOML": Reader("a.toml", SETTINGS.encode, settings_reader),
    "settings in YAML": Reader("a.yaml", YAML.encode, settings_reader),
    "recipe": Reader("a.toml", RECIPE.encode, lambda file: load_recipe(str(file), [])),
    "policy card": Reader("a.toml", POLICY.encode, lambda file: load_policy(str(file))),
    "endpoint": Reader("a.toml", ENDPOINT.encode, lambda file: find_endpoint(str(file))),
    "key file": Reader("a.toml", KEYS.encode, lambda file: read_keys(str(file))),
    "answer key": Reader("a.jsonl", lambda: lines(ANSWERS), lambda file: load_key(str(file))),
    "questions in CSV": Reader("a.csv", lambda: table(QUESTIONS), read_questions),
    "questions in TSV": Reader("a.tsv", lambda: table(QUESTIONS, "\t"), read_questions),
    "questions in JSONL": Reader("a.jsonl", lambda: lines(QUESTIONS), read_questions),
    "questions in JSON": Reader("a.json", lambda: json.dumps(QUESTIONS).encode(), read_questions),
    "questions in XLSX": Reader("a.xlsx", lambda: workbook(QUESTIONS), read_questions),
    "questions in Parquet": Reader("a.parquet", lambda: parquet(QUESTIONS), read_questions),
    "talks in JSONL": Reader("a.jsonl", lambda: lines(TALKS), read_talks),
    "talks in JSON": Reader("a.json", lambda: json.dumps(TALKS).encode(), read_talks),
    "talks in Parquet": Reader("a.parquet", lambda: parquet(TALKS), read_talks),
    "labels in CSV": Reader("a.csv", lambda: table(LABELS), lambda file: read_labels(str(file))),
    "labels in JSONL": Reader("a.jsonl", lambda: lines(LABELS), lambda file: read_labels(str(file))),
    "config of a model": Reader("config.json", lambda: json.dumps(CONFIG).encode(), read_model),
    "run.json": Reader("file", of_run("run.json"), read_run("run.json")),
    "metrics.json": Reader("file", of_run("metrics.json"), read_run("metrics.json")),
    "samples": Reader("file", of_run("samples/*"), read_run("samples/*.parquet")),
    "completions": Reader("file", of_run("completions/*"), read_run("completions/*.parquet")),
    "verdicts": Reader("file", of_run("verdicts/*"), read_run("verdicts/*.parquet")),
}
DAMAGED = [
    b"",
    b"\x00" * 64,
    b"\xff\xfe\x00",
    b"\xef\xbb\xbf",
    b"null",
    b"[]",
    b"{}",
    b"[[1], 2]",
    b"[" * 100_000,
    b'{"a":' * 5_000,
    b"a = " + b"[" * 5_000,
    b"9" * 10_000,
    b"a = " + b"9" * 5_000,
    b"1e999",
    b"NaN",
    b"a = 2026-99-99",
    b"a: &a [*a]",
    b'"\\ud800"',
    b"PAR1PAR1",
    b"PK\x03\x04",
    b"PK\x05\x06" + bytes(18),
    b"\x1f\x8b\x08",
    "中文".encode("gb18030"),
    "中文".encode("utf-16"),
    b'a,b\n"' + b"x" * 200_000,
    b"\r" * 1_000,
]
TOKENS = [
    *DAMAGED[:10],
    b"9" * 5_000,
    b"-1",
    b"1e999",
    b"true",
    b'"',
    b"'",
    b"\n",
    b"\x00",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"\xe2\x80\xae",
    b",",
    b"{{ 1 }}",
    b"{% for a in b %}",
    b"*a",
    b"=1+1",
    b"http://[::1",
    b"s4://a",
    b"../../x",
    b"0x",
]


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A whole file or one of the corpus, changed at up to four places."""
    content = bytearray(draw(st.sampled_from([whole] * 3 + [draw(st.sampled_from(DAMAGED))])))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(content)))
        length = draw(st.integers(1, 64))
        kind = draw(
            st.sampled_from(["cut", "zero", "flip", "insert", "replace", "remove", "repeat", "random"])
        )
        if kind == "cut":
            del content[place:]
        elif kind == "zero":
            content[place : place + length] = bytes(len(content[place : place + length]))
        elif kind == "flip":
            for number in range(place, min(place + 1, len(content))):
                content[number] ^= draw(st.integers(1, 255))
        elif kind == "insert":
            content[place:place] = draw(st.sampled_from(TOKENS))
        elif kind == "replace":
            content[place : place + length] = draw(st.sampled_from(TOKENS))
        elif kind == "remove":
            del content[place : place + length]
        elif kind == "repeat":
            content[place:place] = content[place : place + length] * draw(st.sampled_from([1, 2, 100]))
        else:
            content[place:place] = draw(st.binary(max_size=16))
    return bytes(content)


class HangError(BaseException):
    """Nothing catches it by accident."""


@contextmanager
def limited() -> Iterator[None]:
    """Ends what takes too long, by the time of the processor."""

    def end(*_: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def fuzz(reader: Reader, num_tries: int) -> None:
    whole = reader.content()

    @seed(FUZZ_SEED)
    @settings(
        max_examples=num_tries,
        deadline=None,
        database=None,
        derandomize=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    @given(content=damaged(whole))
    def attempt(content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / reader.name
            file.write_bytes(content)
            try:
                with limited():
                    reader.read(file)
            except SafeR1Error as error:
                check_told(error)

    attempt()


def check_told(error: SafeR1Error) -> None:
    assert error.exit_code in (2, 3)
    assert error.shown
    assert "\n" not in error.shown
    assert "Traceback" not in error.shown


@pytest.mark.parametrize("name", READERS)
def test_a_whole_file_is_read(name: str, tmp_path: Path):
    """Without this, a reader that refuses everything would hold."""
    reader = READERS[name]
    (tmp_path / reader.name).write_bytes(reader.content())
    reader.read(tmp_path / reader.name)


@pytest.mark.parametrize("name", READERS)
def test_whatever_is_in_a_file_is_read_or_refused(name: str):
    fuzz(READERS[name], -(-NUM_TRIES // len(READERS)))


@pytest.mark.very_long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", READERS)
def test_ten_thousand_tries(name: str):
    fuzz(READERS[name], -(-NUM_LONG_TRIES // len(READERS)))
