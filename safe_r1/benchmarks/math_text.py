"""Finds the result in an answer: the last box, or what the answer calls its result.

Every pattern here takes linear time.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Not NFKC, which makes x² an x2: only the forms whose sole difference is their width.
_NARROW = {wide: wide - 0xFEE0 for wide in range(0xFF01, 0xFF5F)} | {0x3000: 0x20, 0x2044: ord("/")}
# Other full-width commas separate the items of a list, which must not become one number.
_THOUSANDS = re.compile(r"(?<=[0-9０-９])，(?=[0-9０-９]{3}(?![0-9０-９]))")

# The backslash may be lost, and TeX takes a single token without braces.
_BOX = re.compile(r"(?:\\f?|(?<![A-Za-z\\]))boxed\s{0,8}(?:\{|(?P<bare>[\w.+-]{1,40}))|\\fbox\s{0,8}\{")
# Boxes that give one result together: "\boxed{1} and \boxed{-2}".
_JOINED = re.compile(
    r"[\s$]*+(?:\\text\s?\{\s*+)?(?:,|;|、|，|(?:,\s?)?(?:and|or)|或者?|以?及|和|与)[\s}$]*+", re.I
)
_INNER_BOX = re.compile(r"\\?f?boxed\s{0,8}\{")
_BRACE = re.compile(r"\\.|[{}]", re.S)
_UNCLOSED_END = re.compile(r"[$\n]|\\[\])]")

_ANNOUNCED = re.compile(
    r"(?:\b(?:answer|result|solution|total|sum|value)\b[^.\n:=]{0,40}?(?:\bis\b|\bare\b|[:=]|\bequals\b)"
    r"|(?:答案|结果|得数|所求|总数)[^。\n:：=,，]{0,12}?(?:等于|[是为:：=])|故选|####)[\s*:：]*+",
    re.I,
)
_CONCLUDES = re.compile(
    r"\b(?:so|thus|therefore|hence|altogether|consequently)\b|所以|因此|因而|从而|故|综上|于是|总共|一共|共有|∴",
    re.I,
)
_FORMULA = re.compile(
    r"\$\$?([^$\n]{1,400})\$|\\\(((?:[^\\\n]|\\(?![()])){1,400}+)\\\)|\*\*([^*\n]{1,200})\*\*"
)
_NUMBER = re.compile(
    r"(?<![\w.\\])[-−]?[$¥￥€£]?(?:\d{1,3}(?:,\d{3})++|\d++)?(?:\.\d++)?(?<=\d)(?:\s?/\s?\d++)?(?:\s?\\?%)?"
)
_NEGATED = re.compile(r"not\b|不|非", re.I)
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}|[\u3400-\u9fff]")
# What separates the items of a list before a number.
_LEAD = 40
_LIST_LEAD = re.compile(r"[\d}$]\s*(?:,|、|;|\band\b|\bor\b|和|或)\s*$", re.I)


@dataclass(frozen=True)
class _Box:
    """A box: where it begins and ends in the answer, and its content."""

    start: int
    end: int
    content: str


def narrow(text: str) -> str:
    """A text with full-width digits, letters and signs in their usual width."""
    return _THOUSANDS.sub(",", text).replace("，", ", ").translate(_NARROW)


def find_result(answer: str) -> str | None:
    """The result that an answer gives, as it is written; None where it gives none.

    The last box counts, with those before it that a comma or an "and" joins to it. Without a box it is what
    the answer calls its result, or the conclusion in its last line: a number that only stands somewhere, or
    the last one of a list, is none.
    """
    if boxes := [box for box in _boxes(answer) if box.content.strip(" $.,")]:
        return _joined(answer, boxes)
    if announced := list(_ANNOUNCED.finditer(answer)):
        line = answer[announced[-1].end() :].partition("\n")[0]
        if found := _result_in(line):
            return found
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    if not lines:
        return None
    last = lines[-1].strip("* ")
    is_conclusion = _CONCLUDES.search(last) or (_is_formula(last) and (len(lines) == 1 or "=" in last))
    return _result_in(last) if is_conclusion or _FORMULA.fullmatch(lines[-1]) else None


def _boxes(text: str) -> Iterator[_Box]:
    """The outermost boxes; one that is cut off ends with its line."""
    closings = _closing_braces(text)
    position = 0
    while found := _BOX.search(text, position):
        start = found.end()
        if found["bare"]:
            yield _Box(found.start(), start, found["bare"])
            position = start
            continue
        end = closings.get(start - 1)
        if end is None:
            cut = _UNCLOSED_END.search(text, start)
            end = cut.start() if cut else len(text)
        yield _Box(found.start(), end + 1, _unboxed(text[start:end]))
        position = end + 1


def _closing_braces(text: str) -> dict[int, int]:
    """Position of the closing brace by that of its opening one: no pattern matches nested braces."""
    opened: list[int] = []
    closings: dict[int, int] = {}
    for brace in _BRACE.finditer(text):
        if brace[0] == "{":
            opened.append(brace.start())
        elif brace[0] == "}" and opened:
            closings[opened.pop()] = brace.start()
    return closings


def _unboxed(content: str) -> str:
    """The content of a box without boxes in it."""
    content = _INNER_BOX.sub("{", content).strip()
    while content.startswith("{") and content.endswith("}") and "{" not in content[1:]:
        content = content[1:-1].strip()
    # The braces of an inner box that was cut off.
    return content.lstrip("{") if content.count("{") > content.count("}") else content


def _joined(text: str, boxes: list[_Box]) -> str:
    """The last box, with those that belong to it."""
    together = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        if not _JOINED.fullmatch(text[box.end : together[0].start]):
            break
        together.insert(0, box)
    return ", ".join(dict.fromkeys(box.content for box in together))


def _is_formula(text: str) -> bool:
    return _WORD.search(text) is None and re.search(r"\w", text) is not None


def _result_in(line: str) -> str | None:
    """The result in a line of prose: the whole line, or its last formula, or its last number."""
    line = line.strip().rstrip("。.;；!！")
    if _NEGATED.match(line):
        return None
    if _is_formula(line):
        return line
    if formulas := list(_FORMULA.finditer(line)):
        found = formulas[-1]
        return (
            None
            if _LIST_LEAD.search(line[max(0, found.start() - _LEAD) : found.start()])
            else next(filter(None, found.groups()))
        )
    numbers = list(_NUMBER.finditer(line))
    if not numbers:
        # A name or a word: "The answer is Evelyn."
        return line if 0 < len(line) <= 40 else None
    found = numbers[0] if numbers[0].start() == 0 else numbers[-1]
    is_in_list = _LIST_LEAD.search(line[max(0, found.start() - _LEAD) : found.start()]) or re.match(
        r"\s*[,、]\s*\d", line[found.end() :]
    )
    return None if is_in_list else found[0]
