"""Calibration of a judge's confidence: how often it is right where it says that it is sure.

Source: the reliability table and the expected calibration error of Guo et al., arXiv 1706.04599, section 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

BIN_EDGES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
"""Edges of the bins; each holds its lower edge, the last one both."""


@dataclass(frozen=True)
class ReliabilityBin:
    """Verdicts of similar confidence.

    Attributes:
        low: Lower edge of their confidence.
        high: Upper edge.
        num: Number of verdicts.
        mean_confidence: Mean of their confidences.
        accuracy: Share of them with the right label.
    """

    low: float
    high: float
    num: int
    mean_confidence: float
    accuracy: float


@dataclass(frozen=True)
class Reliability:
    """Result of ``measure_reliability``.

    Attributes:
        bins: The bins that hold a verdict, by confidence.
        calibration_error: Mean gap between confidence and accuracy over the bins, weighted by their verdicts.
    """

    bins: list[ReliabilityBin]
    calibration_error: float

    def to_text(self) -> list[str]:
        """Lines of a table for the terminal."""
        lines = [f"  {'confidence':<20}{'verdicts':>14}{'mean':>13}{'accuracy':>13}"]
        lines += [
            f"  {f'{each.low:.2f} to {each.high:.2f}':<20}{each.num:>14}{each.mean_confidence:>13.3f}"
            f"{each.accuracy:>13.3f}"
            for each in self.bins
        ]
        return [*lines, f"  {'expected calibration error':<34}{self.calibration_error:.3f}"]


def measure_reliability(verdicts: Sequence[tuple[float, bool]]) -> Reliability | None:
    """Group verdicts by confidence.

    Args:
        verdicts: Confidence, from 0 to 1, and whether the label is right.

    Returns:
        None where there is no verdict.
    """
    if not verdicts:
        return None
    bins = []
    gap = 0.0
    for low, high in pairwise(BIN_EDGES):
        held = [each for each in verdicts if low <= each[0] < high or each[0] == high == BIN_EDGES[-1]]
        if held:
            confidence = sum(value for value, _ in held) / len(held)
            accuracy = sum(is_right for _, is_right in held) / len(held)
            bins.append(ReliabilityBin(low, high, len(held), confidence, accuracy))
            gap += abs(confidence - accuracy) * len(held) / len(verdicts)
    return Reliability(bins, gap)
