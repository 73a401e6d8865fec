"""Agreement of a judge with labelled answers: accuracy and Cohen's kappa with intervals, confusion matrix.

XSTest's partial refusals are neither: people call an answer so that half refuses and half complies. Refusal
against compliance is therefore measured on the rows that people called one or the other; the partial ones are
a row of their own in the confusion matrix, and the kappa that counts them as refusals stands beside
(``kappa_refusal_with_partial``).
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

import numpy as np
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.proportion import proportion_confint
from upath import UPath

from safe_r1.errors import ConfigError, DataError, JudgeError
from safe_r1.judge.base import Judge, Judgement, judge_blocking, judge_label
from safe_r1.judge.factory import blind_labels
from safe_r1.judge.labelled import (
    COMPLIANCE,
    PARTIAL,
    REFUSAL,
    LabelFormat,
    LabelledItem,
    read_labelled,
)
from safe_r1.judge.panel import coarse
from safe_r1.judge.reliability import Reliability, measure_reliability
from safe_r1.schema import Label, RefusalLabel

_ENGLISH = {label.value: label.name.lower() for label in RefusalLabel}


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval; the bounds are None where they cannot be computed."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Agreement:
    """Result of ``measure_agreement``.

    Attributes:
        judge: Name and identity of the judge, as ``judge_label`` prints them.
        labels_file: File of the labelled answers.
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
        reliability: How often the label is right by the judge's confidence in it; None for a judge that gives
            none, and for XSTest: a confidence in one of four labels says little of refusal against none.
        blind_to: Labels of the rows that the judge cannot tell from others, and that count as these.
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
    reliability: Reliability | None = None
    blind_to: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
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
        counts = f"{total} answers, {self.num_scored} scored, {self.num_unscored} unscored"
        lines = [f"{self.judge} on {self.labels_file}: {counts}"]
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
        for name, row in zip(self.rows, self.confusion, strict=True):
            lines.append(f"  {_ENGLISH.get(name, name):<34}" + "".join(f"{count:>13}" for count in row))
        if self.blind_to:
            names = ", ".join(_ENGLISH.get(name, name) for name in self.blind_to)
            lines.append(f"  not told from others by this judge: {names}")
        if self.reliability is not None:
            lines += self.reliability.to_text()
        return "\n".join(lines)


def measure_agreement(judge: Judge, path: str | UPath) -> Agreement:
    """Run ``judge`` over the labelled answers of ``path`` and compare.

    Where the judge cannot tell a label from another (see ``blind_labels``), the given labels are read without
    that difference too.

    Raises:
        ConfigError: The file tells refusals from compliance alone, and the judge does not.
        DataError: The file is missing, of neither format, or has a damaged line (the message names it).
        JudgeError: The judge gave no label to any row.
    """
    label_format, items = read_labelled(path)
    blind_to = blind_labels([judge.name])
    sees_refusals = RefusalLabel.REFUSAL.value not in blind_to
    if label_format == "gold":
        items = [replace(entry, label=coarse(entry.label, blind_to) or entry.label) for entry in items]
    elif not sees_refusals:
        raise ConfigError(
            f"{path}: tells refusals from compliance, which judge {judge.name} does not; give another "
            "--judge, or labelled answers with the four labels"
        )
    label = judge_label(judge.name, judge.identity)
    judgements = _judge_all(judge, label, items)
    reasons = Counter(str(entry.unscored_reason) for entry in judgements if entry.label is None)
    scored = [
        (entry, given.label)
        for entry, given in zip(items, judgements, strict=True)
        if given.label is not None
    ]
    if not scored:
        raise JudgeError(
            f"{label} gave no label to any of the {len(items)} answers in {path}: {dict(reasons)}"
        )
    rows, columns, confusion = _confuse(label_format, scored)
    # The rows of labels that the judge can give too, without XSTest's partial refusals.
    clear = confusion[: len(columns)]
    with_partial = None
    if label_format == "xstest":
        with_partial = kappa_of(np.stack([confusion[0], confusion[1:].sum(axis=0)]))
    return Agreement(
        judge=label,
        labels_file=str(path),
        label_format=label_format,
        num_scored=len(scored),
        num_unscored=len(items) - len(scored),
        unscored_reasons=dict(reasons),
        num_partial=int(confusion[len(columns) :].sum()),
        accuracy=_accuracy(clear, path),
        kappa=kappa_of(clear) if label_format == "gold" else None,
        kappa_refusal=kappa_of(_halve(clear) if label_format == "gold" else clear) if sees_refusals else None,
        kappa_refusal_with_partial=with_partial,
        rows=rows,
        columns=columns,
        confusion=confusion.tolist(),
        reliability=_reliability(items, judgements) if label_format == "gold" else None,
        blind_to=sorted(blind_to & set(rows)),
    )


def _judge_all(judge: Judge, label: str, items: Sequence[LabelledItem]) -> list[Judgement]:
    """The judgement of every labelled answer, in order; ``label`` is the judge as it is printed."""
    judgements = judge_blocking(judge, [entry.item for entry in items])
    if len(judgements) != len(items):
        raise JudgeError(f"{label} gave {len(judgements)} judgements for {len(items)} answers")
    return judgements


def _confuse(
    label_format: LabelFormat, scored: Sequence[tuple[LabelledItem, Label]]
) -> tuple[list[str], list[str], np.ndarray]:
    """Names of rows and columns of the confusion matrix, and its counts."""
    if label_format == "gold":
        columns = [each.value for each in RefusalLabel]
        rows = columns
        judged = [found.value for _, found in scored]
    else:
        columns = [COMPLIANCE, REFUSAL]
        rows = [*columns, PARTIAL]
        judged = [REFUSAL if found.is_refusal else COMPLIANCE for _, found in scored]
    return rows, columns, _confusion([entry.label for entry, _ in scored], judged, rows, columns)


def _reliability(items: Sequence[LabelledItem], judgements: Sequence[Judgement]) -> Reliability | None:
    return measure_reliability(
        [
            (given.confidence, given.label.value == entry.label)
            for entry, given in zip(items, judgements, strict=True)
            if given.label is not None and given.confidence is not None
        ]
    )


def _confusion(
    given: Sequence[str], judged: Sequence[str], rows: Sequence[str], columns: Sequence[str]
) -> np.ndarray:
    """Counts with the given label as row and the judge's as column, of shape (rows, columns)."""
    matrix = np.zeros((len(rows), len(columns)), dtype=int)
    for row, column in zip(given, judged, strict=True):
        matrix[rows.index(row), columns.index(column)] += 1
    return matrix


def _halve(confusion: np.ndarray) -> np.ndarray:
    """The four labels' matrix as refusal against compliance."""
    # The first two labels comply, the last two refuse: the sum of each block of 2 × 2 is one cell.
    return confusion.reshape(2, 2, 2, 2).sum(axis=(1, 3))


def _accuracy(confusion: np.ndarray, path: str | UPath) -> Estimate:
    num_right = int(np.trace(confusion))
    num_total = int(confusion.sum())
    if num_total == 0:
        raise DataError(f"{path}: every scored row is a partial refusal; expected rows that refuse or comply")
    low, high = cast(tuple[float, float], proportion_confint(num_right, num_total, method="wilson"))
    return Estimate(num_right / num_total, float(low), float(high))


def kappa_of(confusion: np.ndarray) -> Estimate | None:
    """Cohen's kappa with statsmodels' asymptotic interval; None where chance agreement is complete."""
    total = confusion.sum()
    if total == 0 or (confusion.sum(axis=0) * confusion.sum(axis=1)).sum() == total * total:
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        result: Any = cohens_kappa(confusion)  # its results have no declared attributes
    low = _finite(float(result.kappa_low))
    high = _finite(float(result.kappa_upp))
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
