"""Reads the fenced blocks of an answer as models write them.

Models glue fences to text and code, indent and quote them, nest them and show backticks inside strings. Every
pattern here takes linear time.

Source: CommonMark 0.31, "Fenced code blocks", read leniently.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_NEWLINE = re.compile(r"\r\n?|[\u2028\u2029]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_INDENT = 64
_INVISIBLE = r"\0\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff"

# A fence at any place, with the rest of its line up to the next backtick.
_FENCE = re.compile(
    r"(?<!`)(?P<ticks>`{3,}+)(?P<info>[^`\n]*+)|^[ \t]*+(?P<tildes>~{3,}+)(?P<text>.*+)", re.M
)
# The parts of a program where backticks are no fence, and those that Python would not read.
_TOKEN = re.compile(
    rf"""(?P<kept>
    \"{{3}}(?:[^\\"]|\\.|"(?!""))*+(?:\"{{3}}|(?P<open_double>\Z))
  | '{{3}}(?:[^\\']|\\.|'(?!''))*+(?:'{{3}}|(?P<open_single>\Z))
  | "(?:[^"\\\n]|\\.)*+"?
  | '(?:[^'\\\n]|\\.)*+'?
  | \#[ \t]*+(?:`{{3,}}+[^`\n]*+$)?(?:[^\n`]|`{{1,2}}+(?!`))*+ )
  | (?<!`)(?P<ticks>`{{3,}}+)
  | ^[ \t]*+(?P<tildes>~{{3,}}+)(?=[ \t]*$)
  | (?P<blank>[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000])
  | (?P<invisible>[{_INVISIBLE}])""",
    re.X | re.S | re.M,
)
_BLOCKQUOTE = re.compile(r"[ \t]*+(?:>[ \t]?)++.*+")
_QUOTE_SIGNS = re.compile(r"^[ \t]*(?:>[ \t]?)+", re.M)

_INFO = re.compile(rf"[\s{{.:{_INVISIBLE}]*+(?P<word>[A-Za-z][\w+#.-]*+)?(?P<rest>.*+)")
_PYTHON = re.compile(r"(?:c?python|ipython|py|pypy)[\d.]*", re.I)
# "```pythonimport sys", "```pythonn = int(input())": the first line of the code has run into the language.
_GLUED = re.compile(r"python3?(?=(?:import|from|def|class|for|while|if)\s|\w*+(?:[(,\[]|\s*+=))", re.I)
_CODE = re.compile(r"\s*+(?:(?:import|from|def|class|for|while|if|try|with)\s|#|[^\n(\[=,]*+[(\[=,])")
_ATTRIBUTE = re.compile(
    r"\s*+(?:[{.,\[]|(?:title|file\w*|name|line\w*|hl_\w*|show\w*|caption|start\w*|id|class)=)", re.I
)
_IS_ONE_WORD = re.compile(r"[ \t{.]*[A-Za-z][\w+#.-]*\}?[ \t]*")


@dataclass(frozen=True)
class Block:
    """A closed block.

    Attributes:
        language: ``python`` for all of its names, otherwise the first word of the fence in lower case.
        code: The content as Python would read it: without the indentation of the block, without invisible
            characters, with a line break at its end; empty where there is nothing.
    """

    language: str
    code: str


def read_blocks(answer: str) -> Iterator[Block]:
    """The closed blocks of an answer in their order; one that is never closed was cut off."""
    text = _SURROGATE.sub("\ufffd", _NEWLINE.sub("\n", answer))
    scanner = _Scanner(text)
    position = 0
    while opening := _FENCE.search(text, position):
        language, first_line = _read_info(opening["info"] or opening["text"] or "")
        start = opening.end() - len(first_line)
        if text.startswith("`", opening.end()):
            # A span within one line, such as "```python print(1)```", or backticks without a partner.
            closing = _FENCE.match(text, opening.end())
            is_span = closing is not None and closing["ticks"] == opening["ticks"]
            if is_span and language == "python" and first_line:
                yield Block(language, _tidy(first_line))
            position = closing.end("ticks") if closing and is_span else opening.end()
            continue
        fence = opening["ticks"] or opening["tildes"]
        end = scanner.find_end(start, fence, may_be_python=language in ("python", ""))
        if end is None:
            return
        content = text[start : end.start]
        lead = text[text.rfind("\n", 0, opening.start()) + 1 : opening.start()]
        yield Block(
            language, _tidy(_QUOTE_SIGNS.sub("", content) if _BLOCKQUOTE.fullmatch(lead) else content)
        )
        position = end.resume


@dataclass(frozen=True)
class _End:
    """Where a block ends, and where reading goes on."""

    start: int
    resume: int


class _Scanner:
    """Finds the end of a block; knows whether the rest of the text can be read as Python."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._reads_strings = True

    def find_end(self, start: int, fence: str, *, may_be_python: bool) -> _End | None:
        """The first fence that closes the block; None where there is none."""
        if may_be_python and self._reads_strings:
            for token in _TOKEN.finditer(self._text, start):
                group = "ticks" if token["ticks"] else "tildes"
                if token[group] and _closes(token[group], fence):
                    return self._end(token.start(group), token.end(group))
                if token["open_double"] is not None or token["open_single"] is not None:
                    # A string that is never closed hides every fence: from here on, strings are not read.
                    # Once for all, as each attempt reads the whole text.
                    self._reads_strings = False
                    break
            else:
                return None
        for found in _FENCE.finditer(self._text, start):
            group = "ticks" if found["ticks"] else "tildes"
            info = found["info"] or found["text"] or ""
            is_bare = not info.strip() and not self._text.startswith("`", found.end())
            if is_bare and _closes(found[group], fence):
                return self._end(found.start(group), found.end(group))
            if self._begins_line(found.start(group)) and _read_info(info)[0] == "python":
                # Of the program in a block of Markdown, or of one after a block that was not closed.
                return _End(found.start(group), found.start(group))
        return None

    def _end(self, start: int, end: int) -> _End:
        """An end at a fence, which opens the next block if it names a language."""
        stop = self._text.find("\n", end)
        info = self._text[end : stop if stop >= 0 else None]
        opens = self._begins_line(start) and _IS_ONE_WORD.fullmatch(info) is not None
        return _End(start, start if opens else end)

    def _begins_line(self, place: int) -> bool:
        # Not to the beginning of the line, which may be long and full of fences.
        before = self._text[max(0, place - _MAX_INDENT) : place].rstrip(" \t>")
        return before.endswith("\n") if before else place <= _MAX_INDENT


def _closes(found: str, fence: str) -> bool:
    return found[0] == fence[0] and len(found) >= len(fence)


def _read_info(info: str) -> tuple[str, str]:
    """Language of a fence, and the code on the fence's own line."""
    found = _INFO.fullmatch(info)
    if found is None or not found["word"]:
        return "", ""
    word, rest = found["word"], found["rest"]
    if _PYTHON.fullmatch(word):
        is_code = _CODE.match(rest) and not _ATTRIBUTE.match(rest)
        return "python", rest if is_code else ""
    code = word + rest
    if glued := _GLUED.match(code):
        return "python", code[glued.end() :]
    # "```print(1)", "```a, b = 1, 2", "```import sys": a language is one word.
    if re.match(r"[(,\[]|\s*=", rest) or word in ("import", "from", "def"):
        return "", code
    return word.lower(), ""


def _tidy(code: str) -> str:
    """A block's content without its indentation and without characters that Python does not read."""
    visible = _TOKEN.sub(_replacement, code)
    lines = visible.rstrip().split("\n")
    while lines and not lines[0].strip():
        del lines[0]
    if not lines:
        return ""
    margin = lines[0][: len(lines[0]) - len(lines[0].lstrip())]
    return "".join(f"{_without_margin(line, margin)}\n" for line in lines)


def _without_margin(line: str, margin: str) -> str:
    return line[len(margin) :] if line.startswith(margin) else line.lstrip(" \t")


def _replacement(token: re.Match[str]) -> str:
    if token["blank"]:
        return " "
    return "" if token["invisible"] else token[0]
