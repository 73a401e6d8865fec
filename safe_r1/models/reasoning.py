"""Splitting an R1 completion into its reasoning and its answer.

Owns the only definition of where reasoning begins and ends: judges, scorers and prompts all use it. The forms
of the tags are in ``thinking``.
"""

import bisect
import re
from collections.abc import Sequence

from safe_r1.models.thinking import NAMED_FORMS, Tag, ThinkingTags, begins_as_thoughts, find_tags

# End-of-turn and other control tokens that a detokenizer left in the text, e.g. <｜end▁of▁sentence｜>,
# <|im_end|>, </s>.
_CONTROL = re.compile(r"<[|｜][^<>|｜\n]{1,40}[|｜]>|</?s>|\[EOS\]|<(?:seed:)?eos>|<end_of_turn>")
# The tokens that end a turn: what follows them is no part of the answer. A call of a tool ends it too.
_END = re.compile(
    r"<[|｜](?:end▁of▁sentence|end_of_sentence|im_end|im_start|endoftext|eot_id|end_of_text|User|eom_id|return"
    r"|tool▁calls▁begin|tool_calls_begin|call)[|｜]>"
    r"|</s>|\[EOS\]|<(?:seed:)?eos>|<end_of_turn>"
)
_TOOL_CALL = re.compile(r"\s*+<[|｜]tool[▁_]calls[▁_]begin[|｜]>")
QUOTES = {"`": "`", '"': '"', "'": "'", "“": "”", "‘": "’", "「": "」", "『": "』", "《": "》"}
"""Opening and closing quotes: a tag between them is a mention, as models explain their own format."""
_FENCE = re.compile(r"`{3,}+([^`\n]*+)$", re.MULTILINE)
_CODE_SPAN = re.compile(r"(?<!`)`(?!`)[^`\n]{1,300}+`(?!`)")
# A pair of tags around the whole answer.
_WRAPPER = re.compile(r"<(answer|output|response|solution|final_answer|final)>", re.IGNORECASE)
_BOX_TOKEN = re.compile(r"<\|(?:begin|end)_of_box\|>")
# The reply to the user that a model gives without thinking although its prompt has opened the reasoning.
_REPLY = re.compile(
    r"(?:(?:很|非常|十分|真的)?(?:抱歉|对不起|不好意思)|我(?:不能|无法|不会|没法)"
    r"|(?:i'?m|i am) (?:very |really |so )?sorry|sorry\b|i (?:can'?t|can ?not|won'?t|am unable)"
    r"|i apologi[sz]e)",
    re.IGNORECASE,
)
_MAX_REPLY_CHARS = 400
_SENTENCE_ENDS = tuple('。.!！?？)）」”"~～')


def split_reasoning(completion: str, own_tags: ThinkingTags | None = None) -> tuple[str, str | None]:
    """Splits a completion into reasoning and answer, both without outer whitespace and control tokens.

    - The reasoning ends at the *last* closing tag that an answer follows, as in DeepSeek's own template
      (``content.split("</think>")[-1]``): a model that mentions the tag, nests it or thinks twice is still
      reasoning until then. Text before and between the blocks counts as reasoning, so that a judge
      sees all of the text. Where nothing follows the last block, the answer is the text before the first.
    - Only tags of one form count, that of the first tag: ``<reason>`` in an answer after ``</think>`` is
      text. Where the first form is never closed, ``</reason>`` may close ``<think>``.
    - A tag directly between quotes or backticks, or inside a block of code, is a mention, not a tag.
    - A new block after the answer that is never closed belongs to the reasoning and leaves the answer as it
      was.
    - The opening tag may be missing (it was part of the prompt); without any tag, all is answer, save a text
      that begins as thoughts do ("好的，用户想…") and breaks off.
    - A pair of tags around the whole answer, such as ``<answer>``, is no part of it.

    Args:
        completion: As the model wrote it.
        own_tags: The model's own tags where they are not of a known form.

    Returns:
        ``(reasoning, answer)``. ``answer`` is None where the completion never came to one: an opening tag was
        never closed (save before a refusal that is whole, which was not thought), or a call of a tool follows
        the reasoning. It is the empty string where the reasoning was closed and nothing follows.
    """
    tags = _own_form(completion, find_tags(completion, own_tags))
    if not tags:
        return _split_untagged(completion)
    if not any(tag.closes for tag in tags):
        thoughts = _without(completion, tags)
        return ("", thoughts) if _is_reply(thoughts) else (thoughts, None)
    tags = _without_mentions(completion, tags)
    ends = [tag.start for tag in tags[1:]] + [len(completion)]
    spans = [(tag.start, tag.end, end) for tag, end in zip(tags, ends, strict=True) if tag.closes]
    # A stray closing tag after the answer ends nothing.
    answered = [span for span in spans if _answer(completion[span[1] : span[2]])]
    before = "" if tags[0].closes else _answer(completion[: tags[0].start])
    if not answered and before and not _TOOL_CALL.match(completion, spans[-1][1]):
        return _without(completion, tags, start=tags[0].start), before
    closing, start, end = (answered or spans)[-1]
    reasoning = _without(completion, [tag for tag in tags if tag.start <= closing], closing)
    unclosed = _without(completion, [tag for tag in tags if tag.start >= end], len(completion), end)
    answer = _unwrapped(_answer(completion[start:end]))
    is_missing = not answer and _TOOL_CALL.match(completion, start)
    return "\n".join(filter(None, (reasoning, unclosed))), None if is_missing else answer


def open_reasoning(prompt: str, own_tags: ThinkingTags | None = None) -> str:
    """The end of a prompt from the reasoning tag that it leaves open; empty without such a tag.

    Args:
        prompt: What a template writes after the last turn, without any text of a user.
        own_tags: The model's own tags where they are not of a known form.
    """
    last = next(reversed(find_tags(prompt, own_tags)), None)
    return "" if last is None or last.closes else prompt[last.start :]


def _split_untagged(completion: str) -> tuple[str, str | None]:
    answer = _answer(completion)
    is_cut = answer and not answer.endswith(_SENTENCE_ENDS)
    return (answer, None) if is_cut and begins_as_thoughts(answer) else ("", answer)


def _is_reply(text: str) -> bool:
    return (
        len(text) <= _MAX_REPLY_CHARS
        and _REPLY.match(text) is not None
        and text.endswith(_SENTENCE_ENDS)
        and not re.search(r"用户|the user", text, re.IGNORECASE)
    )


def _own_form(text: str, tags: Sequence[Tag]) -> list[Tag]:
    """The tags that are no mention and have the form of the first one."""
    unquoted = [tag for tag in tags if not is_quoted(text, tag)]
    if not unquoted:
        return []
    code = _code_spans(text) if "`" in text else ()
    plain = [tag for tag in unquoted if not any(_is_inside(spans, tag.start) for spans in code)]
    # A block of code that the reasoning never closed must not hide its closing tag.
    if any(tag.closes for tag in plain) or not any(tag.closes for tag in unquoted):
        unquoted = plain
    same = [tag for tag in unquoted if tag.form == unquoted[0].form]
    if same and not any(tag.closes for tag in same) and same[0].form in NAMED_FORMS:
        return [tag for tag in unquoted if tag.form in NAMED_FORMS]
    return same


def _code_spans(text: str) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Where blocks of code stand, and code within a line; a block that is never closed is none."""
    blocks: list[tuple[int, int]] = []
    opened: int | None = None
    for fence in _FENCE.finditer(text):
        if opened is None or fence[1].strip():
            opened = fence.start()
        else:
            blocks.append((opened, fence.end()))
            opened = None
    return blocks, [found.span() for found in _CODE_SPAN.finditer(text)]


def _is_inside(spans: Sequence[tuple[int, int]], position: int) -> bool:
    """Whether one of some sorted spans holds a position."""
    place = bisect.bisect_right(spans, position, key=lambda span: span[0]) - 1
    return place >= 0 and position < spans[place][1]


def is_quoted(text: str, tag: Tag) -> bool:
    """True for a tag directly between quotes or backticks: a mention and no tag."""
    before = text[max(tag.start - 1, 0) : tag.start]
    after = text[tag.end : tag.end + 1]
    return bool(after) and QUOTES.get(before) == after


def _without_mentions(text: str, tags: list[Tag]) -> list[Tag]:
    """Drops unclosed opening tags inside a line: a model that starts to reason again begins a new line."""
    first_closing = next(index for index, tag in enumerate(tags) if tag.closes)
    kept = tags[: first_closing + 1]
    for index, tag in enumerate(tags[first_closing + 1 :], first_closing + 1):
        begins_line = not text[kept[-1].end : tag.start].rpartition("\n")[2].strip()
        if tag.closes or begins_line or any(each.closes for each in tags[index + 1 : index + 2]):
            kept.append(tag)
    return kept


def _without(text: str, tags: Sequence[Tag], end: int | None = None, start: int = 0) -> str:
    """The text between start and end, each tag replaced by a line break."""
    parts: list[str] = []
    for tag in tags:
        parts.append(text[start : tag.start])
        start = tag.end
    return _strip("\n".join([*parts, text[start:end]]))


def _answer(text: str) -> str:
    text = _strip(text)
    end = _END.search(text)
    return _strip(text[: end.start()]) if end else text


def _unwrapped(answer: str) -> str:
    """An answer without the pair of tags around all of it; one whose closing tag was cut off as well."""
    answer = _BOX_TOKEN.sub("", answer).strip()
    opening = _WRAPPER.match(answer)
    if opening is None:
        return answer
    closing = re.compile(rf"</{opening[1]}>", re.IGNORECASE).search(answer, opening.end())
    if closing is None:
        return answer[opening.end() :].strip()
    return answer if answer[closing.end() :].strip() else answer[opening.end() : closing.start()].strip()


def _strip(text: str) -> str:
    """Strips whitespace and control tokens from both sides.

    Without a single regex for it, which could backtrack over long runs of whitespace.
    """
    text = text.strip().strip("\ufeff\u200b").strip()
    while (token := _CONTROL.match(text)) and not _TOOL_CALL.match(text):
        text = text[token.end() :].lstrip()
    # A control token is at most 44 characters long, so a longer suffix is not searched.
    while (start := max(text.rfind("<", -48), text.rfind("[", -48))) >= 0 and _CONTROL.fullmatch(text, start):
        text = text[:start].rstrip()
    return text
