"""Decontamination: finds rows that overlap with a question of a benchmark.

Two tests on hashed n-grams (see ``text``): a long n-gram that the dialogue or the response shares with a
question, and a turn of the user that contains most of a question's short n-grams. Chinese is compared by
characters, because whitespace n-grams find nothing there. Every text is looked up both by characters and by
words, as it may quote a question of the other language.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from safe_r1.benchmarks import get_benchmark
from safe_r1.corpus.recipe import DecontaminationConfig, ProtectedSet
from safe_r1.corpus.rows import CorpusRow, Drop
from safe_r1.corpus.text import Hashes, Indices, ngrams, units
from safe_r1.errors import DataError
from safe_r1.language import Language, detect_language
from safe_r1.records.sources import list_parts, read_part
from safe_r1.schema import Sample

_STAGE = "decontaminate"
_LANGUAGES: tuple[Language, ...] = ("zh", "en")
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
    """A protected question.

    Attributes:
        name: ``BENCHMARK/ID``.
        text: Its text.
        is_context: It is an earlier turn of a dialogue: only long n-grams of it are looked for, as many such
            turns are short and say what anybody might.
    """

    name: str
    text: str
    is_context: bool = False


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
        languages = [detect_language(question.text) for question in self.questions]
        for language in _LANGUAGES:
            mine = [number for number, found in enumerate(languages) if found == language]
            hashed = [(number, units(self.questions[number].text, language)) for number in mine]
            self._index(
                language,
                [
                    each
                    for each in hashed
                    if len(each[1]) >= self._fewest_units(self.questions[each[0]], language)
                ],
            )

    def _fewest_units(self, question: Question, language: Language) -> int:
        return self._long_ngram(language) if question.is_context else _MIN_UNITS[language]

    def _index(self, language: Language, questions: Sequence[tuple[int, Hashes]]) -> None:
        # A question that is shorter than a long n-gram is matched as a whole.
        by_size: dict[int, list[tuple[int, Hashes]]] = {}
        for number, hashes in questions:
            by_size.setdefault(min(len(hashes), self._long_ngram(language)), []).append((number, hashes))
        for size, group in by_size.items():
            grams = [(number, ngrams(hashes, size)) for number, hashes in group]
            self._long[language, size] = _NgramIndex.build(grams, self.config.max_questions)
        shorts = [
            (number, np.unique(ngrams(hashes, _SHORT_NGRAM[language])))
            for number, hashes in questions
            if not self.questions[number].is_context
        ]
        self._short[language] = _NgramIndex.build(shorts)
        self._num_short[[number for number, _ in shorts]] = [len(hashes) for _, hashes in shorts]

    def _long_ngram(self, language: Language) -> int:
        return self.config.ngram_chars if language == "zh" else self.config.ngram_words

    def find(self, row: CorpusRow) -> Drop | None:
        """The drop of a row that overlaps with a question, with the question's name; None for a clean row."""
        for text in (*(turn["content"] for turn in row.messages), row.answer, row.reasoning):
            if text and (name := self._shared_ngram(text)):
                return Drop(_STAGE, "shared_run", name)
        for turn in row.messages:
            if turn["role"] == "user" and (name := self._near_copy(turn["content"])):
                return Drop(_STAGE, "near_copy", name)
        return None

    def _shared_ngram(self, text: str) -> str | None:
        """Name of the question with which a text shares most long n-grams; None if it shares none."""
        hashes = {language: units(text, language) for language in _LANGUAGES}
        for (language, size), index in self._long.items():
            if len(hashes[language]) >= size:
                matches = index.find(ngrams(hashes[language], size))
                if len(matches):
                    return self.questions[int(np.bincount(matches).argmax())].name
        return None

    def _near_copy(self, prompt: str) -> str | None:
        """Name of the question of which a prompt contains the largest share, with that share; None below the
        threshold.
        """
        # Shape (questions,): how many of its short n-grams each question shares with the prompt.
        overlap = np.zeros(len(self.questions), np.int64)
        for language in _LANGUAGES:
            grams = np.unique(ngrams(units(prompt, language), _SHORT_NGRAM[language]))
            overlap += np.bincount(self._short[language].find(grams), minlength=len(overlap))
        share = np.where(overlap >= _MIN_OVERLAP, overlap / np.maximum(self._num_short, 1), 0)
        best = int(share.argmax()) if len(share) else 0
        if not len(share) or share[best] < self.config.containment:
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
            questions += questions_of(samples)
        else:
            questions += _read_questions(location, data)
    return questions


def questions_of(samples: Iterable[Sample]) -> Iterator[Question]:
    """The question of each sample, and each different turn before one."""
    contexts: dict[str, str] = {}
    for sample in samples:
        *before, last = sample.messages
        for number, turn in enumerate(before):
            # Several questions may follow the same dialogue: as several, its n-grams would seem common.
            contexts.setdefault(turn["content"], f"{sample.sample_id}#{number}")
        yield Question(sample.sample_id, last["content"])
    for text, name in contexts.items():
        yield Question(name, text, is_context=True)


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
