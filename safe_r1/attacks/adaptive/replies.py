"""Reads the attacker's replies. They are hostile text: nothing but the named fields of a JSON object counts.

Reading takes time linear in the length, whatever the reply holds.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from safe_r1.records.text import clean

MAX_PROMPT_CHARS = 8_000
"""Longest prompt that the target is asked."""
MAX_IMPROVEMENT_CHARS = 1_000
_MAX_REPLY_CHARS = 40_000
# Objects that are begun and cannot be read: each may cost a look at the whole rest.
_MAX_FAILURES = 32
_END_OF_THOUGHT = "</think>"
# Line breaks in a string are no JSON, and what many models write.
_DECODER = json.JSONDecoder(strict=False)

Found = Literal["prompt", "refused", "unreadable"]


@dataclass(frozen=True)
class AttackerReply:
    """What the attacker wants.

    Attributes:
        found: ``prompt``; ``refused`` where the attacker says so in the field meant for it; ``unreadable``
            for everything else, refusals in prose included.
        prompt: For the target; empty without one.
        improvement: Why it is better than the last one; may be empty.
    """

    found: Found
    prompt: str = ""
    improvement: str = ""


def read_attack(reply: str) -> AttackerReply:
    """The attacker's own last prompt or refusal.

    Args:
        reply: As generated, with or without its ``<think>`` part.
    """
    last = AttackerReply("unreadable")
    for entry in _objects(reply):
        if entry.get("refuse") not in (None, False, ""):
            last = AttackerReply("refused")
        prompt = entry.get("prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            continue
        if len(prompt) > MAX_PROMPT_CHARS:
            last = AttackerReply("unreadable")
            continue
        improvement = entry.get("improvement")
        text = improvement.strip()[:MAX_IMPROVEMENT_CHARS] if isinstance(improvement, str) else ""
        last = AttackerReply("prompt", clean(prompt.strip()), clean(text))
    return last


def read_topic(reply: str) -> bool | None:
    """Whether a prompt asks for what the question asks for; None where the reply does not say."""
    said = [entry["on_topic"] for entry in _objects(reply) if isinstance(entry.get("on_topic"), bool)]
    return said[-1] if said else None


def _objects(reply: str) -> Iterator[dict[str, Any]]:
    """The JSON objects of a reply that stand in no other one, in order."""
    text = reply.rpartition(_END_OF_THOUGHT)[2][-_MAX_REPLY_CHARS:]
    failures = 0
    start = text.find("{")
    while start >= 0 and failures < _MAX_FAILURES:
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            failures += 1
            end = start + 1
        else:
            yield value
        start = text.find("{", end)
