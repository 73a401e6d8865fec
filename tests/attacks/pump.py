"""Texts that keep a regular expression busy, made from the expression, and how its time grows with them.

As a program it reads ``{"patterns": [[text, flags, method], ...], "size": N, "limit_s": S}`` as JSON and
writes the number of each pattern before it is tried, and those that are slow once more, negative. A search
that does not end within the limit ends the process: the caller starts it anew behind that pattern.
"""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from re import _constants as ops  # pyright: ignore[reportAttributeAccessIssue]
from re import _parser  # pyright: ignore[reportAttributeAccessIssue]
from typing import Any, NamedTuple

FULL_SIZE = 200_000
"""Characters of a text, as long as the longest that models write."""
_CATEGORIES = {
    ops.CATEGORY_DIGIT: "1",
    ops.CATEGORY_NOT_DIGIT: "a ",
    ops.CATEGORY_SPACE: " \n",
    ops.CATEGORY_NOT_SPACE: "a字",
    ops.CATEGORY_WORD: "a字1",
    ops.CATEGORY_NOT_WORD: " .\n",
}
_REPEATS = (ops.MAX_REPEAT, ops.MIN_REPEAT, ops.POSSESSIVE_REPEAT)
_MAX_WORDS = 4
_MAX_UNITS = 24
# Repeats of up to so many characters are constants.
_BOUND = 64
_FLAGS = re.IGNORECASE | re.MULTILINE | re.DOTALL | re.VERBOSE | re.ASCII
_SHORT = 3_000
# CPU seconds above which a text is tried at greater length: no verdict, so a busy machine changes none.
_SUSPICIOUS_S = 0.0006
_NOTABLE_S = 0.05
# Four times the text takes four times as long where time is linear, and sixteen times where it is quadratic.
_GROWTH = 9


class Pattern(NamedTuple):
    """A regular expression of the package.

    Attributes:
        where: File and line.
        text: The expression.
        flags: Flags of ``re``.
        method: How it is used: ``match``, ``fullmatch``, or ``finditer`` for all that look at each place.
    """

    where: str
    text: str
    flags: int = 0
    method: str = "finditer"


def find_slow(patterns: Sequence[Pattern], size: int = FULL_SIZE, limit_s: float = 30) -> list[str]:
    """Places of the patterns that take more than linear time.

    Args:
        patterns: The expressions.
        size: Length of the longest texts.
        limit_s: CPU seconds after which one search is given up, and its pattern called slow.
    """
    slow: set[int] = set()
    start = 0
    while start < len(patterns):
        request = {
            "patterns": [[each.text, each.flags & _FLAGS, each.method] for each in patterns[start:]],
            "size": size,
            "limit_s": limit_s,
        }
        ran = subprocess.run(
            [sys.executable, "-W", "ignore", __file__],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            check=False,
        )
        numbers = [int(each) for each in ran.stdout.split()]
        slow |= {start - number - 1 for number in numbers if number < 0}
        if ran.returncode == 0:
            break
        assert ran.returncode == -signal.SIGVTALRM, ran.stderr
        slow.add(start + numbers[-1])
        start += numbers[-1] + 1
    return [patterns[number].where for number in sorted(slow)]


def is_bounded(pattern: Pattern) -> bool:
    """Whether no repeat, nor repeats within repeats, can match more than a constant number of characters."""
    return _longest(_parser.parse(pattern.text, pattern.flags & _FLAGS)) <= _BOUND


def _longest(parsed: Any) -> int:
    most = 1
    for op, value in parsed:
        inner = max(map(_longest, _bodies(op, value)), default=1)
        most = max(most, inner * int(value[1]) if op in _REPEATS else inner)
    return most


def texts(pattern: str, flags: int, size: int) -> Iterator[str]:
    """Repetitions of what the pattern and each of its parts match, that end in a mismatch."""
    parsed = _parser.parse(pattern, flags)
    units: list[tuple[str, str]] = []
    ends = ["\0\n"]
    _collect(parsed, "", units, ends)
    for before, unit in list(dict.fromkeys(units))[:_MAX_UNITS]:
        for end in dict.fromkeys(ends[:2]):
            yield before + (unit * (size // len(unit) + 1))[:size] + end


def _main() -> None:
    request = json.load(sys.stdin)
    for number, (text, flags, method) in enumerate(request["patterns"]):
        print(number, flush=True)
        if _is_slow(re.compile(text, flags), method, request["size"], request["limit_s"]):
            print(-number - 1, flush=True)


def _is_slow(pattern: re.Pattern[str], method: str, size: int, limit_s: float) -> bool:
    def measure(text: str) -> float:
        signal.setitimer(signal.ITIMER_VIRTUAL, limit_s)
        start = time.process_time()
        if method == "finditer":
            for _ in pattern.finditer(text):
                pass
        else:
            getattr(pattern, method)(text)
        taken = time.process_time() - start
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        return taken

    flags = pattern.flags & _FLAGS
    lengths = [texts(pattern.pattern, flags, length) for length in (_SHORT, size // 4, size)]
    for short, middle, long in zip(*lengths, strict=True):
        if measure(short) < _SUSPICIOUS_S:
            continue
        before = measure(middle)
        # What takes long at a quarter would end the process at the whole.
        if before > limit_s / 2:
            return True
        taken = measure(long)
        # A busy machine only adds time: the least of several counts.
        if taken > _NOTABLE_S and taken > _GROWTH * before:
            before = min(before, measure(middle))
            taken = min(taken, measure(long))
        if taken > _NOTABLE_S and taken > _GROWTH * before:
            return True
    return False


def _collect(parsed: Any, prefix: str, units: list[tuple[str, str]], ends: list[str]) -> None:
    """Texts to repeat with what stands before them once, and characters that negated classes exclude."""
    for item in parsed:
        op, value = item
        if op in _REPEATS:
            for word in filter(None, _join(value[2])):
                units += [("", word), (prefix, word)]
        if op is ops.IN and value[0][0] is ops.NEGATE:
            ends += [chr(each) for kind, each in value if kind is ops.LITERAL]
        if op is ops.NOT_LITERAL:
            ends.append(chr(value))
        for body in _bodies(op, value):
            _collect(body, prefix, units, ends)
        prefix += _words(item)[0]
        if prefix:
            units.append(("", prefix))


def _bodies(op: Any, value: Any) -> list[Any]:
    if op is ops.BRANCH:
        return list(value[1])
    if op in _REPEATS:
        return [value[2]]
    if op is ops.SUBPATTERN:
        return [value[3]]
    if op in (ops.ASSERT, ops.ASSERT_NOT):
        return [value[1]]
    if op is ops.GROUPREF_EXISTS:
        return [body for body in value[1:] if body is not None]
    return [value] if op is ops.ATOMIC_GROUP else []


def _words(item: tuple[Any, Any]) -> list[str]:
    """Texts that an element matches."""
    op, value = item
    if op is ops.LITERAL:
        return [chr(value)]
    if op is ops.NOT_LITERAL:
        return [char for char in "a .字" if ord(char) != value]
    if op is ops.ANY:
        return ["a", " "]
    if op is ops.IN:
        return _members(value)
    if op in _REPEATS:
        least, most, body = value
        return [word * max(least, 1) for word in _join(body)] if most else [""]
    if op in (ops.ASSERT, ops.ASSERT_NOT):
        return [""]
    words = [word for body in _bodies(op, value) for word in _join(body)]
    return words[:_MAX_WORDS] or [""]


def _members(members: list[tuple[Any, Any]]) -> list[str]:
    if members[0][0] is ops.NEGATE:
        chosen = re.compile("|".join(re.escape(char) for char in _found(members[1:])) or "(?!)")
        return [char for char in "a字 1.-<\n" if not chosen.match(char)][:_MAX_WORDS] or ["~"]
    return _found(members)[:_MAX_WORDS]


def _found(members: list[tuple[Any, Any]]) -> list[str]:
    chars: list[str] = []
    for op, value in members:
        if op is ops.LITERAL:
            chars.append(chr(value))
        elif op is ops.RANGE:
            chars += [chr(value[0]), chr(value[1])]
        else:
            chars += _CATEGORIES[value]
    return chars


def _join(parsed: Any) -> list[str]:
    lists = [_words(item) for item in parsed]
    count = min(max((len(words) for words in lists), default=1), _MAX_WORDS)
    return ["".join(words[number % len(words)] for words in lists) for number in range(count)]


if __name__ == "__main__":
    _main()
