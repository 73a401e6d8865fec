"""Decontamination: finds rows that overlap with a question of a benchmark.

Two tests: a long n-gram (see ``text``) that the dialogue or the response shares with a question, and a part
of a user's turn that is much like a question (see ``near_copies``). Chinese is compared by characters,
because whitespace n-grams find nothing there. Every text is looked up both by characters and by words, as it
may quote a question of the other language.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from safe_r1.benchmarks import get_benchmark
from safe_r1.benchmarks.filing import DATED
from safe_r1.corpus.near_copies import NearCopies
from safe_r1.corpus.ngram_index import NgramIndex
from safe_r1.corpus.recipe import DecontaminationConfig, ProtectedSet
from safe_r1.corpus.rows import CorpusRow, Drop
from safe_r1.corpus.text import HAN, Hashes, fold, ngrams, units
from safe_r1.errors import DataError
from safe_r1.language import Language, detect_language
from safe_r1.records.sources import list_parts, read_part
from safe_r1.schema import Sample

_STAGE = "decontaminate"
_LANGUAGES: tuple[Language, ...] = ("zh", "en")
# A shorter question is part of many texts that have nothing to do with it: only a whole sentence is found.
_MIN_UNITS: dict[Language, int] = {"zh": 6, "en": 4}
_SENTENCE_END = re.compile(r"[.?!。？！:：;；\n\"“”]")
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


class Decontaminator:
    """Lookup of overlaps with all protected questions.

    Attributes:
        questions: The questions.
    """

    def __init__(self, questions: Sequence[Question], config: DecontaminationConfig):
        self.questions = list(questions)
        self.config = config
        self._long: dict[tuple[Language, int], NgramIndex] = {}
        # Questions that are too short for an n-gram, by their words or characters.
        self._sentences: dict[str, str] = {}
        languages = [detect_language(question.text) for question in self.questions]
        for language in _LANGUAGES:
            mine = [number for number, found in enumerate(languages) if found == language]
            self._index(language, [(number, units(self.questions[number].text, language)) for number in mine])
        short = set(self._sentences.values())
        self._near = NearCopies(
            {
                number: question.text
                for number, question in enumerate(self.questions)
                if not question.is_context and question.name not in short
            },
            config.similarity,
            config.max_questions,
        )

    def _index(self, language: Language, questions: Sequence[tuple[int, Hashes]]) -> None:
        # A question that is shorter than a long n-gram is matched as a whole.
        by_size: dict[int, list[tuple[int, Hashes]]] = {}
        longest = self._long_ngram(language)
        for number, hashes in questions:
            question = self.questions[number]
            if len(hashes) >= (longest if question.is_context else _MIN_UNITS[language]):
                by_size.setdefault(min(len(hashes), longest), []).append((number, hashes))
            elif not question.is_context:
                self._sentences.update((sentence, question.name) for sentence in _sentences(question.text))
        for size, group in by_size.items():
            grams = [(number, ngrams(hashes, size)) for number, hashes in group]
            self._long[language, size] = NgramIndex.build(grams, self.config.max_questions)

    def _long_ngram(self, language: Language) -> int:
        return self.config.ngram_chars if language == "zh" else self.config.ngram_words

    def find(self, row: CorpusRow) -> Drop | None:
        """The drop of a row that overlaps with a question, with the question's name; None for a clean row."""
        for text in (*(turn["content"] for turn in row.messages), row.answer, row.reasoning):
            if text and (name := self._shared_ngram(text)):
                return Drop(_STAGE, "shared_run", name)
        for turn in row.messages:
            if turn["role"] != "user":
                continue
            for sentence in _sentences(turn["content"]) if self._sentences else ():
                if sentence in self._sentences:
                    return Drop(_STAGE, "shared_run", self._sentences[sentence])
            if found := self._near.find(turn["content"]):
                number, similarity = found
                return Drop(_STAGE, "near_copy", f"{self.questions[number].name} ({similarity:.0%})")
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


def _sentences(text: str) -> list[str]:
    """The sentences of a text, folded; Chinese characters end a sentence of words."""
    parts = [text, HAN.sub("\n", text)] if HAN.search(text) else [text]
    return list(filter(None, fold([sentence for part in parts for sentence in _SENTENCE_END.split(part)])))


def load_questions(protected: Sequence[ProtectedSet], data: str | None) -> list[Question]:
    """All protected questions: those of the sets, and the banks of the filing test, which are in no corpus.

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
    for name in DATED:
        questions += questions_of(get_benchmark(name).load())
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
