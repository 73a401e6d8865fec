"""Text as sets of hashed n-grams: characters for Chinese, words for English. Duplicates and leaks are both
found with these.

All hashing is 64-bit and over many texts at once, the same on every machine and in every process.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from safe_r1.language import Language, detect_language

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]

# Stands between texts that are folded together.
_BREAK = "\x1e"
_NOT_WORD = re.compile(rf"[^\w{_BREAK}]+")
# Odd multipliers of 64 bits: the golden ratio's fraction, and the two of the splitmix64 generator's
# finalizer.
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_MAX_POWERS = 4096
_POWERS = np.multiply.accumulate(
    np.concatenate(([np.uint64(1)], np.full(_MAX_POWERS - 1, _FACTOR, np.uint64)))
)


def fold(texts: Sequence[str]) -> list[str]:
    """Each text in one writing: NFKC, lower case, words separated by one space, without punctuation."""
    joined = _BREAK.join(text.replace(_BREAK, " ") for text in texts)
    folded = _NOT_WORD.sub(" ", unicodedata.normalize("NFKC", joined).casefold().replace("_", " "))
    return [text.strip() for text in folded.split(_BREAK)]


@dataclass(frozen=True)
class Units:
    """Hashes of the units of some texts (characters, words or n-grams of them), one text after the other.

    Attributes:
        hashes: Of all units in order, shape (units,).
        counts: Units of each text, shape (texts,).
    """

    hashes: Hashes
    counts: Indices

    @property
    def ends(self) -> Indices:
        """Where each text's units end."""
        return np.cumsum(self.counts)

    def ngrams(self, size: int) -> "Units":
        """All runs of ``size`` units of each text; the whole text where it is shorter; none for an empty
        text.
        """
        ends, grams = self.ends, ngrams(self.hashes, size)
        # Runs that begin in one text and end in the next go out.
        left = np.repeat(ends, self.counts) - np.arange(len(self.hashes))
        inside = left[: len(grams)] >= size
        counts = np.maximum(self.counts - size + 1, 0)
        short = np.flatnonzero((self.counts > 0) & (self.counts < size))
        if not len(short):
            return Units(grams[inside], counts)
        wholes = [ngrams(self.hashes[ends[i] - self.counts[i] : ends[i]], size)[0] for i in short]
        places = (np.cumsum(counts) - counts)[short]
        counts[short] = 1
        return Units(np.insert(grams[inside], places, wholes), counts)

    def whole(self) -> Hashes:
        """Hash of all units of each text in order, shape (texts,)."""
        position = np.arange(len(self.hashes)) - np.repeat(self.ends - self.counts, self.counts)
        sums = np.zeros(len(self.counts), np.uint64)
        filled = self.counts > 0
        terms = self.hashes * _POWERS[position % _MAX_POWERS]
        sums[filled] = np.add.reduceat(terms, (self.ends - self.counts)[filled]) if len(terms) else 0
        return _mix(sums + self.counts.astype(np.uint64))


def units_of(texts: Sequence[str], language: Language) -> Units:
    """The smallest units of texts in one language: characters of Chinese ones, words of English ones."""
    folded = fold(texts) if texts else []
    if language == "zh":
        folded = [text.replace(" ", "") for text in folded]
        return Units(_mix(_codes("".join(folded))), np.array([len(text) for text in folded], np.int64))
    counts = [text.count(" ") + 1 if text else 0 for text in folded]
    return Units(_words(" ".join(filter(None, folded))), np.array(counts, np.int64))


def units(text: str) -> tuple[Hashes, Language]:
    """Hashes of the smallest units of one text, and its language."""
    language = detect_language(text)
    return units_of([text], language).hashes, language


def _codes(text: str) -> Hashes:
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), np.uint32).astype(np.uint64)


def _words(folded: str) -> Hashes:
    codes = _codes(folded)
    if not len(codes):
        return codes
    is_space = codes == ord(" ")
    starts = np.concatenate(([0], np.flatnonzero(is_space) + 1))
    lengths = np.diff(np.concatenate((starts, [len(codes) + 1])))
    position = np.arange(len(codes)) - np.repeat(starts, lengths)[: len(codes)]
    codes = np.where(is_space, np.uint64(0), codes + np.uint64(1))
    return _mix(np.add.reduceat(codes * _POWERS[position % _MAX_POWERS], starts))


def ngrams(hashes: Hashes, size: int) -> Hashes:
    """Hashes of all runs of ``size`` units, in order; of the whole text where it is shorter; none for an
    empty text.
    """
    if not len(hashes):
        return hashes
    size = min(size, len(hashes))
    count = len(hashes) - size + 1
    total = np.zeros(count, np.uint64)
    for offset in range(size):
        total = total * _FACTOR + hashes[offset : offset + count]
    return _mix(total + np.uint64(size))


def _mix(values: Hashes) -> Hashes:
    """Spreads every bit of a value over all of its bits (the finalizer of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * _MIX_1
    values = (values ^ (values >> np.uint64(27))) * _MIX_2
    return values ^ (values >> np.uint64(31))
