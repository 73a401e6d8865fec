"""Rewrites answers that name an option by its number, or that move from one letter to another.

Both are read on the text as it was written: the common writing makes "②" a plain 2, and an arrow a colon.
"""

import re
from collections.abc import Sequence

_SAID = (
    r"(?:(?:答案|选项)|(?<![不误错勿别没未])选择?|answer|option|choice)"
    r"[ \t*]{0,3}(?:应?该?[是为]|[:：]|is)?[ \t*]{0,3}"
)
_NUMBER = (
    r"(?:(?P<circled>[①-⑧])|[(（][ \t]?(?P<bracketed>[1-8])[ \t]?[)）]|(?:No\.?|№)[ \t]?(?P<counted>[1-8]))"
)
# A number is an option's where it is said to be the answer and ends its line, or is the whole answer:
# elsewhere it counts reasons, steps and statements.
_STATED = re.compile(rf"(?P<said>{_SAID}){_NUMBER}(?=[ \t*。.!！]*$)", re.IGNORECASE | re.MULTILINE)
_WHOLE = re.compile(rf"(?P<said>\s*){_NUMBER}[\s*。.!！]*", re.IGNORECASE)
# Options that hold numbers themselves, such as "①③": a number may be one of these.
_HAS_NUMBER = re.compile(r"[\d①-⑳⑴-⒇两]|[一二三四五六七八](?=[个处种次条项])")
# "A → B", alone on its line: from A to B.
_MOVE = re.compile(
    r"^[^\w\n]{0,8}(?:(?:最终)?答案|选择?|更正|修改|改)?[^\w\n]{0,4}"
    r"[A-H][ \t*]{0,3}(?:[→➡⇒]\ufe0f?|[-=]>)[ \t*]{0,3}(?P<to>[A-H])[^\w\n]{0,8}$",
    re.MULTILINE,
)


def name_options(answer: str, options: Sequence[str], is_yes_no: bool) -> str:
    """The answer with such a number or move as a letter.

    Args:
        answer: What follows the reasoning.
        options: Texts of the options, in order.
        is_yes_no: The options say yes and no, so that "No. 1" may be an answer before a list.
    """
    moves = list(_MOVE.finditer(answer))
    # Several are a list of their own, such as of causes and effects.
    if len(moves) == 1:
        [move] = moves
        answer = f"{answer[: move.start()]}答案:{move['to']}{answer[move.end() :]}"
    if any(map(_HAS_NUMBER.search, options)):
        return answer

    def letter(match: re.Match[str]) -> str:
        circled, bracketed, counted = match.group("circled", "bracketed", "counted")
        if counted and is_yes_no:
            return match.group()
        number = ord(circled) - ord("①") + 1 if circled else int(bracketed or counted)
        return match.group() if number > len(options) else f"{match['said']}{chr(ord('A') + number - 1)}"

    if whole := _WHOLE.fullmatch(answer):
        return letter(whole)
    return _STATED.sub(letter, answer)
