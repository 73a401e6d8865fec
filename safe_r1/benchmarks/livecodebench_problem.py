"""Reads one problem of LiveCodeBench's files: its fields, and its tests, most of which are pickled.

Source: github LiveCodeBench/LiveCodeBench, ``lcb_runner/benchmarks/code_generation.py``.
"""

import io
import json
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Never

from safe_r1.benchmarks.code_check import CodeTest, inflate, parse_tests
from safe_r1.benchmarks.files import field_of, parse_json
from safe_r1.errors import DataError

# What becomes part of an id may not contain separators of ids or paths.
_NAME = re.compile(r"[\w.-]+", re.ASCII)


@dataclass(frozen=True)
class Problem:
    """One problem as published.

    Attributes:
        question_id: Its id.
        difficulty: ``easy``, ``medium`` or ``hard``.
        platform: Site of the contest.
        contest_day: Date of the contest.
        question: The task, in Markdown.
        starter_code: Code to be completed; empty where the program uses standard input.
        function_name: The function that the tests call; empty where they use standard input.
        tests: The public tests, then the hidden ones.
    """

    question_id: str
    difficulty: str
    platform: str
    contest_day: date
    question: str
    starter_code: str
    function_name: str
    tests: list[CodeTest]


def contest_day(fields: Mapping[str, object], where: str) -> date:
    """Date of a problem's contest.

    Raises:
        DataError: The field is missing or no date.
    """
    text = field_of(fields, "contest_date", str, where)
    try:
        return datetime.fromisoformat(text).date()
    except ValueError as error:
        raise DataError(f"{where}: contest_date {text!r} is no ISO date; fetch the file again") from error


def read_problem(fields: Mapping[str, object], where: str) -> Problem:
    """The problem in one line of a file; ``where`` names the line in messages.

    Raises:
        DataError: A field or a test is missing or damaged, or the tests cannot be run.
    """
    day = contest_day(fields, where)
    number, difficulty, platform = (
        _identifier(fields, field, where) for field in ("question_id", "difficulty", "platform")
    )
    starter = fields.get("starter_code") or ""
    if not isinstance(starter, str):
        raise DataError(f"{where}: field 'starter_code' is {type(starter).__name__}, expected str")
    name = _function_name(fields, where)
    tests = [*_public_tests(fields, where), *_private_tests(fields, where)]
    _require_usable(tests, name, where)
    question = field_of(fields, "question_content", str, where)
    return Problem(number, difficulty, platform, day, question, starter, name, tests)


def _identifier(fields: Mapping[str, object], name: str, where: str) -> str:
    """A field that becomes part of an id or a group's name."""
    text = field_of(fields, name, str, where)
    if not _NAME.fullmatch(text):
        raise DataError(f"{where}: field {name!r} is {text!r}, expected letters, digits, '.', '_' and '-'")
    return text


def _function_name(fields: Mapping[str, object], where: str) -> str:
    """The function that the tests call; empty where they use standard input."""
    metadata = parse_json(field_of(fields, "metadata", str, where).encode(), f"{where}, metadata")
    name = metadata.get("func_name") if isinstance(metadata, dict) else None
    # It is written into the program that calls it: only a plain name is safe there.
    if name is not None and not (isinstance(name, str) and name.isidentifier()):
        raise DataError(f"{where}: func_name is {name!r}, expected a Python name")
    return name or ""


def _public_tests(fields: Mapping[str, object], where: str) -> list[CodeTest]:
    where_tests = f"{where}, public_test_cases"
    text = field_of(fields, "public_test_cases", str, where)
    return parse_tests(parse_json(text.encode(), where_tests), where_tests)


def _private_tests(fields: Mapping[str, object], where: str) -> list[CodeTest]:
    """The hidden tests: JSON, or JSON in a pickle in zlib in base64, as in most of the published files."""
    where = f"{where}, private_test_cases"
    text = field_of(fields, "private_test_cases", str, where)
    # No base64 starts with a bracket.
    if not text.lstrip().startswith("["):
        text = _unpickle_text(inflate(text, where), where)
    # A lone surrogate then ends in the error of `parse_json`, which names the line, not in one of encoding.
    return parse_tests(parse_json(text.encode("utf-8", "surrogatepass"), where), where)


class _NoGlobals(pickle.Unpickler):
    """Unpickles plain values only.

    A pickle that names a class or a function, and could so run any code, is rejected before it is imported.
    """

    def find_class(self, module_name: str, global_name: str, /) -> Never:
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")


def _unpickle_text(content: bytes, where: str) -> str:
    try:
        text = _NoGlobals(io.BytesIO(content)).load()
    except Exception as error:  # a damaged pickle can raise nearly anything, and all of it means the same
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"{where}: is damaged or hostile, no pickled text ({reason}); fetch the file again"
        ) from error
    if not isinstance(text, str):
        raise DataError(
            f"{where}: is damaged, holds {type(text).__name__} where JSON text is expected; fetch the file "
            "again"
        )
    return text


def _require_usable(tests: Sequence[CodeTest], function: str, where: str) -> None:
    if not tests:
        raise DataError(f"{where}: has no tests; fetch the file again")
    for number, test in enumerate(tests, start=1):
        if test.testtype == "functional" and not function:
            raise DataError(
                f"{where}, test {number}: is functional, but the problem's metadata hold no func_name"
            )
        if function:
            # Checked at loading: in the sandbox the same damage would count as a wrong answer.
            try:
                for text in (test.output, *test.input.split("\n")):
                    json.loads(text)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{where}, test {number}: an argument or result is no JSON ({error})"
                ) from error
