"""Splitting an R1 completion into its reasoning and its answer.

Owns the only definition of where reasoning begins and ends: judges, scorers and prompts all use it.
"""

import re

# A reasoning tag as models write it: any of its names and brackets, a slash on either side, attributes.
# Bounded repeats keep the search linear.
_TAG = re.compile(
    r"[<＜◁]\s{0,3}([/\\]?)\s{0,3}(?:think|thinking|thoughts?|reason|reasoning)(?:\s[^<>＜＞\n]{0,40})?[>＞▷]",
    re.IGNORECASE,
)
# End-of-turn and other control tokens that a detokenizer left in the text, e.g. <｜end▁of▁sentence｜>,
# <|im_end|>, </s>.
_CONTROL = re.compile(r"<[|｜][^<>|｜\n]{1,40}[|｜]>|</?s>|\[EOS\]")
# The tokens that end a turn: what follows them is no part of the answer.
_END = re.compile(
    r"<[|｜](?:end▁of▁sentence|end_of_sentence|im_end|im_start|endoftext|eot_id|end_of_text|User|eom_id)[|｜]>"
    r"|</s>|\[EOS\]"
)
# A tag between these is a mention: models explain their own format.
_QUOTES = {"`": "`", '"': '"', "'": "'", "“": "”", "‘": "’", "「": "」", "『": "』", "《": "》"}


def split_reasoning(completion: str) -> tuple[str, str | None]:
    """Splits a completion into reasoning and answer, both without outer whitespace and control tokens.

    - The reasoning ends at the *last* closing tag that an answer follows, as in DeepSeek's own template
      (``content.split("</think>")[-1]``): a model that mentions the tag, nests it or thinks twice is still
      reasoning until then. Text before and between the blocks counts as reasoning, so that a judge
      sees all of the text.
    - A tag directly between quotes or backticks is a mention, not a tag.
    - A new block after the answer that is never closed belongs to the reasoning and leaves the answer as it
      was.
    - The opening tag may be missing (it was part of the prompt); without any tag, all is answer.

    Returns:
        ``(reasoning, answer)``. ``answer`` is None where an opening tag was never closed: the completion was
        truncated. It is the empty string where the reasoning was closed and nothing follows.
    """
    tags = [match for match in _TAG.finditer(completion) if not _is_quoted(completion, match)]
    if not any(map(_closes, tags)):
        return (_without(completion, tags), None) if tags else ("", _answer(completion))
    tags = _without_mentions(completion, tags)
    ends = [tag.start() for tag in tags[1:]] + [len(completion)]
    spans = [(tag.start(), tag.end(), end) for tag, end in zip(tags, ends, strict=True) if _closes(tag)]
    # A stray closing tag after the answer ends nothing.
    closing, start, end = next(
        (span for span in reversed(spans) if _answer(completion[span[1] : span[2]])), spans[-1]
    )
    reasoning = _without(completion, [tag for tag in tags if tag.start() <= closing], closing)
    unclosed = _without(completion, [tag for tag in tags if tag.start() >= end], len(completion), end)
    return "\n".join(filter(None, (reasoning, unclosed))), _answer(completion[start:end])


def open_reasoning(prompt: str) -> str:
    """The end of a prompt from the reasoning tag that it leaves open; empty without such a tag.

    Args:
        prompt: What a template writes after the last turn, without any text of a user.
    """
    last = next(reversed(list(_TAG.finditer(prompt))), None)
    return "" if last is None or _closes(last) else prompt[last.start() :]


def _closes(tag: re.Match[str]) -> bool:
    return bool(tag.group(1))


def _is_quoted(text: str, tag: re.Match[str]) -> bool:
    before = text[max(tag.start() - 1, 0) : tag.start()]
    after = text[tag.end() : tag.end() + 1]
    return bool(after) and _QUOTES.get(before) == after


def _without_mentions(text: str, tags: list[re.Match[str]]) -> list[re.Match[str]]:
    """Drops unclosed opening tags inside a line: a model that starts to reason again begins a new line."""
    first_closing = next(index for index, tag in enumerate(tags) if _closes(tag))
    kept = tags[: first_closing + 1]
    for index, tag in enumerate(tags[first_closing + 1 :], first_closing + 1):
        begins_line = not text[kept[-1].end() : tag.start()].rpartition("\n")[2].strip()
        if _closes(tag) or begins_line or any(map(_closes, tags[index + 1 : index + 2])):
            kept.append(tag)
    return kept


def _without(text: str, tags: list[re.Match[str]], end: int | None = None, start: int = 0) -> str:
    """The text between start and end, each tag replaced by a line break."""
    parts: list[str] = []
    for tag in tags:
        parts.append(text[start : tag.start()])
        start = tag.end()
    return _strip("\n".join([*parts, text[start:end]]))


def _answer(text: str) -> str:
    text = _strip(text)
    end = _END.search(text)
    return _strip(text[: end.start()]) if end else text


def _strip(text: str) -> str:
    """Strips whitespace and control tokens from both sides.

    Without a single regex for it, which could backtrack over long runs of whitespace.
    """
    text = text.strip()
    while token := _CONTROL.match(text):
        text = text[token.end() :].lstrip()
    # A control token is at most 44 characters long, so a longer suffix is not searched.
    while (start := max(text.rfind("<", -48), text.rfind("[", -48))) >= 0 and _CONTROL.fullmatch(text, start):
        text = text[:start].rstrip()
    return text
