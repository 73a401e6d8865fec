"""Combinations of attacks, such as ``pinyin+role``: one changes the question, the next what it became."""

from collections.abc import Sequence

from safe_r1.attacks.base import Attack
from safe_r1.errors import ConfigError

SIGN = "+"
_STAGES = {"writing": 0, "encoding": 1, "framing": 2, "reasoning": 2}
# What a prompt has once: field of an attack and its name in messages.
_SLOTS = {"prefill": "answer prefix", "thought": "thought", "system": "system turn"}


def combine(parts: Sequence[Attack]) -> Attack:
    """One attack of several, in their order: writing, encoding, framing or reasoning.

    Raises:
        ConfigError: They make no sense together; the message says why.
    """
    if len(parts) == 1:
        return parts[0]
    name = SIGN.join(part.name for part in parts)
    if problem := _problem(parts):
        raise ConfigError(f"attack {name}: {problem}")
    changes = tuple(change for part in parts for change in part.changes)
    *_, last = parts
    first_prefill, first_thought, first_system = (
        next((value for part in parts if (value := getattr(part, slot)) is not None), None) for slot in _SLOTS
    )
    return Attack(
        name=name,
        family=last.family,
        source="; ".join(dict.fromkeys(part.source for part in parts)),
        summary=" ".join(part.summary for part in parts),
        changes=changes,
        system=first_system,
        history=next((part.history for part in parts if part.history), ()),
        turns=next((part.turns for part in parts if part.turns), None),
        prefill=first_prefill,
        thought=first_thought,
        # A change that loses something may lose what an earlier one needs to be taken back.
        is_recoverable=all(part.is_recoverable for part in parts)
        and all(change.is_exact for part in parts[1:] for change in part.changes),
    )


def _problem(parts: Sequence[Attack]) -> str:
    """Why these attacks cannot be combined; empty where they can."""
    names = [part.name for part in parts]
    if "plain" in names:
        return "plain is the question as it is; leave it out"
    if len(set(names)) < len(names):
        return "an attack is named twice"
    stages = [_STAGES[part.family] for part in parts]
    if stages != sorted(stages):
        ordered = sorted(parts, key=lambda part: _STAGES[part.family])
        return f"write {SIGN.join(part.name for part in ordered)}: writing, then encoding, then framing"
    if stages.count(_STAGES["encoding"]) > 1:
        return "two encodings; keep one"
    for slot, title in _SLOTS.items():
        if len(found := [part.name for part in parts if getattr(part, slot) is not None]) > 1:
            return f"{' and '.join(found)} both set the {title}; keep one"
    if len(found := [part.name for part in parts if "turns" in part.needs]) > 1:
        return f"{' and '.join(found)} both add turns; keep one"
    return _change_problem(parts)


def _change_problem(parts: Sequence[Attack]) -> str:
    changed_by = ""
    for part in parts:
        if part.family == "writing" and changed_by and part.name.startswith("translation"):
            return f"a translation is looked up by the question; put {part.name} first"
        if changed_by and any(change.needs_chinese for change in part.changes):
            return f"{changed_by} leaves no Chinese characters for {part.name}; keep one"
        if not all(change.leaves_chinese for change in part.changes):
            changed_by = part.name
    return ""
