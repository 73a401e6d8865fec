"""Lengths of completions in tokens, which show whether training for safety shortens the reasoning."""

from typing import TypedDict

import numpy as np
import numpy.typing as npt


class Lengths(TypedDict):
    """A summary of lengths in tokens."""

    num_rows: int
    mean: float
    median: float
    p90: float


def summarize_lengths(lengths: npt.NDArray[np.integer]) -> Lengths:
    """The summary of at least one length."""
    median, p90 = np.percentile(lengths, [50, 90])
    return {
        "num_rows": len(lengths),
        "mean": float(np.mean(lengths)),
        "median": float(median),
        "p90": float(p90),
    }
