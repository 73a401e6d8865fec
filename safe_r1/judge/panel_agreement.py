"""How far several judges of the same answers agree.

Source:
    Krippendorff's alpha for nominal data, with missing values: K. Krippendorff, "Computing Krippendorff's
    Alpha-Reliability" (2011), sections C and D.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from safe_r1.judge.agreement import Estimate, kappa_of


@dataclass(frozen=True)
class PanelAgreement:
    """How far the judges of a panel agree on the answers of one task.

    Attributes:
        num_answers: Answers to which at least two judges gave a label.
        num_disagreed: Those of them with several labels.
        alpha: Krippendorff's alpha over all judges; None where all labels are the same.
        kappa: Cohen's kappa by pair of judges, of the answers that both labelled; None where both used one
            label only.
    """

    num_answers: int
    num_disagreed: int
    alpha: float | None
    kappa: dict[str, Estimate | None]


def measure_panel(labels: Mapping[str, Sequence[str | None]]) -> PanelAgreement:
    """Compare judges.

    Args:
        labels: By judge the label of each answer, in the same order; None where it gave none.
    """
    names = sorted({label for each in labels.values() for label in each if label is not None})
    codes = {
        judge: np.array([-1 if label is None else names.index(label) for label in each], np.int64)
        for judge, each in labels.items()
    }
    table = np.stack(list(codes.values()), axis=1)
    counts = np.zeros((len(table), len(names)), np.int64)
    for code in range(len(names)):
        counts[:, code] = (table == code).sum(axis=1)
    paired = counts[counts.sum(axis=1) >= 2]
    kappa = {
        f"{one} | {other}": _kappa(codes[one], codes[other], len(names))
        for one, other in combinations(codes, 2)
    }
    return PanelAgreement(
        len(paired), int((np.count_nonzero(paired, axis=1) > 1).sum()), alpha_of(paired), kappa
    )


def alpha_of(counts: np.ndarray) -> float | None:
    """Krippendorff's alpha for nominal data.

    Args:
        counts: For each unit the number of judges that gave each label, at least two in all; shape (units,
            labels).

    Returns:
        None where there is no unit, or one label alone.
    """
    of_unit = counts.sum(axis=1)
    of_label = counts.sum(axis=0)
    total = counts.sum()
    expected = (of_label * (total - of_label)).sum()
    if not expected:
        return None
    observed = ((counts * (of_unit[:, None] - counts)).sum(axis=1) / (of_unit - 1)).sum()
    return float(1 - observed * (total - 1) / expected)


def _kappa(one: np.ndarray, other: np.ndarray, num_labels: int) -> Estimate | None:
    confusion = np.zeros((num_labels, num_labels), np.int64)
    both = (one >= 0) & (other >= 0)
    np.add.at(confusion, (one[both], other[both]), 1)
    return kappa_of(confusion)
