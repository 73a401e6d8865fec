"""The answer key of a benchmark's multiple-choice questions, one line of JSON for each question.

CHiSafetyBench publishes no key; ``data/chisafetybench/ANSWER_KEY.md`` says how ours was made. A key that does
not match the questions one to one is rejected, as it would change the score unnoticed.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from safe_r1.benchmarks.base import KeyIdentity, Location
from safe_r1.benchmarks.files import as_path, field_of, object_of, parse_json, read_bytes
from safe_r1.errors import DataError

_CONFIDENCES = ("high", "medium", "low")
_REMEDY = "give --answer-key a key in the format of the shipped answer_key.jsonl"


@dataclass(frozen=True)
class KeyEntry:
    """The key's answer to one question.

    Attributes:
        item_id: The benchmark's id of the question.
        question_sha256: Of the question's text as published, in UTF-8.
        answer: The letter of the right option.
        confidence: ``high``, ``medium`` or ``low``.
        note: Why the confidence is below high; may be empty.
    """

    item_id: int
    question_sha256: str
    answer: str
    confidence: str
    note: str = ""


@dataclass(frozen=True)
class AnswerKey:
    """A key: its identity and an entry for each question id."""

    identity: KeyIdentity
    entries: Mapping[int, KeyEntry]


def load_key(path: Location, name: str | None = None) -> AnswerKey:
    """Read a key file.

    Args:
        path: A local path or any fsspec URI.
        name: Name for reports; the file's own name where None.

    Raises:
        DataError: The file is missing, or a line is damaged; the message names the first such line.
    """
    file = as_path(path)
    content = read_bytes(file, _REMEDY)
    entries: dict[int, KeyEntry] = {}
    # Not splitlines(): a note may contain one of the characters that Unicode counts as the end of a line.
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        entry = _entry(line, f"answer key {file.name}, line {number}")
        if entry.item_id in entries:
            raise DataError(
                f"answer key {file.name}, line {number}: item {entry.item_id} occurs twice; {_REMEDY}"
            )
        entries[entry.item_id] = entry
    if not entries:
        raise DataError(f"answer key {file.name}: holds no item; {_REMEDY}")
    return AnswerKey(KeyIdentity(name or file.name, hashlib.sha256(content).hexdigest()), entries)


def check_key(key: AnswerKey, questions: Mapping[int, tuple[str, Mapping[str, str]]]) -> None:
    """Check that the key answers exactly these questions.

    Args:
        key: The key.
        questions: Question id to its text as published and its options.

    Raises:
        DataError: A question without an entry, with another text or without the answer's letter among its
            options, or an entry without a question; the message names the first such item.
    """
    for item_id, (text, options) in questions.items():
        where = f"answer key {key.identity.name}, item {item_id}"
        entry = key.entries.get(item_id)
        if entry is None:
            raise DataError(f"{where}: has no answer, the key is partial or of another benchmark; {_REMEDY}")
        # Ids alone are not enough: another release of the data may number other questions alike.
        if entry.question_sha256 != hashlib.sha256(text.encode()).hexdigest():
            raise DataError(
                f"{where}: belongs to another question text (question_sha256 differs); use the key made for "
                "this data"
            )
        if entry.answer not in options:
            raise DataError(
                f"{where}: answer {entry.answer!r} is not among the options {', '.join(options)}; correct "
                "the key"
            )
    # Surplus entries mean that questions are missing from the data, which would change every rate.
    surplus = next((item_id for item_id in key.entries if item_id not in questions), None)
    if surplus is not None:
        raise DataError(
            f"answer key {key.identity.name}, item {surplus}: the data have no such question "
            f"({len(questions)} questions, {len(key.entries)} answers); the data are incomplete or the key "
            "is of another benchmark"
        )


def _entry(line: bytes, where: str) -> KeyEntry:
    item = object_of(parse_json(line, where), where)
    confidence = field_of(item, "confidence", str, where)
    if confidence not in _CONFIDENCES:
        raise DataError(f"{where}: confidence is {confidence!r}, expected one of {', '.join(_CONFIDENCES)}")
    # Optional and for readers of the key alone, so that a wrong type does not stop a run.
    note = item.get("note", "")
    return KeyEntry(
        item_id=field_of(item, "id", int, where),
        question_sha256=field_of(item, "question_sha256", str, where).lower(),
        answer=field_of(item, "answer", str, where),
        confidence=confidence,
        note=note if isinstance(note, str) else "",
    )
