"""What models write, held against golds: results of mathematics and programs.

``tests/cases/math.jsonl`` and ``code.jsonl`` are made after public reports; those named ``_own`` are further
cases of each kind.
"""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from safe_r1.benchmarks.code_blocks import read_blocks
from safe_r1.benchmarks.code_check import CodeTest, check_code, extract_code, pack_tests
from safe_r1.benchmarks.math_answers import is_equal
from safe_r1.benchmarks.math_spelling import plain_words, spell, unit_of, words_of
from safe_r1.benchmarks.math_text import find_result
from safe_r1.errors import SandboxError
from safe_r1.sandbox.container import Limits, check_sandbox
from safe_r1.schema import Sample

CASES = Path(__file__).parents[2] / "cases"
LIMITS = Limits(wall_s=8.0, cpu_s=4)


def cases(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (CASES / f"{name}.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("case", cases("math") + cases("math_own"), ids=lambda case: case["why"])
def test_a_result(case: dict[str, Any]) -> None:
    assert is_equal(case["key"], case["input"]).is_correct is case["gold"]


def sample_of(case: dict[str, Any]) -> Sample:
    """The problem of a case: the sum of two numbers, the last items of a list, or a function."""
    function = case.get("function") or next(
        (name for name in ("lastK", "f") if f"def {name}(" in case["input"]), ""
    )
    if "class Solution" not in case["input"] and not case.get("function"):
        function = ""
    tests = {
        "": [CodeTest("3 4\n", "7\n", "stdin"), CodeTest("10 -2\n", "8\n", "stdin")],
        "lastK": [CodeTest("[1, 2, 3]\n2", "[2, 3]", "functional")],
        "f": [CodeTest("1", "null" if "None" in case["input"] else "0.5", "functional")],
    }
    metadata = {"tests": pack_tests(tests[function])} | ({"func_name": function} if function else {})
    return Sample("own/code/1", "own", "code", "easy", "own", [], metadata=metadata)


@pytest.mark.slow
@pytest.mark.parametrize("case", cases("code") + cases("code_own"), ids=lambda case: case["why"])
def test_a_program(case: dict[str, Any]) -> None:
    try:
        check_sandbox()
    except SandboxError as error:
        pytest.skip(str(error))
    assert check_code(sample_of(case), case["input"], LIMITS).is_correct is case["gold"]


@pytest.mark.parametrize("case", cases("code_own"), ids=lambda case: case["why"])
def test_a_program_that_is_right_is_found(case: dict[str, Any]) -> None:
    if case["gold"]:
        assert extract_code(case["input"], case["function"] or None)


CODE_UNITS = (
    *("`", "```", "``` ", "```\n", "~~~\n", "```a```", "'''", "'", '"', "#", "# ```\n", " ", "\u200b", "> "),
    *("```python\n'''\n```\n", "```python\n\\'''\n```\n", '```python\n"""\n```\n', "```python\nx\n"),
)


@pytest.mark.slow
@pytest.mark.parametrize("unit", CODE_UNITS)
@pytest.mark.parametrize("start", ["", "```python\n", "```text\n"])
def test_long_answers_with_fences_are_read_in_linear_time(start: str, unit: str) -> None:
    began = time.process_time()
    list(read_blocks(start + unit * (200_000 // len(unit))))
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "code", ["(" * 100_000, "-" * 100_000 + "1", "x" + ".a" * 50_000, "f(" * 150 + ")" * 150]
)
def test_code_that_no_parser_reads_is_still_code(code: str) -> None:
    assert extract_code(f"```python\n{code}\n```") == f"{code}\n"


MATH_UNITS = (
    *(
        "\\boxed{",
        "boxed ",
        "{",
        "}",
        "\\boxed{1} and ",
        "answer is ",
        "答案是",
        " ",
        "1,",
        "$",
        "**",
        "\\",
        "-",
    ),
    *(
        "\\text{",
        "\\text{a}",
        "中",
        "\\,",
        "~",
        "\\frac",
        "1\\frac{1}{2}",
        "or ",
        "或",
        "1e",
        "√",
        "cm ",
        "²",
        "(",
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("unit", MATH_UNITS)
def test_long_results_are_read_in_linear_time(unit: str) -> None:
    text = unit * (20_000 // len(unit))
    began = time.process_time()
    for each in (text, "5" + text, f"\\boxed{{{text}}}", f"The answer is {text}"):
        find_result(each)
        for read in (spell, unit_of, words_of, plain_words):
            read(each)
    assert time.process_time() - began < 10  # a quadratic pattern takes minutes
