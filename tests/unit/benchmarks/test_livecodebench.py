"""LiveCodeBench's form: loading, reading code out of answers, and scoring it; every program really runs,
contained.
"""

import base64
import json
import os
import pickle
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from safe_r1.benchmarks.code_check import CodeTest, is_same_output, is_same_result, pack_tests, unpack_tests
from safe_r1.benchmarks.livecodebench import (
    LIVECODEBENCH,
    LIVECODEBENCH_SAMPLE,
    LiveCodeBench,
    check_code,
    extract_code,
)
from safe_r1.errors import ConfigError, DataError, SandboxError
from safe_r1.sandbox.container import Limits, check_sandbox
from safe_r1.schema import Sample
from tests.attacks import programs as attacks

pytestmark = pytest.mark.slow

SOLUTIONS = json.loads(Path(__file__).with_name("livecodebench_solutions.json").read_text("utf-8"))
SMALL = Limits(wall_s=2.0, cpu_s=1, memory_mib=256, output_kib=64, file_mib=4)


@pytest.fixture(scope="module")
def samples() -> dict[str, Sample]:
    return {sample.metadata["source_id"]: sample for sample in LIVECODEBENCH_SAMPLE.load()}


@pytest.fixture
def contained() -> None:
    try:
        check_sandbox()
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture
def own(tmp_path: Path) -> Callable[..., LiveCodeBench]:
    """A benchmark over one file, ``test.jsonl``, whose rows are the shipped first problem with some fields
    changed.
    """
    shipped = LIVECODEBENCH_SAMPLE.data_path
    assert shipped is not None
    first = json.loads((shipped / "test.jsonl").read_text("utf-8").splitlines()[0])

    def make(*changes: dict[str, Any], **settings: Any) -> LiveCodeBench:
        rows = [
            {name: value for name, value in {**first, **change}.items() if value is not None}
            for change in changes
        ]
        (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n\n" for row in rows), "utf-8")
        return LiveCodeBench(
            **{"name": "own", "title": "Own", "version": "release_v1", "data_path": tmp_path, **settings}
        )

    return make


def fenced(code: str) -> str:
    return f"Here it is.\n\n```python\n{code.strip()}\n```\n"


def one_test(code_tests: list[CodeTest], function: str = "") -> Sample:
    metadata = {"tests": pack_tests(code_tests)} | ({"func_name": function} if function else {})
    return Sample("own/code/1", "own", "code", "easy", "own", [], metadata=metadata)


def test_the_sample_set_is_eight_problems_in_a_stable_order(samples: dict[str, Sample]) -> None:
    again = LIVECODEBENCH_SAMPLE.load()
    assert again == list(samples.values())
    assert [sample.sample_id for sample in again] == [
        f"livecodebench-sample/code/own_{letter}" for letter in "abcdefgh"
    ]
    assert {sample.task for sample in again} == {"code"}
    assert [sample.area for sample in again] == [
        "easy",
        "medium",
        "medium",
        "hard",
        "easy",
        "medium",
        "medium",
        "hard",
    ]
    assert all(sample.category == f"{sample.area}/own" for sample in again)
    assert [sample.metadata.get("func_name") for sample in again[3:6]] == [
        None,
        "longestCalmRun",
        "mergeShifts",
    ]
    assert all(6 <= len(unpack_tests(sample.metadata["tests"], "here")) <= 10 for sample in again)
    assert all(Sample.from_row(sample.to_row()) == sample for sample in again)


def test_prompts_ask_for_one_block(samples: dict[str, Sample]) -> None:
    (by_stdin,), (by_function,) = samples["own_a"].messages, samples["own_e"].messages
    assert "A freezer" in by_stdin["content"]
    assert "standard input" in by_stdin["content"]
    assert "class Solution:" in by_function["content"]
    assert "standard input" not in by_function["content"]
    assert all("```python" in turn["content"] and turn["role"] == "user" for turn in (by_stdin, by_function))


def test_one_of_the_shipped_problems_is_in_the_pickled_form() -> None:
    assert LIVECODEBENCH_SAMPLE.data_path is not None
    rows = [
        json.loads(line)
        for line in (LIVECODEBENCH_SAMPLE.data_path / "test.jsonl").read_text("utf-8").splitlines()
    ]
    assert [row["question_id"] for row in rows if not row["private_test_cases"].startswith("[")] == ["own_c"]


def test_the_hash_depends_on_the_files_alone(tmp_path: Path) -> None:
    assert LIVECODEBENCH_SAMPLE.data_path is not None
    content = (LIVECODEBENCH_SAMPLE.data_path / "test.jsonl").read_bytes()
    (tmp_path / "test.jsonl").write_bytes(content)
    assert LIVECODEBENCH_SAMPLE.data_hash(str(tmp_path)) == LIVECODEBENCH_SAMPLE.data_hash()
    (tmp_path / "test.jsonl").write_bytes(content + b"\n")
    assert LIVECODEBENCH_SAMPLE.data_hash(str(tmp_path)) != LIVECODEBENCH_SAMPLE.data_hash()


def test_missing_data_tell_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFE_R1_DATA", str(tmp_path / "shared"))
    for data in (None, str(tmp_path)):
        with pytest.raises(
            DataError,
            match=r"no such file; run `hf download .* test\.jsonl .*test5\.jsonl --local-dir .*--data",
        ):
            LIVECODEBENCH.load(data)
    with pytest.raises(DataError, match="no such file"):
        LIVECODEBENCH.data_hash(str(tmp_path))


def test_data_lie_where_all_benchmarks_do(
    own: Callable[..., LiveCodeBench], tmp_path: Path, monkeypatch: Any
) -> None:
    own({})
    folder = tmp_path / "shared" / "own"
    folder.mkdir(parents=True)
    (tmp_path / "test.jsonl").rename(folder / "test.jsonl")
    monkeypatch.setenv("SAFE_R1_DATA", str(tmp_path / "shared"))
    assert len(LiveCodeBench(name="own", title="Own", version="release_v1").load()) == 1


def test_a_release_reads_the_files_of_those_before(own: Callable[..., LiveCodeBench], tmp_path: Path) -> None:
    first = own({})
    (tmp_path / "test2.jsonl").write_text(
        (tmp_path / "test.jsonl").read_text("utf-8").replace("own_a", "own_z"), "utf-8"
    )
    second = LiveCodeBench(name="own", title="Own", version="release_v2")
    assert [sample.metadata["source_id"] for sample in first.load()] == ["own_a"]
    assert [sample.metadata["source_id"] for sample in second.load(str(tmp_path))] == ["own_a", "own_z"]
    with pytest.raises(DataError, match=r"test3\.jsonl: no such file"):
        LiveCodeBench(name="own", title="Own", version="release_v3").load(str(tmp_path))


@pytest.mark.parametrize(
    ("start", "end", "found"),
    [
        (None, "2024-03-20", ["own_a", "own_e"]),
        ("2024-12-24", None, ["own_d", "own_g", "own_h"]),
        ("2024-06-15", "2024-08-01", ["own_b", "own_c"]),
    ],
)
def test_the_window_includes_both_its_days(start: str | None, end: str | None, found: list[str]) -> None:
    benchmark = replace(LIVECODEBENCH_SAMPLE, start=start, end=end)
    assert [sample.metadata["source_id"] for sample in benchmark.load()] == found
    assert (start or "..") in benchmark.key_identity().name


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"version": "release_v7"}, "unknown version 'release_v7'; choose one of release_v1"),
        ({"start": "2024-02-01", "end": "2024-01-01"}, "no day lies between"),
        ({"start": "last week"}, "are dates such as"),
    ],
)
def test_bad_settings_are_told_in_one_line(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        LiveCodeBench(name="own", title="Own", **settings)
    assert "\n" not in str(caught.value)


def test_an_empty_window_and_an_answer_key_are_refused(own: Callable[..., LiveCodeBench]) -> None:
    with pytest.raises(ConfigError, match="no problem of release_v1 lies between 2030"):
        own({}, start="2030-01-01").load()
    for call in (own({}).load, own({}).key_identity):
        with pytest.raises(ConfigError, match="takes no answer key"):
            call(answer_key="key.jsonl")


def packed(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content)).decode()


class Hostile:
    """Makes a folder where it is unpickled as usual."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


def test_a_hostile_pickle_runs_nothing(own: Callable[..., LiveCodeBench], tmp_path: Path) -> None:
    place = tmp_path / "made"
    benchmark = own({"private_test_cases": packed(pickle.dumps(Hostile(place)))})
    with pytest.raises(DataError, match=r"test\.jsonl, line 1, private_test_cases: .*hostile.*mkdir"):
        benchmark.load()
    assert not place.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"private_test_cases": "not base64!"}, "private_test_cases: its tests are damaged"),
        ({"private_test_cases": base64.b64encode(b"no zlib").decode()}, "its tests are damaged"),
        ({"private_test_cases": packed(b"no pickle")}, "damaged or hostile"),
        ({"private_test_cases": packed(pickle.dumps([1]))}, "holds list"),
        ({"private_test_cases": packed(pickle.dumps("no JSON"))}, "no valid JSON"),
        ({"private_test_cases": packed(pickle.dumps("[]"))[:-8]}, "private_test_cases"),
        (
            {"private_test_cases": '[{"input": "1", "output": 2, "testtype": "stdin"}]'},
            "test 1: expected the texts",
        ),
        ({"private_test_cases": '{"a": 1}'}, "private_test_cases"),
        ({"private_test_cases": "[]", "public_test_cases": "[]"}, "has no tests"),
        ({"metadata": '{"func_name": "a.b"}'}, "func_name is 'a.b'"),
        ({"metadata": '{"func_name": "f"}'}, "is no JSON"),
        (
            {"public_test_cases": '[{"input": "1", "output": "2", "testtype": "functional"}]'},
            "hold no func_name",
        ),
        ({"question_id": "../up"}, "question_id"),
        ({"contest_date": "soon"}, "contest_date 'soon'"),
        ({"question_content": None}, "'question_content' is missing"),
        ({"starter_code": 3}, "'starter_code' is int"),
    ],
)
def test_damage_is_told_with_its_place(
    own: Callable[..., LiveCodeBench], change: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        own(change).load()
    assert "test.jsonl, line 1" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_problem_that_occurs_twice_is_refused(own: Callable[..., LiveCodeBench]) -> None:
    with pytest.raises(DataError, match="line 3: own/code/own_a occurs twice"):
        own({}, {}).load()


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("```python\nprint(1)\n```", "print(1)\n"),
        ("a\n```python\nprint(1)\n```\nb\n```python\nprint(2)\n```\nc", "print(2)\n"),
        ("```python\nprint(1)\n```\nSo:\n```\n1\n```", "print(1)\n"),
        ("```\nprint(1)\n```\nSo:\n```text\n1\n```", "print(1)\n"),
        ("```Python3\r\nprint(1)\r\nprint(2)\r\n```\r\n", "print(1)\nprint(2)\n"),
        ("1. Do:\n   ```py\n   x = 1\n   ```\n", "x = 1\n"),
        ("````python\nprint('''\n```\n''')\n````", "print('''\n```\n''')\n"),
        ("```python\nprint(1)\n```\n```python\nprint(2)", "print(1)\n"),
        ("```python\n\n```\n", None),
        ("```python\nprint(1)", None),
        ("print(1)", None),
        ("`print(1)`", None),
        ("```cpp\nint main() {}\n```", None),
        ("", None),
        ("```", None),
        ("```" * 3, None),
    ],
)
def test_code_is_read_out_of_an_answer(answer: str, code: str | None) -> None:
    assert extract_code(answer) == code


def test_long_hostile_answers_are_read_quickly() -> None:
    assert extract_code("`" * 1_000_000) is None
    assert extract_code(" " * 1_000_000 + "`") is None
    assert extract_code("```\n" * 200_001) is None


@pytest.mark.parametrize(
    ("output", "expected", "is_same"),
    [
        ("1 2\n3\n", "1 2\n3", True),
        ("  1 2  \r\n3", "1 2\n3\n", True),
        ("1  2", "1 2", True),
        ("1.50 2", "1.5 2.0", True),
        ("0.30000000000000004", "0.3", False),
        ("50000000000000001", "50000000000000000", False),
        ("a  b", "a b", False),
        ("1\n\n2", "1\n2", False),
        ("YES", "Yes", False),
        ("sNaN", "1", False),
        ("NaN 1", "nan 1", False),
        ("1e999999999999999999999", "1", False),
        ("", "1", False),
        ("", "", True),
    ],
)
def test_outputs_are_compared_as_the_benchmark_does(output: str, expected: str, is_same: bool) -> None:
    assert is_same_output(output, expected) is is_same


@pytest.mark.parametrize(
    ("result", "expected", "is_same"),
    [
        ("[1, [2]]", "[1,[2]]", True),
        ("1.0", "1", True),
        ("[2, 1]", "[1, 2]", False),
        ('"1"', "1", False),
        ("NaN", "NaN", False),
        ("[" * 100_000, "[]", False),
        ("1" * 5000, "1", False),
        ("", "null", False),
    ],
)
def test_results_are_compared_as_values(result: str, expected: str, is_same: bool) -> None:
    assert is_same_result(result, expected) is is_same


@pytest.mark.usefixtures("contained")
@pytest.mark.parametrize("number", SOLUTIONS)
def test_a_solution_passes_and_a_wrong_one_does_not(samples: dict[str, Sample], number: str) -> None:
    right, wrong = SOLUTIONS[number]["right"], SOLUTIONS[number]["wrong"]
    score = check_code(samples[number], fenced(right))
    assert (score.is_correct, score.explanation) == (True, "")
    assert score.found == f"{len(right.strip().splitlines())} lines of code"
    score = check_code(samples[number], fenced(wrong))
    assert (score.is_correct, score.explanation) == (False, SOLUTIONS[number]["explanation"])


@pytest.mark.slow
@pytest.mark.usefixtures("contained")
@pytest.mark.parametrize("number", ["own_a", "own_e"])
@pytest.mark.parametrize("name", attacks.ATTACKS)
def test_an_attack_is_scored_wrong(samples: dict[str, Sample], name: str, number: str) -> None:
    score = check_code(samples[number], fenced(attacks.ATTACKS[name]), SMALL)
    assert not score.is_correct
    assert " on test 1 of " in score.explanation


@pytest.mark.slow
@pytest.mark.usefixtures("contained")
@pytest.mark.parametrize(
    ("code", "explanation"),
    [
        ("x = ", "crash (SyntaxError) on test 1 of 1"),
        ("while True: pass", "timeout on test 1 of 1"),
        ("import sys; print(4); sys.exit(3)", "crash on test 1 of 1"),
        ("print(5)", "wrong answer on test 1 of 1"),
        ("print(int(input()) * 2)", ""),
        (
            "from __future__ import annotations\n"
            "print(Counter('aabb').total() if gcd(2, 4) == 2 and math.pi else inf)",
            "",
        ),
        ("if __name__ == '__main__':\n    print(input() * 0 + '4.0')", ""),
        ("import sys\ndef f(n): return 0 if n == 0 else 1 + f(n - 1)\nprint(f(20000) - 19996)", ""),
    ],
)
def test_programs_on_standard_input(code: str, explanation: str) -> None:
    sample = one_test([CodeTest("2\n", "4\n", "stdin")])
    assert check_code(sample, fenced(code), replace(SMALL, wall_s=60)).explanation == explanation


FORGERY = """
class Always(list):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
"""


@pytest.mark.slow
@pytest.mark.usefixtures("contained")
@pytest.mark.parametrize(
    ("code", "explanation"),
    [
        (
            "class Solution:\n    def f(self, a, b):\n        print('debug')\n        return (a, [b])\n"
            "print('[1, [2]]')",
            "",
        ),
        ("def f(a, b): return numpy.array([a])[0], [b]\nimport numpy", ""),
        ("def f(a, b): return [a, [b]]\nif __name__ == '__main__': input()", ""),
        ("def g(a, b): return 1", "crash (KeyError) on test 1 of 2"),
        ("def f(a): return a", "crash (TypeError) on test 1 of 2"),
        ("def f(a, b): return {a, b}", "crash (AttributeError) on test 1 of 2"),
        ("def f(a, b): return [1, [2]]", "wrong answer on test 2 of 2"),
        ("def f(a, b):\n    while a == 3: pass\n    return [a, [b]]", "timeout on test 2 of 2"),
        ("import os\ndef f(a, b): os._exit(0)", "no result on test 1 of 2"),
        (FORGERY + "def f(a, b): return Always()", "wrong answer on test 1 of 2"),
        (
            FORGERY + "def f(a, b):\n    print('true', file=_results); return Always([1])",
            "wrong answer on test 1 of 2",
        ),
        (
            "import json\njson.dumps = lambda *a, **k: 'true'\ndef f(a, b): return 1",
            "wrong answer on test 1 of 2",
        ),
        (
            "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'1\\n' * 9)\n"
            "    except OSError: pass\ndef f(a, b): 1",
            "wrong answer on test 1 of 2",
        ),
        (
            "class Solution:\n    f = print\n    def __getattribute__(self, name): raise SystemExit",
            "no result on test 1 of 2",
        ),
    ],
)
def test_functions(code: str, explanation: str) -> None:
    tests = [CodeTest("1\n2", "[1, [2]]", "functional"), CodeTest("3\n4", "[3, [4]]", "functional")]
    assert (
        check_code(one_test(tests, "f"), fenced(code), Limits(wall_s=60, cpu_s=1)).explanation == explanation
    )


@pytest.mark.usefixtures("contained")
def test_expected_outputs_never_enter_the_sandbox() -> None:
    look = """
import gc, os, sys
found = [value for value in gc.get_objects() if isinstance(value, (str, list, dict))]
text = repr(found) + repr(vars()) + sys.stdin.read()
for folder in ("/", "/tmp"):
    for entry in os.scandir(folder):
        if entry.is_file():
            text += open(entry.path, errors="replace").read()
print("here" if "wan" + "ted-4711" in text else "absent")
"""
    sample = one_test([CodeTest("2\n", "wanted-4711", "stdin")])
    assert check_code(sample, fenced(look)).explanation == "wrong answer on test 1 of 1"
    assert check_code(one_test([CodeTest("2\n", "absent", "stdin")]), fenced(look)).is_correct


def test_no_code_needs_no_sandbox(samples: dict[str, Sample]) -> None:
    score = check_code(samples["own_a"], "I would rather not.")
    assert (score.is_correct, score.found, score.explanation) == (False, None, "no code")


def test_a_sample_without_usable_tests_is_refused() -> None:
    sample = Sample("own/code/1", "own", "code", "easy", "own", [])
    with pytest.raises(DataError, match="own/code/1: holds no tests"):
        check_code(sample, "")
    sample.metadata["tests"] = packed(b"[")
    with pytest.raises(DataError, match="own/code/1: its tests are damaged"):
        check_code(sample, "")
