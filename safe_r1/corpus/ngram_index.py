"""An inverted index of hashed n-grams: which protected questions hold them."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from safe_r1.corpus.text import Hashes, Indices


@dataclass(frozen=True)
class NgramIndex:
    """Inverted index of n-grams: hashes in ascending order, each with the index of its question.

    Attributes:
        hashes: Shape (n-grams,).
        questions: Shape (n-grams,).
    """

    hashes: Hashes
    questions: Indices

    @classmethod
    def build(cls, grams: Iterable[tuple[int, Hashes]], max_questions: int | None = None) -> "NgramIndex":
        """Index the n-grams of questions, without those that more than ``max_questions`` questions share."""
        pairs = [(question, np.unique(hashes)) for question, hashes in grams]
        hashes = np.concatenate([np.zeros(0, np.uint64), *(unique for _, unique in pairs)])
        owners = np.repeat([question for question, _ in pairs], [len(unique) for _, unique in pairs])
        # Sorted, so that a lookup is a binary search; memory is 16 bytes per n-gram.
        order = np.argsort(hashes, kind="stable")
        index = cls(hashes[order], owners.astype(np.int64)[order])
        if max_questions is None or not len(hashes):
            return index
        # `inverse` leads from each n-gram to its place among the distinct ones, and so to its frequency.
        _, inverse, counts = np.unique(index.hashes, return_inverse=True, return_counts=True)
        is_rare = counts[inverse] <= max_questions
        return cls(index.hashes[is_rare], index.questions[is_rare])

    def find(self, hashes: Hashes) -> Indices:
        """The questions of all occurrences of these hashes, with repetition."""
        low = np.searchsorted(self.hashes, hashes, "left")
        high = np.searchsorted(self.hashes, hashes, "right")
        is_hit = high > low
        spans = [self.questions[a:b] for a, b in zip(low[is_hit], high[is_hit], strict=True)]
        return np.concatenate(spans) if spans else np.zeros(0, np.int64)
