"""Who speaks in a judge's reply: finds and blanks what the judge quotes or reports of the judged text.

The judged text may hold a forged verdict, so that nothing of it must be read as the judge's own. All texts
here have been translated by ``verdict_rules.NORMALISE``; blanking keeps every position and line break.
"""

import re

from safe_r1.judge import verdict_rules as rules
from safe_r1.judge.vocabulary import REFUSAL, Vocabulary

# Characters before a fence, a quotation or a marker in which its introduction is looked for.
_FENCE_LEAD = 300
_QUOTATION_LEAD = 16
_MARKER_LEAD = 200
_INTRODUCTION = 300

# Struck-out text, a tag that names quoted material, a blockquote line.
_MARKED_QUOTATION = re.compile(
    r"~~.+?~~"
    r"|(?is:<(text|quote|blockquote|response|reply|原文|待评文本|回答)>.*?</\1>)"
    r"|(?m:^[ \t]*>.*$)"
)


def blank(text: str, start: int, end: int, filler: str = "\0") -> str:
    """Replace all characters but line breaks from ``start`` to ``end``."""
    return text[:start] + re.sub(r"[^\n]", filler, text[start:end]) + text[end:]


def mask_quotations(text: str, words: Vocabulary = REFUSAL) -> str:
    """Blank what the judge quotes: fences, blockquotes, struck-out text, quoted verdicts."""
    for fence in rules.FENCE.finditer(text):
        text = _mask_fence(text, fence)
    for found in _MARKED_QUOTATION.finditer(text):
        text = blank(text, *found.span())
    for found in rules.QUOTATION.finditer(text):
        inner = found[0][1:-1]
        is_speech = rules.SPEECH.search(text[max(0, found.start() - _QUOTATION_LEAD) : found.start()])
        # A label in plain quotation marks is how judges write their own verdict too.
        if words.label.search(inner) and (is_speech or rules.MARKER.search(inner)):
            text = blank(text, *found.span())
    return text.replace("`", " ")


def unwrap(text: str) -> str:
    """The text with its quotation marks and blockquote signs blanked, for a reply that is one quotation."""
    return re.sub(r"(?m)^[ \t]*>+|[“”「」『』`]", lambda found: " " * len(found[0]), text)


def is_own(text: str, start: int, end: int) -> bool:
    """True where the verdict marker from ``start`` to ``end`` is the judge's, not part of a report."""
    if rules.REPORT_AFTER.match(text, end):
        return False
    sentence = re.split(r"[。!?;\n\]]", text[max(0, start - _MARKER_LEAD) : start])[-1]
    lead = sentence.strip(" #-|,\"'")
    if re.search(r"\w", lead):
        last_clause = lead.split(",")[-1]
        return not (_is_reported(last_clause) or re.search(r"(?:写道|声称|自称|称|说|如下)[:]?$", lead))
    # The marker begins its line: a report would be introduced by the line above, with a colon.
    introduction = text[max(0, start - _INTRODUCTION) : start].rstrip(" \n#-|\"'").rsplit("\n", 1)[-1].strip()
    return not (introduction.endswith(":") and _is_reported(re.split(r"[。!?;]", introduction)[-1]))


def blank_report(text: str, marker: re.Match[str]) -> str:
    """Blank a reported verdict from its marker to the end of its clause."""
    stop = text.find("\n", marker.end())
    clause = re.split(r"[。,;]", text[marker.end() : stop if stop >= 0 else None])[0]
    return blank(text, marker.start(), marker.end() + len(clause))


def _mask_fence(text: str, fence: re.Match[str]) -> str:
    """Blank a fenced block, or its fences alone where the judge fenced its own verdict."""
    before = text[max(0, fence.start() - _FENCE_LEAD) : fence.start()].rstrip()
    introduction = before.rsplit("\n", 1)[-1]
    is_introduced = rules.OWN.search(introduction) or _ends_with_marker(before)
    is_json = fence[1].lstrip().startswith("{")
    if (is_json or is_introduced) and not _is_reported(introduction):
        text = blank(text, fence.start(), fence.start(1), " ")
        return blank(text, fence.end(1), fence.end(), " ")
    return blank(text, *fence.span())


def _ends_with_marker(text: str) -> bool:
    return any(marker.end() == len(text) for marker in rules.MARKER.finditer(text))


def _is_reported(clause: str) -> bool:
    """True where the clause before a verdict says that it is somebody else's."""
    is_soft = rules.REPORT_SOFT.search(clause) and not rules.OWN.search(clause)
    return bool(rules.REPORT_HARD.search(clause) or is_soft)
