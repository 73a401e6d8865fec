"""Rows of the corpus between its stages, and the conversion of raw records to rows."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypedDict

import pyarrow as pa

from safe_r1.corpus.dialogue import Dialogue, Unusable, read_dialogue
from safe_r1.corpus.forms import recognise
from safe_r1.corpus.source import NO_CATEGORY, FieldMapping, Source
from safe_r1.language import detect_language
from safe_r1.models.reasoning import split_reasoning
from safe_r1.policies import classify
from safe_r1.records.sources import RawRecord
from safe_r1.schema import MESSAGES_TYPE, Message
from safe_r1.taxonomy import CATEGORIES, area_of, find_category

TableRow = dict[str, Any]
"""One row of a Parquet file, column name to value."""

_PAIR = ("user", "assistant")
# GSM8K annotates each computation for a calculator, <<48/2=24>>, and ends with "#### RESULT".
_CALCULATOR_NOTE = re.compile(r"<<[^<>]*>>")
_GSM8K_RESULT = re.compile(r"\n?####\s{0,20}+(.{1,1000})\Z")
# A connective that refers to an earlier step, which the answer does not repeat.
_CONNECTIVE = re.compile(r"^(?:so|then|therefore|thus|hence|finally|now|and)\b,?\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Drop:
    """Reason why a row is not in the corpus.

    Attributes:
        stage: ``read``, ``filter``, ``decontaminate``, ``deduplicate``, ``synthesize`` or ``mix``.
        reason: A short snake_case identifier.
        detail: File and line, the matching question, or the id of the row that was kept instead.
    """

    stage: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class CorpusRow:
    """One conversation on its way into the corpus.

    Attributes:
        row_id: ``SOURCE/INDEX``; stable as long as the files of the source do not change.
        source_id: The source's own id of the record.
        messages: The dialogue up to and including the last user message.
        reasoning: Reasoning of the assistant; None without a response, or if the response does not close it.
        answer: Answer of the assistant; None without a response.
        final: Reference result, if the source has one.
        area: Key of the risk area; None for reasoning rows.
        category: Key of the risk category; None for reasoning rows.
        teacher: Name of the teacher that generated the response; None if the source had it.
        degree: Refusal degree of the answer according to the judge; None if it was not judged.
        repairs: What was repaired in its turns, see ``dialogue``.
        drop: Why the row was dropped; None as long as it was not.
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
    repairs: list[str] = field(default_factory=list)
    drop: Drop | None = None

    @property
    def has_response(self) -> bool:
        """False for a prompt that needs the teacher."""
        return self.answer is not None

    @property
    def prompt(self) -> str:
        """All messages of the dialogue as one text."""
        return "\n".join(turn["content"] for turn in self.messages)

    @property
    def question(self) -> str:
        """The dialogue without its system turn, which many rows have in common; that turn if it is all."""
        spoken = "\n".join(turn["content"] for turn in self.messages if turn["role"] != "system")
        return spoken or self.prompt

    def dropped(self, drop: Drop) -> "CorpusRow":
        """A copy of the row that is marked as dropped."""
        return replace(self, drop=drop)

    def to_table_row(self) -> TableRow:
        """The row as ``ROW_SCHEMA`` has it: the drop in three columns, a dropped row without its texts."""
        columns = asdict(self)
        drop = columns.pop("drop") or {}
        # Dropped texts are not needed any more, and may be anything.
        if drop:
            columns |= {"messages": [], "reasoning": None, "answer": None, "final": None, "repairs": []}
        return columns | {f"drop_{name}": drop.get(name) for name in ("stage", "reason", "detail")}

    @classmethod
    def from_table_row(cls, columns: TableRow) -> "CorpusRow":
        """Inverse of ``to_table_row``; further columns are ignored."""
        fields = {name: columns[name] for name in cls.__dataclass_fields__ if name != "drop"}
        stage = columns["drop_stage"]
        drop = Drop(stage, columns["drop_reason"], columns["drop_detail"]) if stage else None
        return cls(**fields, drop=drop)


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
        ("repairs", pa.list_(pa.string())),
        *((f"drop_{name}", pa.string()) for name in ("stage", "reason", "detail")),
    ]
)


class _Conversation(TypedDict):
    """The fields of a row that come from the texts of a record."""

    messages: list[Message]
    reasoning: str | None
    answer: str | None
    final: str | None
    repairs: list[str]


def normalise(record: RawRecord, source: Source) -> CorpusRow:
    """Convert a raw record to a row; a malformed record becomes a dropped row."""
    index = str(record.index)
    row = CorpusRow(
        row_id=f"{source.name}/{index}",
        source=source.name,
        source_id=index,
        licence=source.licence,
        kind=source.kind,
        language=source.language or "zh",
        area=None,
        category=None,
    )
    if record.value is None:
        return row.dropped(Drop("read", "malformed", f"{record.where}: {record.error}"))
    try:
        mapping = source.mapping or _recognised(record.value)
        conversation = _conversation(record.value, mapping)
    except Unusable as error:
        return row.dropped(Drop("read", error.reason, f"{record.where}: {error}"))
    category = _find_category_key(record.value, source, mapping, conversation["messages"])
    return replace(
        row,
        language=source.language or detect_language(conversation["messages"][-1]["content"]),
        source_id=str(_get(record.value, mapping.id)) if mapping.id else row.source_id,
        category=category,
        area=area_of(category) if category else None,
        **conversation,
    )


def _recognised(record: Mapping[str, object]) -> FieldMapping:
    """The mapping of a record by its fields.

    Raises:
        Unusable: They tell of none.
    """
    form = recognise(record)
    if form is None:
        raise Unusable(
            "unknown_form",
            f"fields {', '.join(map(str, record))[:200]} tell of no known form; say which is which in a "
            "recipe (`safe-r1 recipe init FILE` writes one): "
            'mapping = { prompt = "FIELD", response = "FIELD" }',
        )
    return form.mapping


def _get(value: object, path: str) -> object:
    """The field ``a.b`` of nested objects; None if it is missing."""
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _conversation(record: Mapping[str, object], mapping: FieldMapping) -> _Conversation:
    """Dialogue and response of a record.

    Raises:
        Unusable: A field is missing or no text, or the turns cannot be put in order.
    """
    missing = [name for name in mapping.fields if _get(record, name) is None]
    if missing:
        raise Unusable("malformed", f"no field {missing[0]!r}, got {', '.join(map(str, record))[:200]}")
    dialogue = _dialogue(record, mapping)
    messages = dialogue.messages
    response = messages.pop()["content"] if messages[-1]["role"] == "assistant" else None
    if messages[-1]["role"] != "user":
        raise Unusable("no_question", "no turn of a user")
    if mapping.response:
        response = _text(_get(record, mapping.response))
    if response is not None:
        reasoning, answer = split_reasoning(response)
        # Without closed reasoning there is no answer: the text is in neither field, a filter drops the row.
        reasoning, answer = (reasoning if answer is not None else None), answer or ""
    else:
        reasoning = _text(_get(record, mapping.reasoning)) if mapping.reasoning else None
        answer = _text(_get(record, mapping.answer)) if mapping.answer else None
        # An answer whose reasoning is left out by its file has an empty one.
        reasoning = "" if answer is not None and reasoning is None else reasoning
    final = str(_get(record, mapping.final)) if mapping.final else None
    if mapping.solution == "gsm8k":
        reasoning, answer, final = _read_gsm8k(answer or "")
    return _Conversation(
        messages=messages, reasoning=reasoning, answer=answer, final=final, repairs=list(dialogue.repairs)
    )


def _dialogue(record: Mapping[str, object], mapping: FieldMapping) -> Dialogue:
    """All turns of a record, with those of its fields of their own."""
    system = _text(_get(record, mapping.system) or "") if mapping.system else ""
    if mapping.messages:
        return read_dialogue(_get(record, mapping.messages), mapping.role, mapping.content, system)
    prompt = _text(_get(record, str(mapping.prompt)))
    if mapping.input and (more := _text(_get(record, mapping.input) or "")):
        prompt = f"{prompt}\n\n{more}"
    turns: list[Message] = []
    pairs = _get(record, mapping.history) if mapping.history else []
    if pairs and not (isinstance(pairs, list) and all(_is_pair(pair) for pair in pairs)):
        raise Unusable("malformed", f"expected pairs of turns in {mapping.history!r}")
    for pair in pairs if isinstance(pairs, list) else []:
        turns += [Message(role=role, content=_text(text)) for role, text in zip(_PAIR, pair, strict=False)]
    return read_dialogue([*turns, Message(role="user", content=prompt)], system=system)


def _is_pair(pair: object) -> bool:
    return isinstance(pair, list | tuple) and len(pair) == len(_PAIR)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise Unusable("malformed", f"expected a text, got {type(value).__name__}")
    return value.strip()


def _read_gsm8k(solution: str) -> tuple[str, str, str | None]:
    """Reasoning, answer and result of a GSM8K solution: steps with calculator notes, then ``#### RESULT``."""
    steps = _CALCULATOR_NOTE.sub("", solution).rstrip()
    result = _GSM8K_RESULT.search(steps)
    if result is None:
        return steps, "", None
    steps = steps[: result.start()].strip()
    final = result[1].replace(",", "")
    last_step = _CONNECTIVE.sub("", steps.rpartition("\n")[2])
    # The last step is only a summary if it arrives at the result.
    is_summary = final in last_step.replace(",", "")
    summary = f"{last_step[:1].upper()}{last_step[1:]}\n\n" if is_summary else ""
    return steps, f"{summary}The answer is $\\boxed{{{final}}}$.", final


def _find_category_key(
    record: Mapping[str, object], source: Source, mapping: FieldMapping, messages: list[Message]
) -> str | None:
    """Category of a row: from its own label, else of its source, else by the signs of the policy cards."""
    if source.kind in NO_CATEGORY:
        return None
    if mapping.category:
        label = _get(record, mapping.category)
        labels = [str(item) for item in label] if isinstance(label, list) else [str(label)]
        # Of several labels the first in the recipe's table counts: it lists the specific before the general.
        order = list(source.categories)
        for name in sorted(labels, key=lambda name: order.index(name) if name in order else len(order)):
            known = source.categories.get(name) or (find_category(name) and name)
            if known:
                found = find_category(known)
                return found.key if found else None
    if source.category:
        return source.category
    key = classify(messages[-1]["content"]) if source.classify else None
    return key if key in CATEGORIES else None
