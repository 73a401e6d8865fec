"""The rows of the corpus between its stages, and a raw record turned into one."""

import re
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa

from safe_r1.corpus.recipe import Mapping, Source
from safe_r1.corpus.sources import Record
from safe_r1.models.reasoning import split_reasoning
from safe_r1.policies import classify
from safe_r1.schema import MESSAGES_TYPE, Message
from safe_r1.taxonomy import CATEGORIES, area_of, find_category

_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
_CALCULATOR = re.compile(r"<<[^<>]*>>")
_RESULT = re.compile(r"\n?####\s*(.+?)\s*$")
_OPENING = re.compile(r"^(?:so|then|therefore|thus|hence|finally|now|and)\b,?\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Drop:
    """Why a row is not in the corpus.

    Attributes:
        stage: ``read``, ``filter``, ``decontaminate``, ``deduplicate``, ``synthesize`` or ``mix``.
        reason: A short snake_case word.
        detail: What exactly, e.g. the file and line, the match, or the row that was kept instead.
    """

    stage: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Row:
    """One conversation on its way into the corpus.

    Attributes:
        row_id: ``SOURCE/INDEX``; stable as long as the source's files are.
        source_id: The source's own id of the record.
        messages: The dialogue up to and including the last user turn.
        reasoning: What the assistant thinks; None where the record has no response, or one without a closed
            reasoning.
        answer: What it says; None where the record has no response.
        final: The known result, where there is one.
        area: Key of the risk area; None for reasoning.
        category: Key of the risk category; None for reasoning.
        teacher: Who wrote the response where it was not in the source.
        degree: Refusal degree of the answer as the judge sees it; None where it was not judged.
        drop: Why the row is out; None while it is in.
    """

    row_id: str
    source: str
    source_id: str
    licence: str
    kind: str
    language: str
    area: str | None
    category: str | None
    messages: list[Message] = field(default_factory=list)
    reasoning: str | None = None
    answer: str | None = None
    final: str | None = None
    teacher: str | None = None
    degree: int | None = None
    drop: Drop | None = None

    @property
    def has_response(self) -> bool:
        """False for a prompt that waits for the teacher."""
        return self.answer is not None

    @property
    def prompt(self) -> str:
        """All turns of the dialogue as one text."""
        return "\n".join(turn["content"] for turn in self.messages)

    def dropped(self, drop: Drop) -> "Row":
        """The same row, out of the corpus."""
        return replace(self, drop=drop)

    def to_table_row(self) -> dict[str, Any]:
        """The row with its drop in three columns; a dropped row leaves its texts behind."""
        flat = asdict(self)
        drop = flat.pop("drop") or {}
        if drop:
            flat |= {"messages": [], "reasoning": None, "answer": None, "final": None}
        return flat | {f"drop_{name}": drop.get(name) for name in ("stage", "reason", "detail")}

    @classmethod
    def from_table_row(cls, flat: dict[str, Any]) -> "Row":
        """Inverse of ``to_table_row``; further columns are ignored."""
        fields = {name: flat[name] for name in cls.__dataclass_fields__ if name != "drop"}
        drop = flat["drop_stage"] and Drop(flat["drop_stage"], flat["drop_reason"], flat["drop_detail"])
        return cls(**fields, drop=drop or None)


ROW_SCHEMA = pa.schema(
    [
        *(
            pa.field(name, pa.string(), False)
            for name in ("row_id", "source", "source_id", "licence", "kind", "language")
        ),
        ("area", pa.string()),
        ("category", pa.string()),
        ("messages", MESSAGES_TYPE),
        *((name, pa.string()) for name in ("reasoning", "answer", "final", "teacher")),
        ("degree", pa.int8()),
        *((f"drop_{name}", pa.string()) for name in ("stage", "reason", "detail")),
    ]
)


def normalise(record: Record, source: Source) -> Row:
    """A raw record as a row; a record that cannot be one is a row with a drop."""
    index = str(record.index)
    fixed = {
        "licence": source.licence,
        "kind": source.kind,
        "language": source.language,
        "area": None,
        "category": None,
    }
    row = Row(f"{source.name}/{index}", source.name, index, **fixed)

    def malformed(fault: str) -> Row:
        return row.dropped(Drop("read", "malformed", f"{record.where}: {fault}"))

    if record.value is None:
        return malformed(record.error)
    mapping, value = source.mapping, record.value
    missing = [name for name in mapping.fields if _get(value, name) is None]
    if missing:
        return malformed(f"no field {missing[0]!r}, got {', '.join(map(str, value))[:200]}")
    try:
        messages, reasoning, answer = _conversation(value, mapping)
    except (TypeError, KeyError, AttributeError) as error:
        return malformed(f"{type(error).__name__}: {error}")
    if not messages or messages[-1]["role"] != "user" or not _alternates(messages):
        roles = ", ".join(turn["role"] for turn in messages)
        return malformed(f"turns {roles}; expected them to alternate, user last")
    final = str(_get(value, mapping.final)) if mapping.final else None
    if mapping.solution == "gsm8k":
        reasoning, answer, final = _read_gsm8k(answer or "")
    category = _category(value, source, messages)
    row = replace(
        row,
        source_id=str(_get(value, mapping.id)) if mapping.id else row.source_id,
        category=category,
        area=area_of(category) if category else None,
        messages=messages,
        reasoning=reasoning,
        answer=answer,
        final=final,
    )
    if category is None and source.kind != "reasoning":
        return row.dropped(Drop("read", "no_category", f"{record.where}: none of the 31 categories fits"))
    return row


def _get(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _conversation(value: dict[str, Any], mapping: Mapping) -> tuple[list[Message], str | None, str | None]:
    """The dialogue up to the last user turn, the reasoning and the answer."""
    if mapping.prompt:
        messages = [Message(role="user", content=_text(_get(value, mapping.prompt)))]
        whole = _text(_get(value, mapping.response)) if mapping.response else None
    else:
        turns = [
            (str(turn[mapping.role]), turn[mapping.content]) for turn in _get(value, str(mapping.messages))
        ]
        messages = [Message(role=_ROLES.get(role, role), content=_text(text)) for role, text in turns]
        whole = messages.pop()["content"] if messages and messages[-1]["role"] == "assistant" else None
        whole = _text(_get(value, mapping.response)) if mapping.response else whole
    if whole is not None:
        reasoning, answer = split_reasoning(whole)
        # Without a closed reasoning there is no answer; the filters say so, and the text is kept out of both.
        return messages, reasoning if answer is not None else None, answer or ""
    reasoning = _text(_get(value, mapping.reasoning)) if mapping.reasoning else None
    answer = _text(_get(value, mapping.answer)) if mapping.answer else None
    return messages, reasoning, answer


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {type(value).__name__}")
    return value.strip()


def _alternates(messages: list[Message]) -> bool:
    roles = [turn["role"] for turn in messages]
    roles = roles[1:] if roles[0] == "system" else roles
    return all(role == ("user", "assistant")[index % 2] for index, role in enumerate(roles))


def _read_gsm8k(solution: str) -> tuple[str, str, str | None]:
    """Reasoning, answer and result of a GSM8K solution: steps with calculator notes, then ``#### result``."""
    steps = _CALCULATOR.sub("", solution)
    result = _RESULT.search(steps)
    if result is None:
        return steps, "", None
    steps = steps[: result.start()].strip()
    final = result[1].replace(",", "")
    last = _OPENING.sub("", steps.rpartition("\n")[2])
    # A last step that does not come to the result is no summary of it.
    summary = f"{last[:1].upper()}{last[1:]}\n\n" if final in last.replace(",", "") else ""
    return steps, f"{summary}The answer is $\\boxed{{{final}}}$.", final


def _category(value: dict[str, Any], source: Source, messages: list[Message]) -> str | None:
    """The row's category: its own label, else the source's, else by the signs of the policy cards."""
    if source.kind == "reasoning":
        return None
    if source.mapping.category:
        label = _get(value, source.mapping.category)
        labels = [str(item) for item in label] if isinstance(label, list) else [str(label)]
        order = list(source.categories)
        # Of several labels the one that the recipe names first: it puts the specific ones before the general.
        for name in sorted(labels, key=lambda name: order.index(name) if name in order else len(order)):
            known = source.categories.get(name) or (find_category(name) and name)
            if known:
                found = find_category(known)
                return found.key if found else None
    if source.category:
        return source.category
    found = classify(messages[-1]["content"]) if source.classify else None
    return found if found in CATEGORIES else None
