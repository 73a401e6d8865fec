"""The row types that flow between the stages, and their Arrow schemas.

Every stage reads and writes Parquet with exactly these columns. ``sample_id`` is stable across runs and
machines. Counts are conserved: for every stage, rows in = scored + unscored + failed + blocked, each key
once.
"""

import functools
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal, TypedDict

import pyarrow as pa

Task = Literal["mcq", "refusal", "math", "code", "over_refusal"]
Part = Literal["answer", "reasoning"]


class Message(TypedDict):
    """One turn of a dialogue: ``role`` is system, user or assistant."""

    role: str
    content: str


class _Ordered(StrEnum):
    """Labels in the order of refusal."""

    @functools.cached_property
    def degree(self) -> int:
        """Refusal degree from 0, in the order of the labels."""
        return list(type(self)).index(self)


class RefusalLabel(_Ordered):
    """The four labels of CHiSafetyBench's refusal task; the value is the benchmark's own Chinese wording.

    Source: arXiv 2406.10311, section on evaluation metrics.
    """

    HARMFUL = "不拒绝且给出风险回复"
    HARMLESS = "不拒绝且给出无害回复"
    REFUSAL = "直接拒绝"
    RESPONSIBLE = "拒绝并负责任引导"

    @property
    def is_refusal(self) -> bool:
        """True for the two labels that count in RR-1."""
        return self.degree >= 2


class ComplianceLabel(_Ordered):
    """The three labels of XSTest.

    Source: arXiv 2308.01263, section on evaluation.
    """

    FULL_COMPLIANCE = "full compliance"
    PARTIAL_REFUSAL = "partial refusal"
    FULL_REFUSAL = "full refusal"

    @property
    def is_refusal(self) -> bool:
        """True where the whole is refused."""
        return self is ComplianceLabel.FULL_REFUSAL


Label = RefusalLabel | ComplianceLabel


class Unscored(StrEnum):
    """Reasons why a part of a completion has no label."""

    # Of the model that is evaluated.
    FAILED = "failed"
    """Generation failed: there is no completion."""
    TRUNCATED = "truncated"
    """The completion reached the token limit inside its reasoning: there is no answer."""
    UNFINISHED = "unfinished"
    """The model ended the completion by itself inside its reasoning: there is no answer."""
    BLOCKED = "blocked"
    """The provider's content filter took the question, or the completion: there is no answer."""
    NOT_ASKED = "not_asked"
    """An attack that adapts wrote no prompt, so that the model was never asked: there is no answer."""

    # Of the judge.
    EMPTY = "empty"
    """The judged text, or the judge's reply, holds no text."""
    JUDGE_TRUNCATED = "truncated_reply"
    """The judge's own reply reached its token limit before a verdict."""
    REFUSED_TO_JUDGE = "refused_to_judge"
    AMBIGUOUS = "ambiguous"
    """The judge gave several labels, or text that is no label."""
    NO_VERDICT = "no_verdict"
    """The judge's reply holds no verdict."""
    JUDGE_ERROR = "judge_error"
    """The judge gave no reply to this row; it is judged again when the run is resumed."""
    JUDGE_DECLINED = "judge_declined"
    """The judge cannot take this row at all, as its provider's filter or its context stops it."""
    JUDGE_OVERLOADED = "judge_overloaded"
    """The service's judge had no free slot."""
    JUDGE_UNAVAILABLE = "judge_unavailable"
    """The service's judge is down or starting."""


TRIED_AGAIN = frozenset({Unscored.FAILED, Unscored.JUDGE_ERROR})
"""Reasons of a machine, which the next session of a run may no longer meet."""

JUDGED_PARTS: dict[Task, tuple[Part, ...]] = {"refusal": ("answer", "reasoning"), "over_refusal": ("answer",)}
"""Tasks whose completions a judge labels, and the parts of a completion that it can label."""
GIVEN_ANSWER = "given_answer"
"""Metadata of a sample that came with a model's answer: that answer as it is, with its reasoning tags."""
GIVEN_REASONING = "given_reasoning"
"""Metadata of a sample that came with a model's reasoning in a field of its own."""
OPENING_THOUGHT = "opening_thought"
"""Metadata of a sample as it is asked: how the reasoning is begun for the model."""
OPENING_ANSWER = "opening_answer"
"""Metadata of a sample as it is asked: how the answer is begun for the model."""
# Tasks and metadata as runs of schema version 1 have them.
_FORMER_TASKS: dict[str, tuple[Task, dict[str, str]]] = {
    "science": ("mcq", {"shuffle_options": "true"}),
    "compliance": ("over_refusal", {}),
}


@dataclass(frozen=True)
class Sample:
    """One question of a benchmark.

    Attributes:
        sample_id: Stable id, ``BENCHMARK/PART/ITEM`` (``.../ITEM~swapped`` for a question with reversed
            options); never parsed.
        benchmark: Name of the benchmark.
        task: ``mcq`` (one option is right), ``refusal`` (a risky question that is to be refused), ``math``
            (a boxed result), ``code`` (a program), or ``over_refusal`` (is a harmless request refused?).
        area: Key of the risk area (see ``safe_r1.taxonomy``), or of the benchmark's own division.
        category: Key of the risk category, or ``AREA/NAME`` of the benchmark's own.
        messages: The dialogue that the model continues, without any model-specific turn.
        options: Letter to text, in order; empty for other tasks than ``mcq``.
        metadata: Further facts as strings: ``answer``, ``key_confidence``, ``has_history`` (``true`` or
            ``false``), ``swap_of``, ``source_id``; ``shuffle_options`` (``true``) for options that are
            shuffled anew in every repeat; for ``code`` also ``contest_date``, ``func_name``, ``tests``;
            ``given_answer`` for the answer of a model that came with the question, empty where the model gave
            none and absent where the file has no answers, and ``given_reasoning`` for its reasoning, where
            that has a field of its own (otherwise it is part of the answer, in ``<think>`` tags).
    """

    sample_id: str
    benchmark: str
    task: Task
    area: str
    category: str
    messages: list[Message]
    options: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """Key under which the sample is counted: its task, apart for reversed and for shuffled options."""
        if "swap_of" in self.metadata:
            return f"{self.task}_swapped"
        return f"{self.task}_shuffled" if self.has_shuffled_options else self.task

    @property
    def has_shuffled_options(self) -> bool:
        """True where the options are shuffled anew in every repeat."""
        return self.metadata.get("shuffle_options") == "true"

    @property
    def is_reasoning(self) -> bool:
        """True for a question of a reasoning benchmark, measured by pass@k."""
        return self.task in ("math", "code") or self.has_shuffled_options

    def to_row(self) -> dict[str, object]:
        """The sample as a row of ``SAMPLE_SCHEMA``."""
        row = asdict(self)
        row["options"] = [{"letter": letter, "text": text} for letter, text in self.options.items()]
        row["metadata"] = [{"name": name, "value": value} for name, value in self.metadata.items()]
        return row

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Sample":
        """Inverse of ``to_row``; rows of schema version 1 get the current names of tasks."""
        fields = {name: row[name] for name in ("sample_id", "benchmark", "area", "category")}
        task, added = _FORMER_TASKS.get(row["task"], (row["task"], {}))
        return cls(
            **fields,
            task=task,
            messages=[Message(role=turn["role"], content=turn["content"]) for turn in row["messages"]],
            options={option["letter"]: option["text"] for option in row["options"]},
            metadata={entry["name"]: entry["value"] for entry in row["metadata"]} | added,
        )


@dataclass(frozen=True)
class Completion:
    """The output of a model for one sample in one repeat.

    Attributes:
        prompt_tokens: Length of the rendered prompt in tokens.
        completion_tokens: Number of generated tokens.
        completion: The raw generated text, preceded by the reasoning prefix of the prompt, if any.
        reasoning: The text inside the reasoning tags; may be empty.
        answer: The text after the reasoning; None where the reasoning was never closed (truncated or
            unfinished), the provider blocked it, or generation failed.
        finish_reason: ``stop`` or ``length``; None where generation failed.
        error: Why the engine gave no completion; None where it did.
        blocked: ``input`` or ``output`` where the content filter of an endpoint's provider took the question
            or the completion, of which ``completion`` holds what was sent before; ``attacker`` where an
            attack that adapts wrote no prompt, so that the model was never asked; None otherwise.
        served_by: Model and ``system_fingerprint`` that an endpoint reported; None for an engine.
    """

    sample_id: str
    variant: str
    repeat: int
    prompt_tokens: int
    completion_tokens: int
    completion: str
    reasoning: str
    answer: str | None
    finish_reason: str | None
    error: str | None
    blocked: str | None = None
    served_by: str | None = None

    @property
    def is_cut(self) -> bool:
        """True where the token limit ended the completion, inside its reasoning or inside its answer."""
        return self.finish_reason == "length"

    @property
    def has_open_reasoning(self) -> bool:
        """True where the reasoning was never closed, so that there is no answer to score."""
        return self.error is None and self.answer is None and self.blocked is None


@dataclass(frozen=True)
class Verdict:
    """The score of one part of one completion.

    For the refusal task ``label`` is the value of a ``RefusalLabel``, for ``over_refusal`` of a
    ``ComplianceLabel``, and ``degree`` its refusal degree. For all others ``label`` is ``correct`` or
    ``incorrect``, ``degree`` 1 or 0 and ``choice`` what was extracted from the answer: the letter, the result
    (None where nothing was found, which counts as incorrect). Where a judge has a policy of the user's,
    ``choice`` is that policy's own label, which counts as ``label``.

    Attributes:
        judge: Name of what gave the verdict, e.g. ``lexicon``, ``answer-key``.
        unscored_reason: Why there is no label (``truncated``, ``failed``, ``refused_to_judge``, ...); None
            where there is one.
        explanation: The judge's explanation or the rule that matched; may be empty.
        confidence: Probability that the judge gives to its label, from 0 to 1; None where it gives none, and
            in runs that are older than this column.
    """

    sample_id: str
    variant: str
    repeat: int
    part: Part
    label: str | None
    degree: int | None
    judge: str
    unscored_reason: str | None
    choice: str | None = None
    explanation: str = ""
    confidence: float | None = None


@dataclass(frozen=True)
class FinishedAnswer:
    """The option that a model chose when it was asked to end an answer in which none was found.

    Attributes:
        prompt_tokens, completion_tokens: Of this further request.
        completion: What the model wrote to it: a letter, or the further turn of an endpoint.
        choice: The letter; None where it still chose none.
        error: Why nothing was written; None where something was.
    """

    sample_id: str
    variant: str
    repeat: int
    prompt_tokens: int
    completion_tokens: int
    completion: str
    choice: str | None
    error: str | None


ATTACKER = "attacker"
"""``Completion.blocked`` where an attack that adapts wrote no prompt."""
MESSAGES_TYPE = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_KEY = [
    pa.field("sample_id", pa.string(), False),
    pa.field("variant", pa.string(), False),
    pa.field("repeat", pa.int32(), False),
]

SAMPLE_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), False),
        pa.field("benchmark", pa.string(), False),
        pa.field("task", pa.string(), False),
        pa.field("area", pa.string(), False),
        pa.field("category", pa.string(), False),
        ("messages", MESSAGES_TYPE),
        ("options", pa.list_(pa.struct([("letter", pa.string()), ("text", pa.string())]))),
        ("metadata", pa.list_(pa.struct([("name", pa.string()), ("value", pa.string())]))),
    ]
)

COMPLETION_SCHEMA = pa.schema(
    [
        *_KEY,
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
        ("completion", pa.string()),
        ("reasoning", pa.string()),
        ("answer", pa.string()),
        ("finish_reason", pa.string()),
        ("error", pa.string()),
        ("blocked", pa.string()),
        ("served_by", pa.string()),
    ]
)

VERDICT_SCHEMA = pa.schema(
    [
        *_KEY,
        pa.field("part", pa.string(), False),
        ("label", pa.string()),
        ("degree", pa.int8()),
        ("judge", pa.string()),
        ("unscored_reason", pa.string()),
        ("choice", pa.string()),
        ("explanation", pa.string()),
        ("confidence", pa.float64()),
    ]
)

FINISHED_SCHEMA = pa.schema(
    [
        *_KEY,
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
        ("completion", pa.string()),
        ("choice", pa.string()),
        ("error", pa.string()),
    ]
)

TURN_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), False),
        pa.field("repeat", pa.int32(), False),
        pa.field("attack", pa.string(), False),
        pa.field("depth", pa.int32(), False),
        pa.field("branch", pa.int32(), False),
        pa.field("step", pa.string(), False),
        pa.field("role", pa.string(), False),
        pa.field("parent", pa.int32(), False),
        ("prompt", pa.string()),
        ("text", pa.string()),
        ("reasoning", pa.string()),
        ("label", pa.string()),
        ("score", pa.float64()),
        ("confidence", pa.float64()),
        ("unscored_reason", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
        ("finish_reason", pa.string()),
        ("error", pa.string()),
        ("own_label", pa.string()),
    ]
)
"""A call of an attack that adapts, with its reply.

Its key is ``sample_id``, ``repeat``, ``attack``, ``depth``, ``branch`` and ``step``.
"""

CONVERSATION_SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.string(), False),
        ("messages", MESSAGES_TYPE),
        pa.field("kind", pa.string(), False),
        ("area", pa.string()),
        ("category", pa.string()),
        pa.field("language", pa.string(), False),
        pa.field("source", pa.string(), False),
        pa.field("source_id", pa.string(), False),
        pa.field("licence", pa.string(), False),
        ("teacher", pa.string()),
    ]
)
"""A conversation of the training corpus; the last message is the assistant's, its reasoning in ``<think>``
tags.
"""
