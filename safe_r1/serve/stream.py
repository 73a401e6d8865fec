"""Splitting a completion into reasoning and answer while it is being streamed."""

from dataclasses import dataclass, field

_OPEN = "<think>"
_CLOSE = "</think>"


@dataclass
class StreamSplitter:
    """Assigns streamed text to reasoning or answer.

    The reasoning ends at the first closing tag, since later text is not known yet. ``split_reasoning``, which
    evaluations apply to the whole text, ends it at the last closing tag that an answer follows; for a model
    that closes its reasoning once both agree.

    Attributes:
        is_reasoning: The text before the first tag is reasoning (the prompt ended with an opening tag).
    """

    is_reasoning: bool = False
    _buffer: str = field(default="", init=False)
    _has_closed: bool = field(default=False, init=False)
    _at_start: bool = field(default=True, init=False)

    def feed(self, text: str) -> tuple[str, str]:
        """New reasoning and new answer; text that may be the beginning of a tag is held back."""
        self._buffer += text
        return self._take(is_last=False)

    def finish(self) -> tuple[str, str]:
        """The text that was held back."""
        return self._take(is_last=True)

    def _take(self, *, is_last: bool) -> tuple[str, str]:
        parts = ["", ""]
        if not self.is_reasoning and not self._has_closed and self._at_start:
            # An opening tag counts only before any other text.
            start = self._buffer.lstrip()
            if start.startswith(_OPEN):
                self.is_reasoning = True
                self._buffer = start[len(_OPEN) :]
            elif _OPEN.startswith(start) and not is_last:
                return "", ""
        if self.is_reasoning:
            before, closing, after = self._buffer.partition(_CLOSE)
            num_held = 0 if closing or is_last else _overlap(before, _CLOSE)
            end = len(before) - num_held
            self._put(parts, before[:end])
            self._buffer = after if closing else before[end:]
            if not closing:
                return parts[0], parts[1]
            self.is_reasoning = False
            self._has_closed = True
            self._at_start = True
        self._put(parts, self._buffer)
        self._buffer = ""
        return parts[0], parts[1]

    def _put(self, parts: list[str], text: str) -> None:
        # Whitespace around the tags belongs to neither part.
        text = text.lstrip() if self._at_start else text
        if text:
            self._at_start = False
            parts[0 if self.is_reasoning else 1] += text


def _overlap(text: str, tag: str) -> int:
    """Length of the longest suffix of ``text`` that is a proper prefix of ``tag``."""
    longest = min(len(tag) - 1, len(text))
    return next((size for size in range(longest, 0, -1) if tag.startswith(text[-size:])), 0)
