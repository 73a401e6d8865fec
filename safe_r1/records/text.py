"""The border for text from outside: replaced in replies, refused in files, what cannot be stored or sent on.

Half of a surrogate pair, which JSON can escape and a cut emoji leaves, has no encoding in UTF-8. NUL ends a
text in C libraries, XML and some servers. A number of thousands of digits and deep nesting cost a parser more
than they hold. Bidirectional controls are part of some languages: they are kept, and made visible wherever a
text is shown (``report.text.printable``).

Source: the Unicode Standard, 3.9 (U+FFFD for what is ill-formed); CommonMark 2.3 (U+FFFD for NUL).
"""

import json
import re
from collections.abc import Mapping

MAX_JSON_DEPTH = 100
"""Deepest nesting of lists and tables in a value from outside; schemas of tools have about twenty."""
_MAX_SHOWN_KEY = 40
_UNUSABLE = re.compile("[\0\ud800-\udfff]")
_TOO_MANY_DIGITS = "Exceeds the limit"


class TextError(ValueError):
    """A value that is not taken from outside; the message says why, and in which field of it."""


def clean(text: str) -> str:
    """A text of a model or of a server that can be stored and sent: U+FFFD for lone surrogates and NUL."""
    if _UNUSABLE.search(text) is None:
        return text
    # Two halves that come one after the other are one character.
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return joined.replace("\0", "\ufffd")


def fault_in(text: str) -> str:
    """What keeps a text from being stored or sent on; empty for nothing."""
    found = _UNUSABLE.search(text)
    if found is None:
        return ""
    return "a NUL character" if found[0] == "\0" else "not Unicode: a lone surrogate"


def check_value(value: object, *, name: str = "") -> None:
    """Check the texts and the depth of a value of JSON, a table's row or a cell.

    Args:
        value: The value.
        name: Its name in messages.

    Raises:
        TextError: A text in it cannot be stored or sent on, or it is nested too deep; the message ends with
            the field, such as ``messages[0].content``.
    """
    if fault := _find_fault(value, name, 0):
        what, field = fault
        raise TextError(f"{what} in {field}" if field else what)


def parse_json(content: str | bytes) -> object:
    """The value of a JSON text, checked by ``check_value``.

    Raises:
        TextError: It is no JSON, or what it holds is not taken from outside.
    """
    try:
        value: object = json.loads(content)
    except RecursionError:
        raise TextError(f"nested more than {MAX_JSON_DEPTH} deep") from None
    except UnicodeDecodeError as error:
        raise TextError(f"not JSON (byte {error.start} is no UTF-8)") from None
    except ValueError as error:
        if str(error).startswith(_TOO_MANY_DIGITS):
            raise TextError("a number has more than 4,300 digits") from None
        raise TextError(f"not JSON ({str(error).split(':')[0]})") from None
    if _needs_check(content):
        check_value(value)
    return value


def _needs_check(content: str | bytes) -> bool:
    """Whether the text can hold what is refused: nearly none can, and a walk through all would take long."""
    if isinstance(content, str):
        has_fault = "\\u" in content or (not content.isascii() and fault_in(content) != "")
        return has_fault or content.count("[") + content.count("{") > MAX_JSON_DEPTH
    # Halves of surrogate pairs, which Python's JSON takes in bytes too, begin with this byte. JSON in UTF-16
    # or UTF-32 has bytes of 0, and may hold all of it.
    has_fault = b"\\u" in content or b"\xed" in content or b"\0" in content
    return has_fault or content.count(b"[") + content.count(b"{") > MAX_JSON_DEPTH


def _find_fault(value: object, field: str, depth: int) -> tuple[str, str] | None:
    """What is wrong and where; None for nothing."""
    if isinstance(value, str):
        fault = fault_in(value)
        return (fault, field) if fault else None
    if not isinstance(value, Mapping | list | tuple):
        return None
    if depth >= MAX_JSON_DEPTH:
        # The whole path would be as deep.
        return f"nested more than {MAX_JSON_DEPTH} deep", re.split(r"[.\[]", field, maxsplit=1)[0]
    if not isinstance(value, Mapping):
        items = ((f"{field}[{place}]", each) for place, each in enumerate(value))
    else:
        for key in value:
            if isinstance(key, str) and (fault := fault_in(key)):
                return fault, f"the name of a field{f' of {field}' if field else ''}"
        items = ((_joined(field, key), each) for key, each in value.items())
    return next((fault for name, each in items if (fault := _find_fault(each, name, depth + 1))), None)


def _joined(field: str, key: object) -> str:
    name = " ".join(str(key).split())[:_MAX_SHOWN_KEY]
    return f"{field}.{name}" if field else name
