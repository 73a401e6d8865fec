"""Escapes untrusted text for reports: no control character, no bidirectional override, no lone surrogate."""

import json
import re

from markupsafe import Markup

_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
# Control characters but tab and line feed, bidirectional overrides, separators of lines, lone surrogates, and
# the two code points that no XML may hold.
_UNPRINTABLE = re.compile(
    f"\r\n?|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f{_BIDI}\u2028\u2029\ud800-\udfff\ufffe\uffff]"
)
# The first three could close the element or open a comment, the last two end a line in old JavaScript.
_JSON_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
# Everything that can begin markup inside a line: CommonMark, tables, HTML, autolinks, and $ of formulas.
_MARKDOWN_SPECIAL = re.compile(r"([\\`*_\[\]|~<>&$])")
# What renderers make links of without any markup: addresses with a scheme or www, and of e-mail. Their
# characters are those of ASCII that mean nothing inside a code span. Two that touch make one span.
_LINK = re.compile(
    r"(?:(?:(?:[a-z][a-z0-9+.-]{1,15}:)?//|\bwww\.)[!-;=?-\[\]^_a-{}~]*"
    r"|[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+)+",
    re.IGNORECASE | re.ASCII,
)


def printable(text: str) -> str:
    """The text with every control character in a visible form.

    Lone surrogates become U+FFFD (they cannot be encoded), C0 control characters their control pictures, line
    separators line breaks, and bidirectional overrides their code point in ``⟦ ⟧`` (they could make a page
    show another text than it contains).
    """
    return _UNPRINTABLE.sub(_visible, text)


def _visible(match: re.Match[str]) -> str:
    char = match.group()
    code = ord(char[0])  # of "\r\n" the first counts
    if char[0] == "\r" or code in (0x2028, 0x2029):
        return "\n"
    if 0xD800 <= code <= 0xDFFF:
        return "\ufffd"
    if code < 0x20:
        return chr(0x2400 + code)
    return f"⟦U+{code:04X}⟧"


def one_line(value: object) -> str:
    """Any value as one printable line."""
    return " ".join(printable(str(value)).split())


def markdown_text(value: object) -> str:
    """Any value as Markdown that renders as plain text, within a line or a table cell.

    What a renderer would turn into a link becomes a code span, where nothing is a link. Escapes do not stop
    all renderers, as some look for addresses after they have read the escapes.
    """
    text = one_line(value)
    parts: list[str] = []
    start = 0
    for found in _LINK.finditer(text):
        parts += [_escaped(text[start : found.start()]), f"`{found[0]}`"]
        start = found.end()
    return "".join([*parts, _escaped(text[start:])])


def _escaped(text: str) -> str:
    return _MARKDOWN_SPECIAL.sub(r"\\\1", text)


def script_json(value: object) -> Markup:
    """JSON for a script element: it can neither close the element nor open a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(re.sub("[<>&\u2028\u2029]", lambda match: _JSON_UNSAFE[match.group()], text))
