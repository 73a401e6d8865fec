"""Labels from files: the page's CSV and JSONL, the table as CSV or XLSX, exports of Argilla and Label Studio.

Source:
    Label Studio, "Task format" (annotations with ``result[].value.choices``, and the flat JSON-MIN and CSV).
    Argilla, ``rg.Dataset.records.to_list`` and ``to_json`` (2.x: ``responses`` by question, nested or flat)
    and the feedback records of 1.x (a list of responses with ``values``).
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from upath import UPath

from safe_r1.errors import DataError
from safe_r1.records.find import find_files
from safe_r1.records.formats import read_all
from safe_r1.records.layout import find_layout
from safe_r1.records.location import DataLocation
from safe_r1.records.parsed import Parsed, shorten
from safe_r1.report.cells import text_of_csv

_LABEL_NAMES = ("label", "标签", "标注", "choice", "annotation")
_ANNOTATOR_NAMES = ("annotator", "标注人", "标注者", "annotation_agent", "completed_by", "user")
_TIME_NAMES = ("labelled_at", "updated_at", "created_at", "标注时间")
_NOTE_NAMES = ("note", "备注", "comment")
_ITEM = "item"
_NESTED = ("data", "fields", "metadata", "meta")
_SUBMITTED = ("submitted", "completed", None, "")

Record = Mapping[str, object]


@dataclass(frozen=True)
class GivenLabel:
    """A label as a file has it.

    Attributes:
        item: Id of the text.
        label: The word that was written.
        annotator: Who; may be empty.
        labelled_at: When, as written; may be empty.
        note: Why; may be empty.
        results_sha256: Hash of the run's rows, where the file names it; otherwise empty.
        where: ``FILE:LINE`` for messages.
    """

    item: str
    label: str
    annotator: str
    labelled_at: str
    note: str
    results_sha256: str
    where: str


@dataclass(frozen=True)
class LabelFile:
    """The labels of one file.

    Attributes:
        name: Its name.
        sha256: Hash of its bytes.
        labels: Its labels.
        num_blank: Rows without a label.
    """

    name: str
    sha256: str
    labels: list[GivenLabel]
    num_blank: int


class _LabelLocation(DataLocation):
    """A file of labels."""

    @property
    def label(self) -> str:
        return ""

    def remedy(self, setting: str, value: str) -> str:
        return "save the labels as CSV in UTF-8, as XLSX with one sheet, or as JSONL"


def read_labels(path: str) -> LabelFile:
    """Read the labels of a file.

    Raises:
        DataError: The file is missing or damaged, a row cannot be read, or no row names a drawn text.
    """
    location = _LabelLocation(name="labels", path=path)
    files = find_files(location, None)
    if len(files) != 1:
        raise DataError(f"{path}: {len(files)} files; give each file of labels by its own --labels")
    file = files[0]
    layout = find_layout(location, file, _is_header)
    unquoted = layout.format in ("csv", "tsv")
    labels: list[GivenLabel] = []
    num_blank = 0
    num_rows = 0
    for parsed in read_all(file, layout, location):
        record = _record(parsed, file)
        if record is None:
            continue
        num_rows += 1
        found = list(_labels_of(record, f"{file.name}:{parsed.number}", unquoted))
        labels += [each for each in found if each.label]
        num_blank += not any(each.label for each in found)
    if not num_rows:
        raise DataError(f"{path}: holds no row; expected the labelled table, or an export of the page")
    with file.open("rb") as opened:
        sha256 = hashlib.sha256(opened.read()).hexdigest()
    return LabelFile(file.name, sha256, labels, num_blank)


def _is_header(names: Sequence[str]) -> bool:
    return _ITEM in names


def _record(parsed: Parsed, file: UPath) -> Record | None:
    if parsed.value is None and parsed.error.endswith(": "):
        return None
    if not isinstance(parsed.value, dict):
        error = parsed.error or f"expected an object, got {shorten(str(parsed.value))}"
        raise DataError(f"{file.name}:{parsed.number}: {error}")
    return cast(Record, parsed.value)


def _labels_of(record: Record, where: str, unquoted: bool) -> Iterator[GivenLabel]:
    """The labels of a record, whoever wrote it: one, none, or one of each annotator."""
    item = _field(record, (_ITEM,))
    if not item:
        raise DataError(
            f"{where}: no column {_ITEM!r} with the id of the text; label the table or the page of safe-r1 "
            "label-sample, and take that column into other programs"
        )
    sha256 = _field(record, ("results_sha256",))
    annotations = record.get("annotations")
    responses = record.get("responses")
    if isinstance(annotations, list):
        found = _label_studio(annotations)
    elif isinstance(responses, Mapping):
        found = _argilla_by_question(responses)
    elif isinstance(responses, list):
        found = _argilla_feedback(responses)
    elif any(name.endswith(".responses") for name in record):
        found = _argilla_flat(record)
    else:
        found = iter([_flat(record)])
    for label, annotator, labelled_at, note in found:
        # In a spreadsheet's CSV a text that looks like a formula is marked.
        texts = [text_of_csv(text) if unquoted else text for text in (label, annotator, note)]
        yield GivenLabel(item, texts[0], texts[1], labelled_at, texts[2], sha256, where)


_Given = tuple[str, str, str, str]
"""Label, annotator, time and note."""


def _flat(record: Record) -> _Given:
    """Our own forms, Label Studio's JSON-MIN and CSV, and Argilla 1's text classification."""
    names = (_LABEL_NAMES, _ANNOTATOR_NAMES, _TIME_NAMES, _NOTE_NAMES)
    label, annotator, labelled_at, note = (_field(record, each) for each in names)
    return label, annotator, labelled_at, note


def _label_studio(annotations: Sequence[object]) -> Iterator[_Given]:
    """Tasks with their annotations; skipped ones have no label."""
    for annotation in filter(_is_object, annotations):
        entry = cast(Record, annotation)
        if entry.get("was_cancelled"):
            continue
        words: list[str] = []
        notes: list[str] = []
        results = entry.get("result")
        for result in filter(_is_object, results if isinstance(results, list) else ()):
            value = cast(Record, result).get("value")
            if isinstance(value, Mapping):
                words += _texts(value.get("choices"))
                notes += _texts(value.get("text"))
        yield "|".join(words), _who(entry.get("completed_by")), _field(entry, _TIME_NAMES), " ".join(notes)


def _argilla_by_question(responses: Record) -> Iterator[_Given]:
    """Argilla 2: each question with a list of responses."""
    name = next((each for each in _LABEL_NAMES if each in responses), None)
    name = name or next(iter(responses), None)
    given = responses.get(name) if name is not None else None
    for response in filter(_is_object, given if isinstance(given, list) else ()):
        entry = cast(Record, response)
        if entry.get("status") in _SUBMITTED:
            yield _text(entry.get("value")), _text(entry.get("user_id")), _field(entry, _TIME_NAMES), ""


def _argilla_flat(record: Record) -> Iterator[_Given]:
    """Argilla 2, flattened: parallel lists of values, users and states."""
    names = [name.removesuffix(".responses") for name in record if name.endswith(".responses")]
    name = next((each for each in _LABEL_NAMES if each in names), names[0])
    values = record.get(f"{name}.responses")
    users = record.get(f"{name}.responses.users")
    states = record.get(f"{name}.responses.status")
    for place, value in enumerate(values if isinstance(values, list) else ()):
        if _at(states, place) in _SUBMITTED:
            yield _text(value), _text(_at(users, place)), "", ""


def _argilla_feedback(responses: Sequence[object]) -> Iterator[_Given]:
    """Argilla 1: a list of responses, each with the values of all questions."""
    for response in filter(_is_object, responses):
        entry = cast(Record, response)
        values = entry.get("values")
        if entry.get("status") not in _SUBMITTED or not isinstance(values, Mapping):
            continue
        name = next((each for each in _LABEL_NAMES if each in values), next(iter(values), None))
        value = values.get(name)
        value = value.get("value") if isinstance(value, Mapping) else value
        yield _text(value), _text(entry.get("user_id")), _field(entry, _TIME_NAMES), ""


def _field(record: Record, names: Sequence[str]) -> str:
    """The first of these fields that has content, at the top or in the record's data."""
    places = [record, *(each for name in _NESTED if isinstance(each := record.get(name), Mapping))]
    return next((text for name in names for place in places if (text := _text(place.get(name)))), "")


def _who(value: object) -> str:
    """Label Studio names a user by number, or by an object with the address."""
    if isinstance(value, Mapping):
        return _text(value.get("email")) or _text(value.get("id"))
    return _text(value)


def _at(values: object, place: int) -> object:
    return values[place] if isinstance(values, list) and place < len(values) else None


def _texts(value: object) -> list[str]:
    return [_text(each) for each in value] if isinstance(value, list) else [_text(value)] if value else []


def _text(value: object) -> str:
    if isinstance(value, Mapping | list):
        return ""
    return "" if value is None else str(value).strip()


def _is_object(value: object) -> bool:
    return isinstance(value, Mapping)
