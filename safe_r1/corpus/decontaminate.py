"""Rows that are too close to a question of a benchmark.

Two tests on the n-grams of ``text``: a long run that the row (prompt or response) shares with a question, and
a prompt that holds most of a question's short n-grams. Whitespace n-grams see nothing in Chinese, so
characters are counted there.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from safe_r1.benchmarks import get_benchmark
from safe_r1.corpus.recipe import DecontaminationConfig, Protected
from safe_r1.corpus.rows import Drop, Row
from safe_r1.corpus.sources import list_parts, read_part
from safe_r1.corpus.text import Hashes, Language, ngrams, units
from safe_r1.errors import DataError

_STAGE = "decontaminate"
_SHORT: dict[Language, int] = {"zh": 5, "en": 3}
# Shorter questions would be met in any text.
_MIN_UNITS: dict[Language, int] = {"zh": 6, "en": 4}
_MIN_OVERLAP = 4
_PART_SIZE = 10_000


@dataclass(frozen=True)
class Question:
    """A benchmark question; ``name`` is ``BENCHMARK/ID``."""

    name: str
    text: str


@dataclass(frozen=True)
class _Index:
    """Hashes in ascending order, each with the question it belongs to."""

    hashes: Hashes
    questions: npt.NDArray[np.int64]

    @classmethod
    def build(cls, grams: Iterable[tuple[int, Hashes]], max_questions: int | None = None) -> "_Index":
        pairs = [(question, hashes) for question, hashes in grams]
        hashes = np.concatenate([np.zeros(0, np.uint64), *(np.unique(hashes) for _, hashes in pairs)])
        owners = np.repeat(
            [question for question, _ in pairs], [len(np.unique(hashes)) for _, hashes in pairs]
        ).astype(np.int64)
        order = np.argsort(hashes, kind="stable")
        index = cls(hashes[order], owners[order])
        if max_questions is None or not len(hashes):
            return index
        counts = np.unique(index.hashes, return_inverse=True, return_counts=True)
        rare = counts[2][counts[1]] <= max_questions
        return cls(index.hashes[rare], index.questions[rare])

    def find(self, hashes: Hashes) -> npt.NDArray[np.int64]:
        """The questions of all occurrences of these hashes, with repetition."""
        low, high = (np.searchsorted(self.hashes, hashes, side) for side in ("left", "right"))
        spans = [self.questions[a:b] for a, b in zip(low[high > low], high[high > low], strict=True)]
        return np.concatenate(spans) if spans else np.zeros(0, np.int64)


class Decontaminator:
    """All protected questions, ready to be looked up.

    Attributes:
        questions: The questions.
    """

    def __init__(self, questions: Sequence[Question], config: DecontaminationConfig):
        self.questions = list(questions)
        self.config = config
        parts = [units(question.text) for question in self.questions]
        self.long: dict[tuple[Language, int], _Index] = {}
        self.short: dict[Language, _Index] = {}
        self.sizes = np.zeros(len(parts), np.int64)
        for language in ("zh", "en"):
            mine = [(i, hashes) for i, (hashes, found) in enumerate(parts) if found == language]
            mine = [(i, hashes) for i, hashes in mine if len(hashes) >= _MIN_UNITS[language]]
            # A question shorter than the run is met as a whole.
            by_size: dict[int, list[tuple[int, Hashes]]] = {}
            for i, hashes in mine:
                by_size.setdefault(min(len(hashes), self._run(language)), []).append((i, hashes))
            for size, group in by_size.items():
                grams = [(i, ngrams(hashes, size)) for i, hashes in group]
                self.long[language, size] = _Index.build(grams, config.max_questions)
            shorts = [(i, np.unique(ngrams(hashes, _SHORT[language]))) for i, hashes in mine]
            self.short[language] = _Index.build(shorts)
            self.sizes[[i for i, _ in shorts]] = [len(hashes) for _, hashes in shorts]

    def _run(self, language: Language) -> int:
        return self.config.ngram_chars if language == "zh" else self.config.ngram_words

    def find(self, row: Row) -> Drop | None:
        """The drop of a row that is too close to a question, with the question's name; None for a clean row."""
        for text in (row.prompt, row.answer, row.reasoning):
            if text and (name := self._shared_run(text)):
                return Drop(_STAGE, "shared_run", name)
        name = self._near_copy(row.messages[-1]["content"])
        return Drop(_STAGE, "near_copy", name) if name else None

    def _shared_run(self, text: str) -> str | None:
        hashes, found = units(text)
        for (language, size), index in self.long.items():
            if language == found and len(hashes) >= size:
                matches = index.find(ngrams(hashes, size))
                if len(matches):
                    return self.questions[int(np.bincount(matches).argmax())].name
        return None

    def _near_copy(self, prompt: str) -> str | None:
        hashes, language = units(prompt)
        matches = self.short[language].find(np.unique(ngrams(hashes, _SHORT[language])))
        if not len(matches):
            return None
        overlap = np.bincount(matches, minlength=len(self.sizes))
        share = np.where(overlap >= _MIN_OVERLAP, overlap / np.maximum(self.sizes, 1), 0)
        best = int(share.argmax())
        return (
            f"{self.questions[best].name} ({share[best]:.0%})"
            if share[best] >= self.config.containment
            else None
        )


def load_questions(protected: Sequence[Protected], data: str | None) -> list[Question]:
    """All protected questions.

    Raises:
        DataError: A benchmark's files are missing, or a record lacks its fields: a corpus is not built
            unprotected.
    """
    questions: list[Question] = []
    for place in protected:
        if place.benchmark:
            benchmark = get_benchmark(place.benchmark)
            samples = benchmark.load(_join(data, place.path) if place.path else None)
            questions += [Question(sample.sample_id, sample.messages[-1]["content"]) for sample in samples]
            continue
        for part in list_parts(place, data, _PART_SIZE):
            for record in read_part(place, part):
                values = [(record.value or {}).get(name) for name in place.text]
                if not all(isinstance(value, str) for value in values):
                    raise DataError(
                        f"protected {place.name}: {record.where} lacks {', '.join(place.text)} ({record.error})"
                    )
                questions.append(Question(f"{place.name}/{record.index}", "\n".join(map(str, values))))
    return questions


def _join(data: str | None, path: str) -> str:
    return path if "://" in path or path.startswith("/") else f"{data or '.'}/{path}"
