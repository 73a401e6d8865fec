"""Reads the option that a completion to a multiple-choice question finally chooses.

``normalize`` unifies the writing, ``structured`` rewrites JSON and scores, ``mark`` finds mentions of
options, and ``decide`` chooses between them. ``polarity`` reads yes or no by the predicate of the question,
which ``proposition`` finds; ``clause`` is its grammar and ``words`` the vocabulary.
"""

from safe_r1.benchmarks.choice.decide import extract_choice

__all__ = ["extract_choice"]
