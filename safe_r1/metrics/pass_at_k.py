"""pass@k: the chance that at least one of k completions solves a problem.

Source: arXiv 2107.03374.
"""

import math
from collections.abc import Mapping, Sequence


def pass_at_k(trials: Mapping[str, Sequence[bool]]) -> dict[str, dict[str, float]]:
    """Unbiased estimates for k = 1, 2, 4, ... and the number of completions, as means over questions.

    Questions with failed rows have fewer completions; where one has less than k, that k is left out: its mean
    would be over other questions.

    Args:
        trials: Question to whether each of its completions is right.

    Returns:
        By k as text: ``value``, and ``num_samples``, the number of questions.
    """
    fewest = min(map(len, trials.values()), default=0)
    ks = sorted({1 << power for power in range(fewest.bit_length())} | {fewest} - {0}) if fewest else []
    return {
        str(k): {
            "value": float(
                sum(_pass_at_k(len(each), sum(each), k) for each in trials.values()) / len(trials)
            ),
            "num_samples": len(trials),
        }
        for k in ks
    }


def _pass_at_k(num: int, num_right: int, k: int) -> float:
    # In integers, which are exact: products of ratios would add up rounding errors over many completions.
    return 1.0 - math.comb(num - num_right, k) / math.comb(num, k)
