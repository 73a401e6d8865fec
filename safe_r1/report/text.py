"""Text of models and data made fit to be shown: nothing invisible, nothing that turns the page around,
nothing unencodable.
"""

import json
import re
from typing import Any

from markupsafe import Markup

_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_UNFIT = re.compile(f"\r\n?|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f{_BIDI}\u2028\u2029\ud800-\udfff]")
_JSON_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_MARKDOWN_SPECIAL = re.compile(r"([\\`*_\[\]|~<>&$])")


def printable(text: str) -> str:
    """The text with every control character in a visible form.

    Lone surrogates become U+FFFD (they cannot be encoded), C0 controls their control pictures, line
    separators line breaks, and direction overrides their code point in ``⟦ ⟧`` (they could make a page show
    another text than it holds).
    """
    return _UNFIT.sub(_visible, text)


def _visible(match: re.Match[str]) -> str:
    char = match.group()
    code = ord(char[0])
    if char[0] == "\r" or code in (0x2028, 0x2029):
        return "\n"
    if 0xD800 <= code <= 0xDFFF:
        return "\ufffd"
    if code < 0x20:
        return chr(0x2400 + code)
    return f"⟦U+{code:04X}⟧"


def one_line(value: Any) -> str:
    """Any value as one printable line."""
    return " ".join(printable(str(value)).split())


def markdown_text(value: Any) -> str:
    """Any value as Markdown that renders as the plain text it is, within a line or a table cell."""
    return _MARKDOWN_SPECIAL.sub(r"\\\1", one_line(value))


def script_json(value: Any) -> Markup:
    """JSON that can stand inside a script element: it cannot close the element nor open a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(re.sub("[<>&\u2028\u2029]", lambda match: _JSON_UNSAFE[match.group()], text))
