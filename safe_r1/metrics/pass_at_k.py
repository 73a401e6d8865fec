"""pass@k: the chance that at least one of k completions solves a problem.

Source: arXiv 2107.03374.
"""

import math
from collections import Counter

TrialCounts = Counter[tuple[int, int]]
"""Number of questions by (completions, right ones)."""


def pass_at_k(trials: TrialCounts) -> dict[str, dict[str, float]]:
    """Unbiased estimates for k = 1, 2, 4, ... and the number of completions, as means over questions.

    Questions with failed rows have fewer completions; where one has less than k, that k is left out: its mean
    would be over other questions.

    Args:
        trials: The questions.

    Returns:
        By k as text: ``value``, and ``num_samples``, the number of questions.
    """
    fewest = min((num for num, _ in trials), default=0)
    ks = sorted({1 << power for power in range(fewest.bit_length())} | {fewest} - {0}) if fewest else []
    num_samples = trials.total()
    return {
        str(k): {
            "value": math.fsum(
                number * _pass_at_k(num, right, k) for (num, right), number in sorted(trials.items())
            )
            / num_samples,
            "num_samples": num_samples,
        }
        for k in ks
    }


def _pass_at_k(num: int, num_right: int, k: int) -> float:
    # In integers, which are exact: products of ratios would add up rounding errors over many completions.
    return 1.0 - math.comb(num - num_right, k) / math.comb(num, k)
