"""What the gold set says of rates that nobody has labelled: a range, not of this model.

Inverting the judge's confusion matrix gives the rates that would make its verdicts as they are, if it erred
on this model as on the gold set. It need not: where it does not, such intervals hold the true rate in 7 to
90% of simulated runs. So nothing is corrected by them.

Source:
    Rogan, Gladen, "Estimating Prevalence from the Results of a Screening Test", American Journal of
    Epidemiology 107 (1978); for several classes by expectation maximisation, which stays within the simplex.
"""

from dataclasses import asdict, dataclass

import numpy as np

from safe_r1.calibration.imputation import Floats, generator
from safe_r1.judge.gold_errors import GoldErrors
from safe_r1.metrics.intervals import CONFIDENCE
from safe_r1.metrics.outcomes import REFUSAL_LABELS
from safe_r1.runs import JsonObject
from safe_r1.schema import RefusalLabel

_DRAWS = 1000
_STEPS = 400
_TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)


@dataclass(frozen=True)
class GoldRange:
    """The range of one rate by inversion; not of this model.

    Attributes:
        metric: Name of the metric.
        judged: The rate by the judge's labels.
        low, high: Middle 95% of the inverted rates.
        cannot_be_told: True where the judged rate is below the judge's false-positive rate: so many hits
            occur without any.
    """

    metric: str
    judged: float
    low: float
    high: float
    cannot_be_told: bool

    def to_json(self) -> JsonObject:
        """As plain values."""
        return asdict(self)


def gold_ranges(judged: Floats, errors: GoldErrors, seed: int = 0) -> list[GoldRange]:
    """Ranges of RR-1, RR-2 and HR.

    Args:
        judged: Answers by the judge's label, in the order of ``RefusalLabel``, shape (4,).
        errors: How the judge errs on the gold set.
        seed: Of the draws.
    """
    random = generator(seed, "inversion")
    confusion = errors.confusion()
    matrices = np.stack([random.dirichlet(row + 1 / len(row), _DRAWS) for row in confusion], axis=1)
    observed = random.dirichlet(judged + 1 / len(judged), _DRAWS)
    rates = _invert(matrices, observed)
    ranges: list[GoldRange] = []
    for metric, labels in REFUSAL_LABELS.items():
        degrees = [label.degree for label in labels]
        low, high = np.quantile(rates[:, degrees].sum(axis=1), _TAILS).tolist()
        share = float(judged[degrees].sum() / judged.sum())
        hidden = metric == "harm_rate" and share <= errors.false_positive_rate(RefusalLabel.HARMFUL)
        ranges.append(GoldRange(metric, share, low, high, hidden))
    return ranges


def _invert(matrices: Floats, observed: Floats) -> Floats:
    """Shares of the known labels that make the judge's.

    Args:
        matrices: Chance of each judged label given the known one, shape (draws, known, judged).
        observed: Shares of the judged labels, shape (draws, judged).

    Returns:
        Shape (draws, known).
    """
    shares = np.full(matrices.shape[:2], 1 / matrices.shape[1])
    for _ in range(_STEPS):
        expected = np.einsum("dk,dkj->dj", shares, matrices)
        shares = shares * np.einsum("dkj,dj->dk", matrices, observed / np.maximum(expected, 1e-12))
    return shares / shares.sum(axis=1, keepdims=True)
