"""Every regular expression of the package against repetitions of what it matches: all take linear time.

Patterns are collected from the source and from what modules hold, texts are made from each pattern's parts,
and what counts is how CPU time grows with the text: 40,000 characters tell linear from quadratic, and the
very long test takes all patterns to 200,000.
"""

import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_r1.benchmarks.choice import patterns as choice_patterns
from safe_r1.benchmarks.choice import structured
from safe_r1.benchmarks.code_blocks import _BLOCKQUOTE
from safe_r1.judge import verdict_rules
from tests.attacks import package_patterns, pump
from tests.attacks.pump import Pattern

SIZE = 40_000
BAD = (r"(?:a+)+b", r"\s*x", r"<t>.*?</t>", r"(?:no[\s-]*refuse\s*,?\s*){3}!", r"a\s*,?\s*b", r"‘[^’]*’")
GOOD = (r"[^\n]*+\n", r"a{1,20}b", r"(?:是|为)[^。\n]{0,12}:", r"a\s*+(?:,\s*+)?b")


def uncut() -> Iterator[Pattern]:
    yield from (each for each in package_patterns.collect() if each.where not in package_patterns.CUT)


@pytest.mark.slow
def test_no_pattern_takes_more_than_linear_time():
    unbounded = [each for each in uncut() if not pump.is_bounded(each)]
    assert len(unbounded) > 120
    assert pump.find_slow(unbounded, SIZE) == []


@pytest.mark.very_long
def test_no_pattern_takes_more_than_linear_time_for_the_longest_texts():
    patterns = list(uncut())
    assert len(patterns) > 350
    assert pump.find_slow(patterns) == []


def test_the_pump_tells_patterns_that_backtrack():
    patterns = [Pattern(text, text) for text in (*BAD, *GOOD)]
    assert pump.find_slow(patterns, SIZE, limit_s=0.2) == list(BAD)


def test_a_pattern_that_only_looks_at_one_place_is_tried_there():
    patterns = [Pattern(method, r"\s*x", method=method) for method in ("match", "fullmatch", "finditer")]
    assert pump.find_slow(patterns, SIZE, limit_s=0.2) == ["finditer"]


# Each mended pattern with the form that it had.
MENDED = {
    "asked": (verdict_rules.ASKED_AFTER, r"[\"'”’」》\])]*\s*(?:吗|么)?\s*\?"),
    "defined": (
        verdict_rules.DEFINED_AFTER,
        r"[\"'”’」》\])]*\s*(?:[(][^)]{0,20}[)])?\s*(?:是指|指的是|的定义|的标准|:\s*[指即]|means|refers)",
    ),
    "quotation": (
        verdict_rules.QUOTATION,
        r"“[^”]*(?:”|$)|「[^」]*(?:」|$)|『[^』]*(?:』|$)|‘[^’\n]*’"
        r"|\"(?:[^\"\\]|\\.){0,2000}+\"|(?<!\w)'[^'\n]*'|(?<=[^\s`])`[^`\n]+`",
    ),
    "blockquote": (_BLOCKQUOTE, r"[ \t]*(?:>[ \t]?)+.*"),
    "number": (structured._NUMBER, r"\s*(\d+(?:\.\d+)?)\s*(?:%|分)?\s*"),
    "letters": (
        choice_patterns.LETTER_LOOP,
        rf"\W*(?:{choice_patterns.LETTERS}[ .]*\n\s*){{3,}}+{choice_patterns.LETTERS}[ .]*\s*",
    ),
    "score": (
        structured._SCORE,
        r"(?:^|[\n;,、|*-]|(?<=\d) )[ \t*-]*(?P<name>[^\s:=|(,;、][^:=|(,;、\n]{0,19}?)"
        r"[ \t*]*(?:[:=|(-][ \t:*]*|[ \t])"
        r"(?P<score>\d{1,3}(?:\.\d{1,6})?)[ \t]*(?:%|分)?(?=[ \t)|*]*(?:[\n;,、]|$| [A-H]))",
    ),
}
_PIECES = (
    *"\"'”’」)(吗么? \n:指a‘“`>.1%分*|A-,",
    "是指",
    "指的是",
    "means",
    "\t",
    "\ue000",
    "\ue001\n",
    "\ue100.\n",
    "20%",
    "A: 20%",
    "| B | 0.1 |",
)


@pytest.mark.parametrize("name", MENDED)
@given(st.lists(st.sampled_from(_PIECES), max_size=14).map("".join))
def test_mended_patterns_find_what_they_found(name: str, text: str):
    mended, former = MENDED[name]
    before = re.compile(former, mended.flags)
    found = [[each.span() for each in pattern.finditer(text)] for pattern in (mended, before)]
    if name != "score":
        assert found[0] == found[1]
    for method in ("match", "fullmatch"):
        matches = [getattr(pattern, method)(text) for pattern in (mended, before)]
        assert bool(matches[0]) == bool(matches[1])
    if name == "score":
        scores = [[each.group("score") for each in pattern.finditer(text)] for pattern in (mended, before)]
        assert scores[0] == scores[1]
