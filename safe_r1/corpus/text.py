"""Hashed n-grams of texts, of characters for Chinese and of words for English.

Both deduplication and decontamination compare texts by them. Traditional characters count as their simplified
forms. Hashes have 64 bits, are computed for many texts
at once, and are the same on every machine and in every process.
"""

import functools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from safe_r1.language import Language

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]

# Separates texts that are folded in one call: a control character that no fold changes.
_BREAK = "\x1e"
# CJK Unified Ideographs and their first extension, which has the simplified forms of rare characters.
_FIRST_HAN, _AFTER_HAN = 0x3400, 0xA000
HAN = re.compile(f"[{chr(_FIRST_HAN)}-{chr(_AFTER_HAN - 1)}]")
"""A Chinese character."""
_NOT_WORD = re.compile(rf"[^\w{_BREAK}]+")
_NUMERALS = "0123456789零〇一二三四五六七八九十百千万亿两半"
_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand half "
    "twice double triple"
)
# Odd multipliers of 64 bits: the fraction of the golden ratio, and the two of splitmix64's finalizer.
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
# Powers of the factor, modulo 2**64: the weights of positions in a polynomial hash. They repeat after 4,096
# positions, which bounds the table; two texts would have to differ by a swap over that distance to collide.
_MAX_POWERS = 4096
_POWERS = np.multiply.accumulate(
    np.concatenate(([np.uint64(1)], np.full(_MAX_POWERS - 1, _FACTOR, np.uint64)))
)


def fold(texts: Sequence[str]) -> list[str]:
    """Normalize texts: NFKC, lower case, words separated by one space, no punctuation."""
    # One pass over the joined texts: a call per text costs more than the folding itself.
    joined = _BREAK.join(text.replace(_BREAK, " ") for text in texts)
    folded = _NOT_WORD.sub(" ", unicodedata.normalize("NFKC", joined).casefold().replace("_", " "))
    return [text.strip() for text in folded.split(_BREAK)]


@dataclass(frozen=True)
class Units:
    """Hashes of the units (characters, words or n-grams) of several texts, one text after the other.

    Attributes:
        hashes: Hashes of all units in order, shape (units,).
        counts: Number of units of each text, shape (texts,).
        is_number: Whether a unit is a digit or a word for a number, shape (units,); None for n-grams.
    """

    hashes: Hashes
    counts: Indices
    is_number: npt.NDArray[np.bool_] | None = None

    @property
    def ends(self) -> Indices:
        """End of each text in ``hashes``, shape (texts,)."""
        return np.cumsum(self.counts)

    def ngrams(self, size: int) -> "Units":
        """All n-grams of ``size`` units of each text; a shorter text is one n-gram, an empty one has none."""
        ends = self.ends
        grams = ngrams(self.hashes, size)
        # N-grams that start in one text and end in the next are left out.
        left = np.repeat(ends, self.counts) - np.arange(len(self.hashes))
        is_inside = left[: len(grams)] >= size
        counts = np.maximum(self.counts - size + 1, 0)
        short = np.flatnonzero((self.counts > 0) & (self.counts < size))
        if not len(short):
            return Units(grams[is_inside], counts)
        wholes = [ngrams(self.hashes[ends[i] - self.counts[i] : ends[i]], size)[0] for i in short]
        # A short text has no n-gram yet: it is inserted where the n-grams of the next text start.
        starts = (np.cumsum(counts) - counts)[short]
        counts[short] = 1
        return Units(np.insert(grams[is_inside], starts, wholes), counts)

    @property
    def of_text(self) -> Indices:
        """The text that each unit is of, shape (units,)."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def without_numbers(self) -> "Units":
        """The units with one and the same in place of each number."""
        assert self.is_number is not None, "n-grams are no numbers"
        text = self.of_text
        # Of the digits of a number the first one stays.
        is_first = np.ones(len(text), bool)
        is_first[1:] = ~(self.is_number[1:] & self.is_number[:-1] & (text[1:] == text[:-1]))
        hashes = np.where(self.is_number, np.uint64(0), self.hashes)[is_first]
        return Units(hashes, np.bincount(text[is_first], minlength=len(self.counts)).astype(np.int64))

    def whole(self) -> Hashes:
        """Hash of the sequence of all units of each text, shape (texts,)."""
        # Polynomial hash: each unit is weighted by the power of its position in the text.
        position = np.arange(len(self.hashes)) - np.repeat(self.ends - self.counts, self.counts)
        sums = np.zeros(len(self.counts), np.uint64)
        filled = self.counts > 0
        terms = self.hashes * _POWERS[position % _MAX_POWERS]
        sums[filled] = np.add.reduceat(terms, (self.ends - self.counts)[filled]) if len(terms) else 0
        return _mix(sums + self.counts.astype(np.uint64))


def units_of(texts: Sequence[str], language: Language) -> Units:
    """Units of texts in one language: characters of Chinese, words of English texts."""
    folded = fold(texts) if texts else []
    if language == "zh":
        folded = [text.replace(" ", "") for text in folded]
        codes = _simplified(_codes("".join(folded)))
        counts = np.array([len(text) for text in folded], np.int64)
        return Units(_mix(codes), counts, np.isin(codes, _codes(_NUMERALS)))
    counts = np.array([text.count(" ") + 1 if text else 0 for text in folded], np.int64)
    joined = " ".join(filter(None, folded))
    hashes = _words(joined)
    return Units(hashes, counts, _are_digits(joined) | np.isin(hashes, _words(_NUMBER_WORDS)))


def units(text: str, language: Language) -> Hashes:
    """Hashes of the units of one text in the way of a language, shape (units,).

    A text may quote the other language: as Chinese it is its characters, if any of them is Chinese, and as
    English its words, which end where a Chinese character begins.
    """
    if language == "zh":
        return units_of([text], language).hashes if HAN.search(text) else np.zeros(0, np.uint64)
    return units_of([HAN.sub(" ", text)], language).hashes


def characters(text: str) -> str:
    """A text for comparison character by character: folded, simplified, without spaces."""
    folded = fold([text])[0].replace(" ", "")
    codes = _simplified(_codes(folded)).astype(np.uint32)
    return codes.tobytes().decode("utf-32-le", errors="surrogatepass")


def hash_characters(folded: str) -> Hashes:
    """Hashes of the characters of ``characters``, shape (characters,)."""
    return _mix(_codes(folded))


@functools.cache
def _simplified_codes() -> npt.NDArray[np.uint64]:
    """For each code point below that of the last Chinese character that of its simplified form.

    Character by character: phrases that are simplified as a whole would depend on where a text is cut.
    """
    from opencc import OpenCC

    codes = np.arange(_AFTER_HAN, dtype=np.uint64)
    characters = [chr(code) for code in range(_FIRST_HAN, _AFTER_HAN)]
    simplified = OpenCC("t2s").convert("\n".join(characters)).split("\n")
    codes[_FIRST_HAN:] = [ord(character) for character in simplified]
    return codes


def _simplified(codes: Hashes) -> Hashes:
    """Code points with simplified for traditional characters, shape (characters,)."""
    table = _simplified_codes()
    return np.where(codes < _AFTER_HAN, table[np.minimum(codes, _AFTER_HAN - 1)], codes)


def _codes(text: str) -> Hashes:
    """Code points of a text, shape (characters,); lone surrogates included."""
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), np.uint32).astype(np.uint64)


def _words(folded: str) -> Hashes:
    """Hashes of the words of a text whose words are separated by one space, shape (words,)."""
    codes = _codes(folded)
    if not len(codes):
        return codes
    # Polynomial hash of each word. A space has the value 0, so that it can belong to the word before it; a
    # character has its code point plus one, so that none has the value 0.
    is_space = codes == ord(" ")
    starts = np.concatenate(([0], np.flatnonzero(is_space) + 1))
    lengths = np.diff(np.concatenate((starts, [len(codes) + 1])))
    position = np.arange(len(codes)) - np.repeat(starts, lengths)[: len(codes)]
    codes = np.where(is_space, np.uint64(0), codes + np.uint64(1))
    return _mix(np.add.reduceat(codes * _POWERS[position % _MAX_POWERS], starts))


def _are_digits(folded: str) -> npt.NDArray[np.bool_]:
    """Whether the words of a text, as ``_words`` takes it, begin with a digit; shape (words,)."""
    codes = _codes(folded)
    starts = np.concatenate(([0], np.flatnonzero(codes == ord(" ")) + 1))[: len(codes)]
    return (codes[starts] >= ord("0")) & (codes[starts] <= ord("9"))


def ngrams(hashes: Hashes, size: int) -> Hashes:
    """Hashes of all n-grams of ``size`` units, in order; of the whole text if it is shorter.

    Args:
        hashes: Units of one text, shape (units,).
        size: Units per n-gram.

    Returns:
        Shape (units - size + 1,), at least one unless the text is empty.
    """
    if not len(hashes):
        return hashes
    size = min(size, len(hashes))
    count = len(hashes) - size + 1
    # Polynomial hash by Horner's rule, for all n-grams at once.
    total = np.zeros(count, np.uint64)
    for offset in range(size):
        total = total * _FACTOR + hashes[offset : offset + count]
    return _mix(total + np.uint64(size))


def _mix(values: Hashes) -> Hashes:
    """Spread every bit of a value over all of its bits.

    Source: finalizer of splitmix64 (Steele, Lea and Flood, OOPSLA 2014).
    """
    values = (values ^ (values >> np.uint64(30))) * _MIX_1
    values = (values ^ (values >> np.uint64(27))) * _MIX_2
    return values ^ (values >> np.uint64(31))
