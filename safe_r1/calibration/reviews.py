"""People's decisions on texts of a run: rows with who, when and why. Nothing is overwritten.

They lie in the run folder as the stage ``reviews``. A later decision of the same person on the same text
counts in place of the earlier one, which stays.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np
import pyarrow as pa

from safe_r1.calibration.imputation import TextLabels
from safe_r1.calibration.items import Item, JudgedRun, Stratum, Subject, item_id, subjects_of
from safe_r1.calibration.label_files import GivenLabel, LabelFile
from safe_r1.calibration.label_words import CANNOT_TELL, parse_label
from safe_r1.calibration.record import FOLDER, DrawnTexts
from safe_r1.errors import DataError
from safe_r1.judge.agreement import kappa_of
from safe_r1.metrics.rows import CORRECT, INCORRECT
from safe_r1.provenance import now
from safe_r1.runs import JsonObject, Key, Row, RunFolder

STAGE = "reviews"
REVIEW_SCHEMA = pa.schema(
    [
        pa.field("item", pa.string(), False),
        pa.field("sample_id", pa.string(), False),
        pa.field("repeat", pa.int32(), False),
        pa.field("subject", pa.string(), False),
        pa.field("label", pa.string(), False),
        pa.field("annotator", pa.string(), False),
        ("labelled_at", pa.string()),
        ("note", pa.string()),
        ("source", pa.string()),
        ("source_sha256", pa.string()),
        pa.field("recorded_at", pa.string(), False),
    ]
)
"""One decision: the text, the label as people gave it (a class, a letter, or ``cannot_tell``), who, when,
why, and the file that it came from.
"""
_SHOWN = 5
_KEY = ("item", "annotator", "label", "labelled_at", "note")


def _review_key(row: Row) -> Key:
    return tuple(row[name] or "" for name in _KEY)


@dataclass(frozen=True)
class LabelledText:
    """A text with the decisions that count.

    Attributes:
        item: The text.
        labels: Annotator to label: a class, a letter, or ``CANNOT_TELL``.
        notes: Annotator to note, where there is one.
    """

    item: Item
    labels: Mapping[str, str]
    notes: Mapping[str, str]

    def classes(self, decides: str | None = None) -> list[int]:
        """The classes that people gave, as positions; those who could not tell give none.

        Args:
            decides: Annotator whose label counts alone where there is one.
        """
        chosen = list(self.labels.values())
        if decides is not None and decides in self.labels:
            chosen = [self.labels[decides]]
        classes = self.item.stratum.classes
        return [classes.index(self._class_of(label)) for label in chosen if label != CANNOT_TELL]

    def _class_of(self, label: str) -> str:
        if self.item.stratum.subject != "key":
            return label
        return CORRECT if label == self.item.choice else INCORRECT

    @property
    def is_disputed(self) -> bool:
        """True where two people gave different labels."""
        return len(set(self.labels.values())) > 1


def add_reviews(
    run: JudgedRun, items: Mapping[str, Item], drawn: DrawnTexts, files: Sequence[LabelFile]
) -> int:
    """Record the labels of files that are not recorded yet; gives their number.

    Args:
        run: The run.
        items: Its texts by id.
        drawn: The texts that were drawn.
        files: The labels.

    Raises:
        DataError: A label is of another run, of a text that was not drawn, or no label.
    """
    known = {_review_key(row) for row in run.folder.read_rows(STAGE, REVIEW_SCHEMA)}
    rows: list[Row] = []
    for file in files:
        if not file.labels:
            raise DataError(
                f"{file.name}: no row has a label yet ({file.num_blank} are blank); expected a "
                "column or question called label"
            )
        _check_drawn(run, items, drawn, file)
        for given in file.labels:
            row = _review(items[given.item], given, file)
            if _review_key(row) not in known:
                known.add(_review_key(row))
                rows.append(row)
    if rows:
        run.folder.write_shard(STAGE, rows, REVIEW_SCHEMA, _review_key)
    return len(rows)


def _check_drawn(run: JudgedRun, items: Mapping[str, Item], drawn: DrawnTexts, file: LabelFile) -> None:
    """Check that all labels are of texts that were drawn from this run."""
    others = [each for each in file.labels if each.results_sha256 not in ("", run.results_sha256)]
    strangers = [each for each in file.labels if each.item not in items]
    if others or strangers:
        hint = ""
        if drawn.num_other:
            hint = "; its verdicts have changed since a sample was drawn: draw and label again"
        raise DataError(
            f"{file.name}: {len(others or strangers)} of {len(file.labels)} labels are of another run, e.g. "
            f"{(others or strangers)[0].where}; {run.folder.path} has other rows{hint}"
        )
    if not drawn.num_records:
        raise DataError(
            f"{run.folder.path / FOLDER}: no record of a sample of this run; name the folder that "
            "label-sample --output wrote by --sample"
        )
    loose = [each for each in file.labels if each.item not in drawn.ids]
    if loose:
        shown = ", ".join(each.where for each in loose[:_SHOWN])
        raise DataError(
            f"{file.name}: {len(loose)} of {len(file.labels)} labels are of texts that were not drawn "
            f"({shown}); labels of texts that somebody chose would bias the rates: remove them"
        )


def _review(item: Item, given: GivenLabel, file: LabelFile) -> Row:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if item.stratum.subject == "key" else ""
    label = parse_label(given.label, item.stratum.task, letters)
    if label is None:
        expected = "a letter" if letters else ", ".join(item.stratum.classes)
        raise DataError(
            f"{given.where}: {given.label[:80]!r} is no label of this text; expected {expected}, or "
            "cannot_tell"
        )
    return {
        "item": given.item,
        "sample_id": item.sample_id,
        "repeat": item.repeat,
        "subject": item.stratum.subject,
        "label": label,
        "annotator": given.annotator,
        "labelled_at": given.labelled_at or None,
        "note": given.note or None,
        "source": file.name,
        "source_sha256": file.sha256,
        "recorded_at": now(),
    }


def read_reviews(folder: RunFolder, items: Mapping[str, Item]) -> list[LabelledText]:
    """The texts of a run that people labelled, with the latest decision of each person."""
    latest: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in sorted(folder.read_rows(STAGE, REVIEW_SCHEMA), key=_time_of):
        latest[row["item"]][row["annotator"]] = row
    return [
        LabelledText(
            items[item],
            {name: row["label"] for name, row in by_annotator.items()},
            {name: row["note"] for name, row in by_annotator.items() if row["note"]},
        )
        for item, by_annotator in sorted(latest.items())
        # Decisions on rows as they were before their verdicts were edited stay, and count no more.
        if item in items
    ]


def num_outdated(folder: RunFolder, items: Mapping[str, Item]) -> int:
    """Recorded decisions on rows as they were before completions or verdicts changed, which count no more."""
    return sum(row["item"] not in items for row in folder.read_rows(STAGE, REVIEW_SCHEMA))


def _time_of(row: Row) -> tuple[str, str]:
    return row["labelled_at"] or "", row["recorded_at"]


def items_by_id(run: JudgedRun) -> dict[str, Item]:
    """Every text of a run by its id in label files."""
    return {
        item_id(run.results_sha256, item.sample_id, item.repeat, item.stratum.subject): item
        for item in run.items()
    }


def text_labels(texts: Iterable[LabelledText], decides: str | None) -> TextLabels:
    """The classes that people gave each text."""
    found = {text.item.key: text.classes(decides) for text in texts}
    return {key: classes for key, classes in found.items() if classes}


def count_labels(
    texts: Iterable[LabelledText], decides: str | None
) -> tuple[dict[Stratum, np.ndarray], dict[Stratum, int]]:
    """Labels by stratum and class, where one text counts once, and labelled texts by stratum."""
    counts: dict[Stratum, np.ndarray] = {}
    numbers: dict[Stratum, int] = defaultdict(int)
    for text in texts:
        stratum = text.item.stratum
        classes = text.classes(decides)
        counts.setdefault(stratum, np.zeros(len(stratum.classes)))
        numbers[stratum] += bool(classes)
        for each in classes:
            counts[stratum][each] += 1 / len(classes)
    return counts, numbers


@dataclass(frozen=True)
class PairAgreement:
    """Two people on the texts that both labelled.

    Attributes:
        first, second: The people.
        subject: What was labelled.
        num_texts: Texts that both labelled.
        num_equal: Those with equal labels.
        kappa: Cohen's kappa; None where both gave one label only.
    """

    first: str
    second: str
    subject: Subject
    num_texts: int
    num_equal: int
    kappa: float | None

    def to_json(self) -> JsonObject:
        """As plain values."""
        return asdict(self)


def agreements(texts: Sequence[LabelledText]) -> list[PairAgreement]:
    """Agreement of each two people, by subject."""
    found: list[PairAgreement] = []
    subjects = subjects_of([text.item for text in texts])
    names = sorted({name for text in texts for name in text.labels})
    for subject in subjects:
        mine = [text.labels for text in texts if text.item.stratum.subject == subject]
        for first, second in combinations(names, 2):
            pairs = [(each[first], each[second]) for each in mine if first in each and second in each]
            if pairs:
                num_equal = sum(one == other for one, other in pairs)
                found.append(
                    PairAgreement(first, second, subject, len(pairs), num_equal, cohens_kappa(pairs))
                )
    return found


def cohens_kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Cohen's kappa of pairs of labels; None where chance alone agrees on all."""
    labels = sorted({label for pair in pairs for label in pair})
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    for first, second in pairs:
        confusion[labels.index(first), labels.index(second)] += 1
    found = kappa_of(confusion)
    return None if found is None else found.value
