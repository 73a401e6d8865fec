"""Scores mathematical results by their value and structure, not by their text."""

import logging

from safe_r1.benchmarks.base import Score
from safe_r1.benchmarks.math_equality import is_same_result
from safe_r1.benchmarks.math_text import find_result, narrow
from safe_r1.benchmarks.table import TableBenchmark
from safe_r1.schema import Sample

__all__ = ["INSTRUCTION", "MathBenchmark", "is_equal", "narrow", "score_result"]

INSTRUCTION = "Reason step by step, and put your final answer within \\boxed{}."
"""Follows every problem: what DeepSeek's model card recommends, in our wording."""

_MAX_CHARS = 20_000
_SHOWN_CHARS = 80


class MathBenchmark(TableBenchmark):
    """Problems with one result each, ``metadata['answer']``, in LaTeX without dollar signs."""

    score_limit_s = 30.0

    def score(self, sample: Sample, repeat: int, answer: str) -> Score:
        """Compare the last result in the answer with the known one; see ``is_equal`` for its cost."""
        return score_result(sample, answer)


def score_result(sample: Sample, answer: str) -> Score:
    """Whether the last result in the answer equals ``metadata['answer']``; see ``is_equal`` for its cost."""
    try:
        return is_equal(sample.metadata["answer"], answer)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - the parser of mathematics raises anything on what models write
        return Score(False, None, f"not readable as mathematics: {type(error).__name__}")


def is_equal(result: str, answer: str) -> Score:
    """Whether the result that ``answer`` gives equals ``result``; a boxed one goes before any other.

    It may take unbounded time and memory, as ``9^{9^{9}}`` does: give it to a process that can be killed.

    Args:
        result: The known result, in LaTeX without dollar signs.
        answer: The text after the reasoning.
    """
    # The library warns at every call that there is no time limit. Its own needs the main thread of a process,
    # in which a Ray worker does not run tasks.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    # A result is at the end of an answer; reading all of an endless repetition would only take time.
    found = find_result(answer[-_MAX_CHARS:])
    if found is None:
        return Score(False, None, "no result")
    return Score(is_same_result(result, found), found[:_SHOWN_CHARS])
