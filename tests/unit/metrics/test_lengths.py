"""Lengths of completions and of the reasoning in them."""

import numpy as np

from safe_r1.metrics.lengths import summarize_lengths


def test_a_summary_of_lengths():
    assert summarize_lengths(np.asarray([10, 20, 30])) == {
        "num_rows": 3,
        "mean": 20.0,
        "median": 20.0,
        "p90": 28.0,
    }
