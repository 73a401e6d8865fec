"""Splitting a completion into reasoning and answer while it is being written."""

from dataclasses import dataclass, field

_OPEN, _CLOSE = "<think>", "</think>"


@dataclass
class StreamSplitter:
    """Sorts pieces of text into reasoning and answer as they come.

    The reasoning ends at the first closing tag: what comes later is not known yet. ``split_reasoning`` over
    the whole text, which evaluations use, ends it at the last one that an answer follows; for a model that
    closes once they agree.

    Attributes:
        is_reasoning: The text before the first tag is reasoning (the prompt has opened it).
    """

    is_reasoning: bool = False
    _held: str = field(default="", init=False)
    _has_closed: bool = field(default=False, init=False)
    _at_start: bool = field(default=True, init=False)

    def feed(self, text: str) -> tuple[str, str]:
        """New reasoning and new answer; what may be the beginning of a tag is held back."""
        self._held += text
        return self._take(is_last=False)

    def finish(self) -> tuple[str, str]:
        """What was held back."""
        return self._take(is_last=True)

    def _take(self, *, is_last: bool) -> tuple[str, str]:
        parts = ["", ""]
        if not self.is_reasoning and not self._has_closed and self._at_start:
            # A block may open where nothing was said before it.
            start = self._held.lstrip()
            if start.startswith(_OPEN):
                self.is_reasoning, self._held = True, start[len(_OPEN) :]
            elif _OPEN.startswith(start) and not is_last:
                return "", ""
        if self.is_reasoning:
            before, closing, after = self._held.partition(_CLOSE)
            keep = 0 if closing or is_last else _overlap(before, _CLOSE)
            self._put(parts, before[: len(before) - keep])
            self._held = after if closing else before[len(before) - keep :]
            if not closing:
                return parts[0], parts[1]
            self.is_reasoning, self._has_closed, self._at_start = False, True, True
        self._put(parts, self._held)
        self._held = ""
        return parts[0], parts[1]

    def _put(self, parts: list[str], text: str) -> None:
        # White space around the tags belongs to neither.
        text = text.lstrip() if self._at_start else text
        if text:
            self._at_start = False
            parts[0 if self.is_reasoning else 1] += text


def _overlap(text: str, tag: str) -> int:
    """Length of the longest end of ``text`` with which ``tag`` begins."""
    return next(
        (size for size in range(min(len(tag) - 1, len(text)), 0, -1) if tag.startswith(text[-size:])), 0
    )
