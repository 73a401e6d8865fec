"""Decontamination: finds rows that overlap with a question of a benchmark.

Two tests on hashed n-grams (see ``text``): a long n-gram that the prompt or the response shares with a
question, and a prompt that contains most of a question's short n-grams. Chinese is compared by characters,
because whitespace n-grams find nothing there.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from safe_r1.benchmarks import get_benchmark
from safe_r1.corpus.recipe import DecontaminationConfig, ProtectedSet
from safe_r1.corpus.rows import CorpusRow, Drop
from safe_r1.corpus.text import Hashes, Indices, ngrams, units
from safe_r1.errors import DataError
from safe_r1.language import Language
from safe_r1.records.sources import list_parts, read_part

_STAGE = "decontaminate"
# Size of the short n-grams, in characters and in words.
_SHORT_NGRAM: dict[Language, int] = {"zh": 5, "en": 3}
# A shorter question is part of many texts that have nothing to do with it.
_MIN_UNITS: dict[Language, int] = {"zh": 6, "en": 4}
# Short n-grams that a near copy shares at least, however short the question is.
_MIN_OVERLAP = 4
# Protected files are read whole; the size of a part only bounds what is parsed at a time.
_PART_SIZE = 10_000


@dataclass(frozen=True)
class Question:
    """A protected question; ``name`` is ``BENCHMARK/ID``."""

    name: str
    text: str


@dataclass(frozen=True)
class _NgramIndex:
    """Inverted index of n-grams: hashes in ascending order, each with the index of its question.

    Attributes:
        hashes: Shape (n-grams,).
        questions: Shape (n-grams,).
    """

    hashes: Hashes
    questions: Indices

    @classmethod
    def build(cls, grams: Iterable[tuple[int, Hashes]], max_questions: int | None = None) -> "_NgramIndex":
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


class Decontaminator:
    """Lookup of overlaps with all protected questions.

    Attributes:
        questions: The questions.
    """

    def __init__(self, questions: Sequence[Question], config: DecontaminationConfig):
        self.questions = list(questions)
        self.config = config
        self._long: dict[tuple[Language, int], _NgramIndex] = {}
        self._short: dict[Language, _NgramIndex] = {}
        # Number of distinct short n-grams of each question; 0 for one that is too short to be compared.
        self._num_short = np.zeros(len(self.questions), np.int64)
        unit_hashes = [units(question.text) for question in self.questions]
        languages: tuple[Language, ...] = ("zh", "en")
        for language in languages:
            indexed = [
                (number, hashes)
                for number, (hashes, found) in enumerate(unit_hashes)
                if found == language and len(hashes) >= _MIN_UNITS[language]
            ]
            self._index(language, indexed)

    def _index(self, language: Language, questions: Sequence[tuple[int, Hashes]]) -> None:
        # A question that is shorter than a long n-gram is matched as a whole.
        by_size: dict[int, list[tuple[int, Hashes]]] = {}
        for number, hashes in questions:
            by_size.setdefault(min(len(hashes), self._long_ngram(language)), []).append((number, hashes))
        for size, group in by_size.items():
            grams = [(number, ngrams(hashes, size)) for number, hashes in group]
            self._long[language, size] = _NgramIndex.build(grams, self.config.max_questions)
        shorts = [(number, np.unique(ngrams(hashes, _SHORT_NGRAM[language]))) for number, hashes in questions]
        self._short[language] = _NgramIndex.build(shorts)
        self._num_short[[number for number, _ in shorts]] = [len(hashes) for _, hashes in shorts]

    def _long_ngram(self, language: Language) -> int:
        return self.config.ngram_chars if language == "zh" else self.config.ngram_words

    def find(self, row: CorpusRow) -> Drop | None:
        """The drop of a row that overlaps with a question, with the question's name; None for a clean row."""
        for text in (row.prompt, row.answer, row.reasoning):
            if text and (name := self._shared_ngram(text)):
                return Drop(_STAGE, "shared_run", name)
        # Earlier messages are the context of a dialogue, and no question.
        name = self._near_copy(row.messages[-1]["content"])
        return Drop(_STAGE, "near_copy", name) if name else None

    def _shared_ngram(self, text: str) -> str | None:
        """Name of the question with which a text shares most long n-grams; None if it shares none."""
        hashes, found = units(text)
        for (language, size), index in self._long.items():
            # Hashes of different languages are not comparable: characters against words.
            if language == found and len(hashes) >= size:
                matches = index.find(ngrams(hashes, size))
                if len(matches):
                    return self.questions[int(np.bincount(matches).argmax())].name
        return None

    def _near_copy(self, prompt: str) -> str | None:
        """Name of the question of which a prompt contains the largest share, with that share; None below the
        threshold.
        """
        hashes, language = units(prompt)
        matches = self._short[language].find(np.unique(ngrams(hashes, _SHORT_NGRAM[language])))
        if not len(matches):
            return None
        # Shape (questions,): how many of its short n-grams each question shares with the prompt.
        overlap = np.bincount(matches, minlength=len(self._num_short))
        share = np.where(overlap >= _MIN_OVERLAP, overlap / np.maximum(self._num_short, 1), 0)
        best = int(share.argmax())
        if share[best] < self.config.containment:
            return None
        return f"{self.questions[best].name} ({share[best]:.0%})"


def load_questions(protected: Sequence[ProtectedSet], data: str | None) -> list[Question]:
    """All protected questions.

    Raises:
        DataError: The files of a benchmark are missing, or a record lacks its fields: without them the corpus
            would not be decontaminated.
    """
    questions: list[Question] = []
    for location in protected:
        if location.benchmark:
            benchmark = get_benchmark(location.benchmark)
            samples = benchmark.load(_join(data, location.path) if location.path else None)
            questions += [Question(sample.sample_id, sample.messages[-1]["content"]) for sample in samples]
        else:
            questions += _read_questions(location, data)
    return questions


def _read_questions(location: ProtectedSet, data: str | None) -> Iterable[Question]:
    for part in list_parts(location, data, _PART_SIZE):
        for record in read_part(location, part):
            values = [(record.value or {}).get(name) for name in location.text]
            if not all(isinstance(value, str) for value in values):
                fields = ", ".join(location.text)
                raise DataError(f"protected {location.name}: {record.where} lacks {fields} ({record.error})")
            yield Question(f"{location.name}/{record.index}", "\n".join(map(str, values)))


def _join(data: str | None, path: str) -> str:
    return path if "://" in path or path.startswith("/") else f"{data or '.'}/{path}"
