"""Compares two results by their structure, and their parts by math-verify.

math-verify alone calls results equal that are not: tiny numbers, sequences whose last item agrees, and others
(its issues 14 and 60). So lists, tuples, intervals and equations are taken apart here, what is no number is
compared as text, and an equality that it finds is checked by inserting numbers for variables.
"""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from safe_r1.benchmarks.math_spelling import plain_words, spell, unit_of, words_of
from safe_r1.benchmarks.math_values import is_same_value, parse

if TYPE_CHECKING:
    from sympy import Basic

_MAX_ITEMS = 50
_OPEN = {"(": ")", "[": "]", r"\{": r"\}", r"\langle": r"\rangle"}
_TOKEN = re.compile(r"\\(?:[A-Za-z]+|.)|[()\[\]{},;]", re.S)
_BASE = re.compile(r"(?P<digits>[0-9A-Za-z.]{1,80})\s?_\s?\{?\s?(?P<base>\d{1,2})\s?\}?")
_CLOCK = re.compile(r"\d{1,6}(?:\s?:\s?\d{1,6})+")
_MEMBER = re.compile(r"^[A-Za-z]\s?\\in(?![A-Za-z])\s?")
_ASSIGNED_TUPLE = re.compile(r"^\([A-Za-z](?:\s?,\s?[A-Za-z]){1,5}\)\s?=\s?")
_SET_BUILDER = re.compile(
    r"\\\{\s?[A-Za-z]\s?(?:\\in\s?\\(?:mathbb\{R\}|R)\s?)?(?:\\mid|\||:)(?P<condition>.*)\\\}"
)
_RELATION = re.compile(r"\\(?:leq?|geq?|lt|gt)(?![A-Za-z])|[<>]")
_PLUS_MINUS = re.compile(r"\\pm(?![A-Za-z])\s?")


def is_same_result(key: str, found: str) -> bool:
    """Whether a found result is the known one.

    It may take unbounded time and memory, as ``9^{9^{9}}`` does: give it to a process that can be killed.

    Args:
        key: The known result, in LaTeX.
        found: What an answer gives, as it is written.
    """
    if (words := words_of(key)) is not None:
        return words == plain_words(found)
    letters = frozenset(re.findall(r"(?<![\\A-Za-z])[A-Za-z]", key))
    units = (unit_of(key), unit_of(found))
    if None not in units and units[0] != units[1]:
        return False
    return _is_same(spell(key, letters), spell(found, letters))


def _is_same(key: str, found: str) -> bool:
    key, found = (_without_frame(text) for text in (key, found))
    if bool(_ASSIGNED_TUPLE.match(key)) != bool(_ASSIGNED_TUPLE.match(found)):
        key, found = (_ASSIGNED_TUPLE.sub("", text) for text in (key, found))
    if not key or not found:
        return False
    if _compact(key) == _compact(found):
        return True
    if r"\ldots" in key or r"\ldots" in found:
        return _are_same(
            _split(key), _split(found), in_order=True, same=lambda a, b: _compact(a) == _compact(b)
        )
    if _CLOCK.fullmatch(key) or _CLOCK.fullmatch(found):
        return False
    if _BASE.fullmatch(key) or _BASE.fullmatch(found):
        return _in_base(key) == _in_base(found)
    if _is_inequality(key) or _is_inequality(found):
        return _is_same_region(key, found)
    unions = _split(key, (r"\cup",)), _split(found, (r"\cup",))
    if max(map(len, unions)) > 1:
        return _are_same(*unions, in_order=False)
    lists = _items(key), _items(found)
    if max(map(len, lists)) > 1:
        return _are_same(*lists, in_order=False)
    groups = _bracketed(key), _bracketed(found)
    if groups[0] and groups[1]:
        # Tuples and intervals, of which (a, b) may be either.
        return groups[0][0] == groups[1][0] and _are_same(groups[0][1], groups[1][1], in_order=True)
    return groups == (None, None) and is_same_value(key, found)


def _items(text: str) -> list[str]:
    """The items of a list, or of a set in braces, which says the same."""
    group = _bracketed(text)
    return _expanded(group[1] if group and group[0] == r"\{\}" else _split(text))


def _are_same(
    keys: Sequence[str],
    found: Sequence[str],
    *,
    in_order: bool,
    same: Callable[[str, str], bool] | None = None,
) -> bool:
    """Whether two lists agree item by item, in any order where it does not matter."""
    same = same or (lambda key, other: _is_same(spell(key), spell(other)))
    if len(keys) != len(found) or len(keys) > _MAX_ITEMS:
        return False
    if in_order:
        return all(same(*pair) for pair in zip(keys, found, strict=True))
    left = list(found)
    for key in keys:
        place = next((place for place, other in enumerate(left) if same(key, other)), None)
        if place is None:
            return False
        del left[place]
    return True


# --- taking apart


def _split(text: str, separators: tuple[str, ...] = (",", ";", r"\lor")) -> list[str]:
    """The items of a list that is in no brackets."""
    depth = 0
    parts: list[str] = []
    start = 0
    for token in _TOKEN.finditer(text):
        if token[0] in separators and depth == 0:
            parts.append(text[start : token.start()])
            start = token.end()
        elif token[0] in ("(", "[", "{", r"\{", r"\langle", r"\begin"):
            depth += 1
        elif token[0] in (")", "]", "}", r"\}", r"\rangle", r"\end"):
            depth -= 1
    return [part.strip() for part in (*parts, text[start:]) if part.strip()]


def _bracketed(text: str) -> tuple[str, list[str]] | None:
    """The kind of the brackets around a whole text, and its items; None without brackets or for one item.

    One item in round brackets is only bracketed; in braces it is a set.
    """
    opening = next((each for each in _OPEN if text.startswith(each)), None)
    if opening is None:
        return None
    closing = next((each for each in _OPEN.values() if text.endswith(each)), None)
    if closing is None:
        return None
    inside = text[len(opening) : -len(closing)]
    depth = 0
    for token in _TOKEN.finditer(inside):
        depth += (token[0] in ("(", "[", "{", r"\{")) - (token[0] in (")", "]", "}", r"\}"))
        if depth < 0:
            return None
    items = _split(inside)
    kind = ("(" if opening == r"\langle" else opening) + (")" if closing == r"\rangle" else closing)
    return (kind, items) if len(items) > 1 or kind == r"\{\}" else None


def _expanded(items: Sequence[str]) -> list[str]:
    """The items, one with a plus-minus as two."""
    both = [
        [_PLUS_MINUS.sub("+", item), _PLUS_MINUS.sub("-", item)] if _PLUS_MINUS.search(item) else [item]
        for item in items
    ]
    return [each for pair in both for each in pair]


def _compact(text: str) -> str:
    """A text without spaces that mean nothing, and without braces around single characters."""
    return re.sub(r"\{(\w)\}", r"\1", re.sub(r"(?<!\d) | (?!\d)", "", text))


def _in_base(text: str) -> tuple[str, str] | None:
    found = _BASE.fullmatch(text)
    if found:
        return found["digits"].upper(), found["base"]
    return (text, "10") if re.fullmatch(r"\d+", text) else None


# --- equations and inequalities


def _is_inequality(text: str) -> bool:
    return _RELATION.search(text) is not None


def _without_frame(text: str) -> str:
    """What is said of a variable that is in a set: the set, or its condition."""
    condition = _SET_BUILDER.fullmatch(text)
    return condition["condition"].strip() if condition else _MEMBER.sub("", text)


def _is_same_region(key: str, found: str) -> bool:
    """Inequalities, or intervals on one of the two sides, as sets of real numbers."""
    from sympy import Set

    regions = [_region(text) for text in (key, found)]
    if all(isinstance(region, Set) for region in regions):
        return bool(regions[0] == regions[1])
    return is_same_value(key, found)


def _region(text: str) -> "Basic | None":
    """The set that inequalities in one variable describe, or intervals; None where there is none."""
    from sympy import Intersection, Set, Union

    if not _is_inequality(text):
        value = parse(text)
        return value if isinstance(value, Set) else None
    alternatives = []
    for alternative in _split(text, (r"\lor",)):
        parts = [_solution(part) for part in _split(alternative)]
        if not parts or None in parts:
            return None
        alternatives.append(Intersection(*parts))
    return Union(*alternatives)


def _solution(inequality: str) -> "Basic | None":
    value = parse(inequality)
    if value is None or len(value.free_symbols) != 1:
        return None
    try:
        return value.as_set()
    except (NotImplementedError, AttributeError, TypeError, ValueError):
        return None
