"""Splitting a completion into reasoning and answer while it is being streamed."""

import functools
from dataclasses import dataclass, field

import regex

from safe_r1.models.reasoning import QUOTES, is_quoted, split_reasoning
from safe_r1.models.thinking import FORMS, NAMED_FORMS, Tag, ThinkingTags, find_tags

_OWN = -1
"""Form of the model's own tags."""


@dataclass
class StreamSplitter:
    """Assigns streamed text to reasoning or answer, by the tags that ``split_reasoning`` knows.

    Text goes through character by character, so that the split does not depend on how it comes in chunks;
    what may still become a tag is held back. The reasoning ends at the first closing tag, since later text is
    not known yet. ``split_reasoning``, which evaluation jobs apply to the whole text, ends it at the last
    closing tag that an answer follows; for a model that closes its reasoning once both agree. The prompt's
    reasoning prefix is fed first, as it belongs to the completion.

    Attributes:
        own_tags: The model's own tags where they are of no known form.
    """

    own_tags: ThinkingTags | None = None
    # The form whose closing tag ends the reasoning; None outside of reasoning.
    _form: int | None = field(default=None, init=False)
    # Tags of thoughts open before any other text, and only once.
    _may_open: bool = field(default=True, init=False)
    _at_start: bool = field(default=True, init=False)
    _held: str = field(default="", init=False)
    _before: str = field(default="", init=False)

    def feed(self, text: str) -> tuple[str, str]:
        """New reasoning and new answer; text that may be the beginning of a tag is held back."""
        parts = ["", ""]
        for char in text:
            self._held += char
            self._advance(parts, is_last=False)
        return parts[0], parts[1]

    def finish(self) -> tuple[str, str]:
        """The text that was held back."""
        parts = ["", ""]
        self._advance(parts, is_last=True)
        return parts[0], parts[1]

    def _advance(self, parts: list[str], *, is_last: bool) -> None:
        """Release what cannot belong to a tag, and act on tags that are whole."""
        while self._held:
            tag = self._find(is_last)
            if tag is None:
                return
            if not tag.end:
                self._release(parts)
            elif tag.closes:
                self._form = None
                self._skip(tag)
            else:
                self._form = tag.form
                self._skip(tag)

    def _find(self, is_last: bool) -> Tag | None:
        """The tag with which the held text begins; an empty one where there is none, None where more text
        is needed to tell.
        """
        nothing = Tag(0, 0, 0, closes=False)
        pattern = self._pattern()
        if pattern is None:
            return nothing
        # One character of context: some tags stand at the beginning of a line, or of the text.
        text = self._before + self._held
        start = len(self._before)
        found = pattern.match(text, start)
        if found is None:
            may_come = not is_last and pattern.match(text, start, partial=True)
            return None if may_come else nothing
        name = str(found.lastgroup)
        form = _OWN if name[1:] == "own" else int(name[1:])
        tag = Tag(found.start(), found.end(), form, closes=name[0] == "c")
        if found.end() == len(text) and not is_last and self._before in QUOTES:
            # The character behind a tag that a quote precedes tells whether it is a mention.
            return None
        return nothing if is_quoted(text, tag) else tag

    def _pattern(self) -> "regex.Pattern[str] | None":
        """The tags that count now; None where all further text is answer."""
        if self._form is not None:
            return _closing(self._form, self.own_tags)
        return _opening(self.own_tags) if self._may_open and self._at_start else None

    def _release(self, parts: list[str]) -> None:
        """Give the first held character to the part that it belongs to."""
        char = self._held[0]
        self._held = self._held[1:]
        # Whitespace around the tags belongs to neither part.
        if self._at_start and char.isspace():
            return
        self._at_start = False
        self._before = char
        parts[1 if self._form is None else 0] += char

    def _skip(self, tag: Tag) -> None:
        self._held = self._held[tag.end - len(self._before) :]
        self._before = ""
        self._at_start = True
        self._may_open = False


def split_shown(
    completion: str, own_tags: ThinkingTags | None = None, *, is_whole: bool = True
) -> tuple[str, str | None]:
    """``split_reasoning``, save that what a stream shows as the answer is never reasoning.

    A model that goes on with tags behind its answer would otherwise be judged by less than users have read.
    Whole answers and verdicts of the service are split by this.

    Args:
        completion: The completion, after the reasoning prefix of the prompt, if there is one.
        own_tags: The model's own tags where they are of no known form.
        is_whole: The prefix is in it, as it is of what was generated here; a text of others may lack its
            opening tag.
    """
    tags = find_tags(completion, own_tags)
    if not tags:
        return split_reasoning(completion, own_tags)
    num_before = next((number for number, tag in enumerate(tags, 1) if tag.closes), len(tags))
    is_at_start = not completion[: tags[0].start].strip()
    lacks_opening = tags[0].closes and not is_at_start and not is_whole
    if num_before == len(tags) and (is_at_start or lacks_opening):
        # No tag but those around the thoughts.
        return split_reasoning(completion, own_tags)
    if lacks_opening:
        head, rest = completion[: tags[0].start], completion[tags[0].end :]
        return head.strip(), rest.strip()
    splitter = StreamSplitter(own_tags)
    parts = (splitter.feed(completion), splitter.finish())
    reasoning, answer = ("".join(texts).strip() for texts in zip(*parts, strict=True))
    return (reasoning, answer) if answer else split_reasoning(completion, own_tags)


@functools.lru_cache(maxsize=16)
def _opening(own: ThinkingTags | None) -> "regex.Pattern[str]":
    """Tags that thoughts begin with, or that end thoughts whose opening tag the prompt has."""
    forms = [
        f"(?P<o{number}>{opens})|(?P<c{number}>{closes})" for number, (opens, closes) in enumerate(FORMS)
    ]
    if own:
        forms.insert(0, f"(?P<oown>(?-i:{regex.escape(own.open)}))|(?P<cown>(?-i:{regex.escape(own.close)}))")
    return _compile("|".join(forms))


@functools.lru_cache(maxsize=64)
def _closing(form: int, own: ThinkingTags | None) -> "regex.Pattern[str]":
    """Tags that end thoughts of a form; models mix those with names."""
    if form == _OWN and own:
        return _compile(f"(?P<cown>(?-i:{regex.escape(own.close)}))")
    forms = NAMED_FORMS if form in NAMED_FORMS else {form}
    return _compile("|".join(f"(?P<c{number}>{FORMS[number][1]})" for number in sorted(forms)))


def _compile(pattern: str) -> "regex.Pattern[str]":
    # Unlike `re` it can tell whether more text could make a match.
    return regex.compile(pattern, regex.IGNORECASE | regex.MULTILINE)
