"""Chinese that is written in pinyin, read as characters."""

import functools
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

# With tones as marks or digits, or without.
_WORD = re.compile(r"[A-Za-zÀ-ɏ\u0300-\u030c]++[1-5]?")
_MAX_LETTERS = 40
_MAX_SYLLABLE = 6
# What may stand between two words of one passage.
_GAP = re.compile(r"[\s'’\-,.;:!?，。；：！？、]{0,3}")
_BLANKS = re.compile(r"[\s'’\-]+")
_PUNCTUATION = str.maketrans(",.;:!?", "，。；：！？")
_TONES = re.compile("[\u0300-\u0307\u0309-\u030c1-5]")
# Words of other languages are syllables by chance, but hardly so many in turn.
_MIN_SYLLABLES = 6
# Pairs of characters that the lexicon knows, as a share of all pairs of a passage that is Chinese.
_MIN_KNOWN_PAIRS = 0.55
# What a rarer character costs; a known pair gains about one.
_RANK_COST = 0.1

Syllables = tuple[str, ...]


@dataclass(frozen=True)
class _Run:
    """Words in turn that can be read as pinyin, and what stands behind each but the last."""

    start: int
    end: int
    words: Sequence[Syllables]
    gaps: Sequence[str]


@dataclass(frozen=True)
class PinyinReader:
    """Reads pinyin.

    Attributes:
        characters: Syllable without tones to its characters, the commonest first.
        pairs: Known pairs of characters, each with a number that is the smaller the commoner it is.
        terms: Words that are read also where they stand alone, by their syllables.
    """

    characters: Mapping[str, str]
    pairs: Mapping[str, float]
    terms: Mapping[Syllables, str]

    def passages(self, text: str) -> Iterator[tuple[int, int, str]]:
        """Start, end and reading of each passage in pinyin, in order."""
        for run in self._runs(text):
            syllables = tuple(syllable for word in run.words for syllable in word)
            term = self.terms.get(syllables)
            if term:
                yield run.start, run.end, term
            elif len(syllables) >= _MIN_SYLLABLES and (read := self._read(syllables)):
                yield run.start, run.end, _with_gaps(read, run)

    def _runs(self, text: str) -> Iterator[_Run]:
        words: list[Syllables] = []
        gaps: list[str] = []
        start = end = 0
        split = self._split
        for found in _WORD.finditer(text):
            syllables = split(found[0])
            gap = text[end : found.start()]
            if words and not (syllables and _GAP.fullmatch(gap)):
                yield _Run(start, end, words, gaps)
                words, gaps = [], []
            if syllables:
                if words:
                    gaps.append(gap)
                else:
                    start = found.start()
                words.append(syllables)
                end = found.end()
        if words:
            yield _Run(start, end, words, gaps)

    @functools.cached_property
    def _split(self) -> Callable[[str], Syllables]:
        # Texts repeat their words.
        return functools.lru_cache(maxsize=16_384)(self._syllables)

    def _syllables(self, word: str) -> Syllables:
        """The syllables of a word in pinyin, as long ones as there are; none for any other word."""
        if len(word) > _MAX_LETTERS:
            return ()
        letters = word.lower()
        if not letters.isascii() or letters[-1].isdigit():
            letters = unicodedata.normalize("NFD", letters).replace("u\u0308", "v")
            letters = _TONES.sub("", letters)
        if letters in self.characters:
            return (letters,)
        # From the end: what is left of a word, in syllables.
        split: list[Syllables | None] = [*[None] * len(letters), ()]
        for start in range(len(letters) - 1, -1, -1):
            for end in range(min(start + _MAX_SYLLABLE, len(letters)), start + 1, -1):
                rest = split[end]
                if rest is not None and letters[start:end] in self.characters:
                    split[start] = (letters[start:end], *rest)
                    break
        return split[0] or ()

    def _read(self, syllables: Syllables) -> str:
        """The likeliest characters by the pairs that they make; empty where they make hardly any."""
        scores = {"": 0.0}
        before: list[dict[str, str]] = []
        for syllable in syllables:
            best: dict[str, str] = {}
            reached: dict[str, float] = {}
            for rank, char in enumerate(self.characters[syllable]):
                gains = {last: score + self._gain(last + char) for last, score in scores.items()}
                best[char] = max(gains, key=gains.__getitem__)
                reached[char] = gains[best[char]] - _RANK_COST * rank
            before.append(best)
            scores = reached
        char = max(scores, key=scores.__getitem__)
        read = [char]
        for best in reversed(before[1:]):
            char = best[char]
            read.append(char)
        text = "".join(reversed(read))
        num_known = sum(first + second in self.pairs for first, second in pairwise(text))
        return text if num_known >= _MIN_KNOWN_PAIRS * (len(text) - 1) else ""

    def _gain(self, pair: str) -> float:
        weight = self.pairs.get(pair)
        return 0.0 if weight is None else self._commonest / weight

    @functools.cached_property
    def _commonest(self) -> float:
        return min(self.pairs.values(), default=1.0) * 2


def _with_gaps(read: str, run: _Run) -> str:
    """The characters of a passage with its punctuation and without its blanks."""
    parts: list[str] = []
    start = 0
    for word, gap in zip(run.words, (*run.gaps, ""), strict=True):
        parts += [read[start : start + len(word)], _BLANKS.sub("", gap).translate(_PUNCTUATION)]
        start += len(word)
    return "".join(parts)
