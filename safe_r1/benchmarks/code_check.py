"""Scores a program in an answer by tests: extracts it, runs it in a sandbox and compares its outputs outside.

A program never gets an expected output: inputs go in, outputs come back, and whatever comes back is only an
answer. Outputs are compared as LiveCodeBench compares them, and a program has the same modules imported.

Source: arXiv 2403.07974; github LiveCodeBench/LiveCodeBench, ``lcb_runner/evaluation/testing_util.py``.
"""

import base64
import binascii
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Literal

from safe_r1.benchmarks.base import Score
from safe_r1.benchmarks.code_extraction import extract_code
from safe_r1.errors import DataError
from safe_r1.sandbox.container import Limits, Outcome, run_calls, run_program
from safe_r1.schema import Sample

TestType = Literal["stdin", "functional"]

_MOST_TEST_BYTES = 1 << 30
_MOST_SHARED_TESTS = 10

_PRELUDE = """\
import sys
_names = ("string re datetime collections heapq bisect copy math random statistics itertools functools"
          " operator io sys json builtins typing").split()
for _form in ("from {} import *", "import {}"):
    for _name in _names:
        exec(_form.format(_name))
sys.setrecursionlimit(50000)
"""
# Compiled apart from the prelude: a traceback has the answer's own line numbers, and `from __future__` has to
# be its first statement.
_RUN_ANSWER = "exec(compile(%r, 'answer.py', 'exec', dont_inherit=True), globals())\n"

# Calls and results have their own descriptors, so that an answer may read and print. The name is not
# `__main__`, or examples in the answer would run and use up the time of its tests.
_TAKE_CALLS = """\
import os as _os
_results = _os.fdopen(_os.dup(1), "w")
_calls = _os.fdopen(_os.dup(0))
_os.dup2(_os.open("/dev/null", _os.O_RDWR), 1)
_os.dup2(1, 0)
__name__ = "answer"
"""
_CALL_FUNCTION = """\
def _call_all(name):
    import json
    names = globals()
    owner = names.get("Solution")
    is_method = owner is not None and (hasattr(owner, name) or name not in names)
    function = getattr(owner(), name) if is_method else names[name]
    print(file=_results, flush=True)
    for call in _calls:
        value = function(*[json.loads(line) for line in json.loads(call).split("\\n")])
        # numpy's numbers have an item(); anything else that is no JSON is no result.
        print(json.dumps(value, default=lambda number: number.item()), file=_results, flush=True)
_call_all(%r)
"""


@dataclass(frozen=True)
class CodeTest:
    """One test of a problem.

    Attributes:
        input: Standard input, or one JSON value a line: the function's arguments.
        output: The expected standard output, or the expected result as JSON.
        testtype: ``stdin`` or ``functional``.
    """

    input: str
    output: str
    testtype: TestType


def pack_tests(tests: list[CodeTest]) -> str:
    """The tests as a short text for ``Sample.metadata``: base64 of zlib of JSON."""
    content = json.dumps([vars(test) for test in tests], ensure_ascii=False)
    return base64.b64encode(zlib.compress(content.encode("utf-8", "surrogatepass"))).decode()


def unpack_tests(packed: str, where: str) -> list[CodeTest]:
    """Inverse of ``pack_tests``; ``where`` names the sample in errors.

    Raises:
        DataError: It is damaged.
    """
    try:
        return parse_tests(json.loads(inflate(packed, where).decode("utf-8", "surrogatepass")), where)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: its tests are damaged, no valid JSON; load the benchmark again") from error


def inflate(packed: str, where: str) -> bytes:
    """The bytes behind base64 and zlib, up to 1 GiB.

    Raises:
        DataError: The text is damaged, or more comes out.
    """
    try:
        stream = zlib.decompressobj()
        # Bounded: a few kilobytes of hostile data can decompress to more than the machine's memory.
        content = stream.decompress(base64.b64decode(packed, validate=True), _MOST_TEST_BYTES)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise DataError(f"{where}: its tests are damaged ({error}); fetch the file again") from error
    # zlib gives what it has without an error where the end is missing.
    if not stream.eof:
        raise DataError(f"{where}: its tests are cut short or larger than 1 GiB; fetch the file again")
    return content


def parse_tests(items: object, where: str) -> list[CodeTest]:
    """The tests of a parsed JSON list.

    Raises:
        DataError: An entry is no test; the message says which.
    """
    if not isinstance(items, list):
        raise DataError(f"{where}: expected a list of tests, got {type(items).__name__}")
    tests = []
    for number, item in enumerate(items, start=1):
        match item:
            case {"input": str(given), "output": str(output), "testtype": "stdin" | "functional" as testtype}:
                tests.append(CodeTest(given, output, testtype))
            case _:
                raise DataError(
                    f"{where}, test {number}: expected the texts input, output and testtype (stdin or "
                    "functional)"
                )
    return tests


def check_code(sample: Sample, answer: str, limits: Limits | None = None) -> Score:
    """Run the program of an answer against every test of the problem, up to the first that it does not pass.

    Args:
        sample: With ``tests`` and, for functional ones, ``func_name`` in its metadata.
        answer: The model's answer, without its reasoning.
        limits: Of one test; None for the defaults.

    Raises:
        SandboxError: This machine has no sandbox for programs.
        DataError: The sample's tests are missing or damaged.
    """
    limits = limits or Limits()
    if "tests" not in sample.metadata:
        raise DataError(f"{sample.sample_id}: holds no tests; load the benchmark again")
    tests = unpack_tests(sample.metadata["tests"], sample.sample_id)
    name = sample.metadata.get("func_name")
    code = extract_code(answer, name)
    if code is None:
        return Score(False, None, "no code")
    found = f"{len(code.splitlines())} lines of code"
    failures = (
        _failures_of_calls(code, name, tests, limits) if name else _failures_of_stdin(code, tests, limits)
    )
    failure = next(failures, None)
    return Score(
        failure is None, found, f"{failure[1]} on test {failure[0]} of {len(tests)}" if failure else ""
    )


def _failures_of_stdin(code: str, tests: list[CodeTest], limits: Limits) -> Iterator[tuple[int, str]]:
    """Number, from 1, and reason of each failed test; starts the program once for each test."""
    program = _PRELUDE + _RUN_ANSWER % code
    for number, test in enumerate(tests, start=1):
        outcome = run_program(program, test.input, limits)
        if outcome.status != "ok":
            yield number, _describe(outcome)
        elif not is_same_output(outcome.stdout, test.output):
            yield number, "wrong answer"


def _failures_of_calls(
    code: str, name: str, tests: list[CodeTest], limits: Limits
) -> Iterator[tuple[int, str]]:
    """The same for functional tests, in one process: each has the time of one test, all that of a few."""
    program = _PRELUDE + _TAKE_CALLS + _RUN_ANSWER % code + _CALL_FUNCTION % name
    together = min(len(tests), _MOST_SHARED_TESTS)
    # The process starts once, so that a start does not take longer than the tests.
    shared = replace(limits, wall_s=limits.wall_s * together, cpu_s=limits.cpu_s * together)
    outcome = run_calls(program, [test.input for test in tests], shared, limits)
    # The first line says that the answer is loaded. A last line without its end was cut off by a limit, and
    # may be a prefix of the right result.
    results = outcome.stdout.split("\n")[1:-1]
    for number, test in enumerate(tests, start=1):
        if number > len(results):
            yield number, _describe(outcome) if outcome.status != "ok" else "no result"
        elif not is_same_result(results[number - 1], test.output):
            yield number, "wrong answer"


def is_same_output(output: str, expected: str) -> bool:
    """Whether two outputs agree line by line, without outer spaces; lines of numbers agree by value."""
    lines = output.strip().split("\n")
    expected_lines = expected.strip().split("\n")
    if len(lines) != len(expected_lines):
        return False
    return all(_is_same_line(*pair) for pair in zip(lines, expected_lines, strict=True))


def _is_same_line(line: str, expected: str) -> bool:
    if line.strip() == expected.strip():
        return True
    # Exact decimals, as in LiveCodeBench: as floats, different large integers would be equal.
    try:
        return [Decimal(word) for word in line.split()] == [Decimal(word) for word in expected.split()]
    except (InvalidOperation, ValueError):
        return False


def is_same_result(result: str, expected: str) -> bool:
    """Whether two JSON texts have equal Python values."""
    try:
        return json.loads(result) == json.loads(expected)
    except (ValueError, RecursionError):
        return False


def _describe(outcome: Outcome) -> str:
    """The outcome in short; for a crash, the name of the error in the last line of stderr."""
    named = {"timeout": "timeout", "memory": "out of memory", "output": "too much output"}
    if outcome.status in named:
        return named[outcome.status]
    last = (outcome.stderr_tail.strip().splitlines() or [""])[-1]
    # The name alone: the message was written by the program, which may print anything into a report.
    error = re.match(r"[A-Za-z_][\w.]{0,60}", last)
    return f"crash ({error[0]})" if error else "crash"
