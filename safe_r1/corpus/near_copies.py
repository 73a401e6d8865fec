"""Near copies: parts of a text that are much like a protected question, with some characters changed.

Questions that share enough short n-grams of characters with a text are compared with it letter by letter. The
n-grams only choose what is compared: a copy in which one character in nine is another one still has half of
them, and a text that has nothing to do with a question hardly any.
"""

from collections.abc import Mapping

import numpy as np
from rapidfuzz import fuzz

from safe_r1.corpus.ngram_index import NgramIndex
from safe_r1.corpus.text import characters, hash_characters, ngrams
from safe_r1.language import Language, detect_language

# Length of the n-grams by the question's language: a Latin letter says less than a Chinese character.
_NGRAM: dict[Language, int] = {"zh": 4, "en": 5}
# Share of a question's rare n-grams that a text has to hold before the two are compared, and their number.
_MIN_SHARE = 0.2
_MIN_OVERLAP = 2
_COMPARED = 3
# Of short questions a few characters are a larger share, and common phrases are as long.
_SHORT_CHARS = 16
_SHORT_SIMILARITY = 0.82
# A text that is much shorter is a part of the question, and no copy of it.
_MIN_LENGTH = 0.7


class NearCopies:
    """Lookup of near copies of some questions."""

    def __init__(self, questions: Mapping[int, str], similarity: float, max_questions: int):
        """Args:
        questions: Number to text.
        similarity: From which on a part of a text is a near copy of a longer question; see ``find``.
        max_questions: N-grams that more questions share are phrases of the benchmark, and choose none.
        """
        self._similarity = similarity
        # Each text once: the n-grams of one that is asked several times are no phrase.
        numbers = {characters(text): number for number, text in reversed(list(questions.items()))}
        self._texts = {number: text for text, number in numbers.items() if text}
        self._num_grams = np.ones(max(questions, default=-1) + 1, np.int64)
        self._index: dict[Language, NgramIndex] = {}
        for language, size in _NGRAM.items():
            grams = [
                (number, np.unique(ngrams(hash_characters(text), size)))
                for number, text in self._texts.items()
                if detect_language(text) == language
            ]
            self._index[language] = index = NgramIndex.build(grams, max_questions)
            counts = np.bincount(index.questions, minlength=len(self._num_grams))
            self._num_grams = np.maximum(self._num_grams, counts)

    def find(self, text: str) -> tuple[int, float] | None:
        """The question of which a text holds the nearest copy; None for no near copy.

        Returns:
            Its number, and the similarity from 0 to 1: twice the number of characters in common, in order,
            over the length of both, of the question and of the part of the text that fits best.
        """
        folded = characters(text)
        if not folded:
            return None
        hashes = hash_characters(folded)
        # Shape (questions,): how many of its n-grams each question shares with the text.
        overlap = np.zeros(len(self._num_grams), np.int64)
        for language, size in _NGRAM.items():
            matches = self._index[language].find(np.unique(ngrams(hashes, size)))
            overlap += np.bincount(matches, minlength=len(overlap))
        share = np.where(overlap >= _MIN_OVERLAP, overlap / self._num_grams, 0)
        nearest = np.argsort(-share, kind="stable")[:_COMPARED]
        found = [
            (number, self._compare(number, folded))
            for number in nearest.tolist()
            if share[number] >= _MIN_SHARE
        ]
        best = max(found, key=lambda each: each[1], default=(0, 0.0))
        return best if best[1] else None

    def _compare(self, number: int, folded: str) -> float:
        """Similarity of a question and a text; 0 below the limit."""
        question = self._texts[number]
        if len(folded) < _MIN_LENGTH * len(question):
            return 0.0
        is_short = len(question) < _SHORT_CHARS
        limit = max(self._similarity, _SHORT_SIMILARITY) if is_short else self._similarity
        return fuzz.partial_ratio(question, folded, score_cutoff=100 * limit) / 100
