"""Turns of a dialogue as training files have them: other names of roles, parts, tools, turns in a row.

What can be repaired without losing a word is repaired, and the repair is named; anything else is a reason why
the record cannot be used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from safe_r1.schema import Message

# Names of roles in OpenAI's, ShareGPT's and other chat formats.
_ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "question", "用户"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "model", "ai", "chatgpt", "answer", "助手"), "assistant"),
    **dict.fromkeys(("system", "developer", "系统"), "system"),
    **dict.fromkeys(("tool", "function", "observation", "ipython", "function_call", "tool_call"), "tool"),
}
_REASONING = ("reasoning_content", "reasoning", "thinking")
_CALLS = ("tool_calls", "function_call")
# A turn's own say on whether it is learned: OpenAI's `weight` of 0 or 1, and `train` of other trainers.
_LEARNED = ("weight", "train")
_FLAGS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
_THINK_END = "</think>"


class Unusable(ValueError):
    """A record that cannot become a conversation."""

    def __init__(self, reason: str, detail: str) -> None:
        """Args:
        reason: A short snake_case identifier.
        detail: What was found.
        """
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class _Turn:
    """A turn, and whether it is to be learned; None where it does not say."""

    role: str
    content: str
    learned: bool | None = None


@dataclass(frozen=True)
class Dialogue:
    """The turns of a dialogue: a system turn or none, then user and assistant in turn.

    Training learns the last answer, and of the others those with a thought in ``<think>`` tags. Where turns
    say themselves which are learned, they are brought into that form.

    Attributes:
        messages: The turns.
        repairs: What was repaired.
    """

    messages: list[Message]
    repairs: tuple[str, ...] = ()


def read_dialogue(turns: object, role: str = "role", content: str = "content", system: str = "") -> Dialogue:
    """Read the turns of a record.

    Args:
        turns: A list of objects.
        role: Field of a turn that holds its role.
        content: Field that holds its text, or a list of parts.
        system: The text of a system turn that stands beside the list; empty for none.

    Raises:
        Unusable: It is no dialogue of texts, or its roles cannot be put in order without losing words.
    """
    if not isinstance(turns, list):
        raise Unusable("malformed", f"expected a list of messages, got {type(turns).__name__}")
    repairs: list[str] = []
    found = [_Turn("system", system)] if system else []
    for turn in turns:
        if not isinstance(turn, Mapping):
            raise Unusable("malformed", f"expected an object as message, got {type(turn).__name__}")
        found.append(_read_turn(turn, role, content, repairs))
    ordered = _with_learned_turns(_in_order(found, repairs), repairs)
    messages = [Message(role=turn.role, content=turn.content) for turn in ordered]
    return Dialogue(messages, tuple(dict.fromkeys(repairs)))


def _read_turn(turn: Mapping[str, object], role: str, content: str, repairs: list[str]) -> _Turn:
    missing = next((name for name in (role, content) if name not in turn), None)
    is_call = any(turn.get(name) for name in _CALLS)
    if missing and not (is_call and missing == content):
        raise Unusable("malformed", f"a message has no {missing!r}, got {', '.join(map(str, turn))[:200]}")
    name = str(turn[role]).strip().lower()
    found = _ROLES.get(name)
    if found is None:
        raise Unusable("unknown_role", f"role {name[:40]!r}; expected user, assistant or system")
    if found == "tool" or is_call:
        raise Unusable("tool_turns", "calls of tools and their results cannot be learned yet")
    text = _text_of(turn[content], repairs)
    thoughts = next((turn[field] for field in _REASONING if isinstance(turn.get(field), str)), "")
    if found == "assistant" and isinstance(thoughts, str) and thoughts.strip() and _THINK_END not in text:
        text = f"<think>\n{thoughts.strip()}\n</think>\n\n{text}"
    marks = [_FLAGS[mark] for field in _LEARNED if (mark := str(turn.get(field)).strip().lower()) in _FLAGS]
    return _Turn(found, text, all(marks) if marks and found == "assistant" else None)


def _text_of(content: object, repairs: list[str]) -> str:
    """The text of a turn, given as such or in parts."""
    if isinstance(content, str):
        return content.strip()
    if not isinstance(content, list):
        raise Unusable("malformed", f"expected a text, got {type(content).__name__}")
    texts: list[str] = []
    for part in content:
        text = part.get("text") if isinstance(part, Mapping) else part
        if not isinstance(text, str):
            kind = str(part.get("type", "?")) if isinstance(part, Mapping) else type(part).__name__
            raise Unusable("not_text", f"a message has a part of type {kind[:40]!r}")
        texts.append(text)
    repairs.append("joined_parts")
    return "".join(texts).strip()


def _in_order(turns: Sequence[_Turn], repairs: list[str]) -> list[_Turn]:
    """The turns with those of one role in a row joined, as chat templates refuse them."""
    ordered: list[_Turn] = []
    for turn in turns:
        before = ordered[-1] if ordered else None
        if before is None or before.role != turn.role:
            ordered.append(turn)
            continue
        if _THINK_END in before.content or _THINK_END in turn.content:
            raise Unusable("two_answers", "two answers in a row, with reasoning; expected one")
        if (before.learned is False) != (turn.learned is False):
            raise Unusable(
                "half_learned", "two answers in a row, of which one is to be learned; expected one"
            )
        repairs.append(f"joined_{turn.role}_turns")
        joined = "\n\n".join(filter(None, (before.content, turn.content)))
        ordered[-1] = replace(turn, content=joined)
    roles = [turn.role for turn in ordered]
    if "system" in roles[1:]:
        raise Unusable("system_inside", "a system turn inside the dialogue; expected one at its beginning")
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if not spoken:
        raise Unusable("malformed", "no turn of a user")
    if spoken[0] == "assistant":
        raise Unusable("assistant_first", "the dialogue begins with the assistant")
    return ordered


def _with_learned_turns(turns: Sequence[_Turn], repairs: list[str]) -> list[_Turn]:
    """The turns so that exactly those are learned which say so, or which say nothing where others do."""
    if all(turn.learned is None for turn in turns):
        return list(turns)
    repairs.append("learned_as_marked")
    wanted = [
        place for place, turn in enumerate(turns) if turn.role == "assistant" and turn.learned is not False
    ]
    if not wanted and turns[-1].role == "assistant":
        raise Unusable("nothing_to_learn", "no turn of the assistant is to be learned")
    if turns[-1].role == "assistant" and wanted[-1] < len(turns) - 1:
        # What follows the last answer to learn is context of nothing.
        turns = turns[: wanted[-1] + 1]
        repairs.append("cut_after_last_learned_turn")
    return [
        replace(
            turn, content=_with_thought(turn.content) if place in wanted else _without_thought(turn.content)
        )
        if turn.role == "assistant" and place < len(turns) - 1
        else turn
        for place, turn in enumerate(turns)
    ]


def _with_thought(content: str) -> str:
    return content if _THINK_END in content else f"<think>\n\n</think>\n\n{content}"


def _without_thought(content: str) -> str:
    return content.rpartition(_THINK_END)[2].lstrip() if _THINK_END in content else content
