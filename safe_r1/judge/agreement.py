"""How far a judge agrees with labelled answers: accuracy, Cohen's kappa, confusion matrix, each with an
interval.

Two formats are read as they are: JSONL rows with ``messages``, ``answer`` and ``label`` (the gold set's four
labels), and XSTest's completion files (CSV with ``prompt``, ``completion`` and ``final_label``), whose human
labels tell refusal from compliance only.

XSTest's partial refusals are neither: people call an answer so that half refuses and half complies. Refusal
against compliance is therefore measured on the rows that people called one or the other; the partial ones are
a row of their own in the confusion matrix, and the kappa that counts them as refusals stands beside
(``kappa_refusal_with_partial``).
"""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import numpy as np
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.proportion import proportion_confint
from upath import UPath

from safe_r1.errors import DataError, JudgeError
from safe_r1.judge.base import Judge, JudgeItem, judge_blocking, judge_label
from safe_r1.schema import Message, RefusalLabel

LabelFormat = Literal["gold", "xstest"]

COMPLIANCE, REFUSAL, PARTIAL = "compliance", "refusal", "partial refusal"
XSTEST_LABELS = {"1_full_compliance": COMPLIANCE, "2_full_refusal": REFUSAL, "3_partial_refusal": PARTIAL}
_XSTEST_COLUMNS = ("prompt", "completion", "final_label")
_ENGLISH = {label.value: label.name.lower() for label in RefusalLabel}


@dataclass(frozen=True)
class LabelledItem:
    """One answer with what people (or careful readers) said of it.

    Attributes:
        item: What the judge is given.
        label: A ``RefusalLabel`` value, or ``compliance``, ``refusal`` or ``partial refusal`` in XSTest.
    """

    item: JudgeItem
    label: str


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval; the bounds are None where they cannot be computed."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Agreement:
    """What ``measure_agreement`` found.

    Attributes:
        judge: Name and identity of the judge, as ``judge_label`` prints them.
        labels_file: Where the labels came from.
        label_format: ``gold`` (four labels) or ``xstest`` (refusal against compliance).
        num_scored: Rows to which the judge gave a label.
        num_unscored: Rows to which the judge gave no label.
        unscored_reasons: Their number by reason.
        num_partial: Scored rows that people called a partial refusal; in the confusion matrix, not in
            accuracy and kappas.
        accuracy: Share of rows with the right label (four labels, or refusal against compliance), Wilson
            interval.
        kappa: Cohen's kappa over the four labels; None for XSTest, and where both sides used one label only.
        kappa_refusal: Cohen's kappa of refusal against none.
        kappa_refusal_with_partial: The same with XSTest's partial refusals counted as refusals; None for the
            gold format.
        rows: Names of the confusion matrix's rows (the given labels).
        columns: Names of its columns (the judge's labels).
        confusion: Counts.
    """

    judge: str
    labels_file: str
    label_format: LabelFormat
    num_scored: int
    num_unscored: int
    unscored_reasons: dict[str, int]
    num_partial: int
    accuracy: Estimate
    kappa: Estimate | None
    kappa_refusal: Estimate | None
    kappa_refusal_with_partial: Estimate | None
    rows: list[str]
    columns: list[str]
    confusion: list[list[int]]

    def to_json(self) -> dict[str, Any]:
        """One flat object: each figure as a number (or null), its interval beside it as ``NAME_interval``."""
        result = asdict(self)
        for name in ("accuracy", "kappa", "kappa_refusal", "kappa_refusal_with_partial"):
            estimate: Estimate | None = getattr(self, name)
            result[name] = None if estimate is None else estimate.value
            result[f"{name}_interval"] = None if estimate is None else [estimate.low, estimate.high]
        return result

    def to_text(self) -> str:
        """A table for the terminal."""
        total = self.num_scored + self.num_unscored
        lines = [
            f"{self.judge} on {self.labels_file}: {total} answers, {self.num_scored} scored, {self.num_unscored} unscored"
        ]
        lines += [f"  unscored, {reason}: {count}" for reason, count in sorted(self.unscored_reasons.items())]
        figures = [
            ("accuracy", self.accuracy),
            ("kappa, four labels", self.kappa),
            ("kappa, refusal against none", self.kappa_refusal),
            ("  partial refusals as refusals", self.kappa_refusal_with_partial),
        ]
        lines += [f"  {name:<34}{_format(estimate)}" for name, estimate in figures if estimate is not None]
        columns = [_ENGLISH.get(name, name) for name in self.columns]
        lines.append(f"  {'given label / judge says':<34}" + "".join(f"{name:>13}" for name in columns))
        for name, counts in zip(self.rows, self.confusion, strict=True):
            lines.append(f"  {_ENGLISH.get(name, name):<34}" + "".join(f"{count:>13}" for count in counts))
        return "\n".join(lines)


def measure_agreement(judge: Judge, path: str | UPath) -> Agreement:
    """Run ``judge`` over the labelled answers of ``path`` and compare.

    Raises:
        DataError: The file is missing, of neither format, or has a damaged line (the message names it).
        JudgeError: The judge gave no label to any row.
    """
    label_format, items = read_labelled(path)
    judgements = judge_blocking(judge, [entry.item for entry in items])
    if len(judgements) != len(items):
        raise JudgeError(f"{judge.name} gave {len(judgements)} judgements for {len(items)} answers")
    reasons = Counter(str(entry.unscored_reason) for entry in judgements if entry.label is None)
    scored = [
        (entry, given.label)
        for entry, given in zip(items, judgements, strict=True)
        if given.label is not None
    ]
    if not scored:
        raise JudgeError(
            f"{judge.name} gave no label to any of the {len(items)} answers in {path}: {dict(reasons)}"
        )
    if label_format == "gold":
        rows = columns = [label.value for label in RefusalLabel]
        pairs = [(entry.label, label.value) for entry, label in scored]
    else:
        rows, columns = [COMPLIANCE, REFUSAL, PARTIAL], [COMPLIANCE, REFUSAL]
        pairs = [(entry.label, REFUSAL if label.is_refusal else COMPLIANCE) for entry, label in scored]
    confusion = _confusion(pairs, rows, columns)
    clear = confusion[: len(columns)]
    return Agreement(
        judge=judge_label(judge.name, judge.identity),
        labels_file=str(path),
        label_format=label_format,
        num_scored=len(scored),
        num_unscored=len(items) - len(scored),
        unscored_reasons=dict(reasons),
        num_partial=int(confusion[len(columns) :].sum()),
        accuracy=_accuracy(clear, path),
        kappa=_kappa(clear) if label_format == "gold" else None,
        kappa_refusal=_kappa(_halve(clear) if label_format == "gold" else clear),
        kappa_refusal_with_partial=None
        if label_format == "gold"
        else _kappa(np.stack([confusion[0], confusion[1:].sum(axis=0)])),
        rows=rows,
        columns=columns,
        confusion=confusion.tolist(),
    )


def read_labelled(path: str | UPath) -> tuple[LabelFormat, list[LabelledItem]]:
    """Read labelled answers and tell which of the two formats they have.

    Raises:
        DataError: The file is missing, empty, of neither format, or has a damaged line.
    """
    try:
        text = UPath(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read as labelled answers ({error}); give a gold JSONL or XSTest CSV file"
        ) from error
    if text.lstrip().startswith("{"):
        label_format, items = "gold", _read_gold(text, path)
    else:
        label_format, items = "xstest", _read_xstest(text, path)
    if not items:
        raise DataError(f"{path}: holds no labelled answer; expected at least one row")
    return label_format, items


def _read_gold(text: str, path: str | UPath) -> list[LabelledItem]:
    items = []
    # Not splitlines: JSON strings may hold U+2028 and other characters that it takes for line ends.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                items.append(_gold_item(json.loads(line)))
            except (ValueError, KeyError, TypeError) as error:
                what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
                raise DataError(
                    f"{path}, line {number}: {what}; expected messages, answer and one of the four labels"
                ) from error
    return items


def _gold_item(row: Any) -> LabelledItem:
    if not isinstance(row, dict):
        raise TypeError("is not an object")
    messages = [Message(role=_text(turn["role"]), content=_text(turn["content"])) for turn in row["messages"]]
    if not messages:
        raise ValueError("has no messages")
    part = row.get("part", "answer")
    if part not in ("answer", "reasoning"):
        raise ValueError(f"part is {part!r}, not answer or reasoning")
    label = RefusalLabel(row["label"])
    return LabelledItem(JudgeItem(messages, _text(row["answer"]), part), label.value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"has {value!r} where a text is expected")
    return value


def _read_xstest(text: str, path: str | UPath) -> list[LabelledItem]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    items = []
    try:
        missing = [name for name in _XSTEST_COLUMNS if name not in (reader.fieldnames or [])]
        if missing:
            raise DataError(
                f"{path}, line 1: neither JSON lines nor a CSV with {', '.join(_XSTEST_COLUMNS)} (lacks {', '.join(missing)})"
            )
        for row in reader:
            label = XSTEST_LABELS.get(row["final_label"] or "")
            if label is None or row["completion"] is None or None in row:
                expected = ", ".join(XSTEST_LABELS)
                raise DataError(
                    f"{path}, line {reader.line_num}: final_label is {row['final_label']!r}; expected {expected}"
                )
            item = JudgeItem([Message(role="user", content=row["prompt"])], row["completion"])
            items.append(LabelledItem(item, label))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: damaged CSV ({error})") from error
    return items


def _confusion(pairs: Sequence[tuple[str, str]], rows: Sequence[str], columns: Sequence[str]) -> np.ndarray:
    """Counts with the given label as row and the judge's as column."""
    matrix = np.zeros((len(rows), len(columns)), dtype=int)
    for given, said in pairs:
        matrix[rows.index(given), columns.index(said)] += 1
    return matrix


def _halve(confusion: np.ndarray) -> np.ndarray:
    """The four labels' matrix as refusal against none: the first two labels are none, the last two refusals."""
    return confusion.reshape(2, 2, 2, 2).sum(axis=(1, 3))


def _accuracy(confusion: np.ndarray, path: str | UPath) -> Estimate:
    num_right, num_total = int(np.trace(confusion)), int(confusion.sum())
    if num_total == 0:
        raise DataError(f"{path}: every scored row is a partial refusal; expected rows that refuse or comply")
    low, high = cast(tuple[float, float], proportion_confint(num_right, num_total, method="wilson"))
    return Estimate(num_right / num_total, float(low), float(high))


def _kappa(confusion: np.ndarray) -> Estimate | None:
    """Cohen's kappa with statsmodels' asymptotic interval; None where chance agreement is already complete."""
    total = confusion.sum()
    if total == 0 or (confusion.sum(axis=0) * confusion.sum(axis=1)).sum() == total * total:
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        result: Any = cohens_kappa(confusion)
    low, high = _finite(float(result.kappa_low)), _finite(float(result.kappa_upp))
    # The normal approximation may leave the range in which kappa lies.
    return Estimate(
        float(result.kappa), None if low is None else max(low, -1.0), None if high is None else min(high, 1.0)
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _format(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f}  [{estimate.low:.3f}, {estimate.high:.3f}]"
