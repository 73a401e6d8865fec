"""Changes of words by a table: English words, emoji, words of classical Chinese."""

import functools
import random
import re
from dataclasses import dataclass

from safe_r1.attacks.base import Change
from safe_r1.attacks.tables import read_lines, read_pairs


@functools.cache
def _pattern(name: str) -> re.Pattern[str]:
    """Finds the words of a table, the longest first."""
    words = sorted(read_pairs(name), key=lambda word: (-len(word), word))
    return re.compile("|".join(map(re.escape, words)))


@functools.cache
def _inverse(name: str) -> tuple[re.Pattern[str], dict[str, str]]:
    back: dict[str, str] = {}
    for word, other in read_pairs(name).items():
        # The first of several words with one translation stands for all of them.
        back.setdefault(other, word)
    words = sorted(back, key=lambda word: (-len(word), word))
    letters = "|".join(re.escape(word) for word in words if word.isascii())
    others = "|".join(re.escape(word) for word in words if not word.isascii())
    # A part of a longer word is no word of the table.
    bounded = [f"(?<![A-Za-z])(?:{letters})(?![A-Za-z])"] if letters else []
    return re.compile("|".join([*bounded, *([others] if others else [])])), back


class English(Change):
    """Common words in English; normal: these words in Chinese, one for each translation, without blanks."""

    is_exact = False
    needs_chinese = True
    table = "english.txt"

    def change(self, text: str, rng: random.Random) -> str:
        """See ``Change``."""
        words = read_pairs(self.table)
        mixed = _pattern(self.table).sub(lambda word: f" {words[word[0]]} ", text)
        return _BLANKS.sub(r"\1\2", mixed).strip(" ")

    def undo(self, text: str) -> str:
        """See ``Change``."""
        pattern, words = _inverse(self.table)
        return pattern.sub(lambda word: words[word[0]], text).replace(" ", "")

    def normal(self, text: str) -> str:
        """See ``Change``."""
        words = read_pairs(self.table)
        back = _inverse(self.table)[1]
        return self.undo(_pattern(self.table).sub(lambda word: back[words[word[0]]], text))


# Blanks, but one between words, and none beside a mark.
_BLANKS = re.compile(r" *([，。、；：？！“”（）《》]) *| *( ) *")


class Emoji(Change):
    """Emoji for words that have one; normal: the words."""

    is_exact = False
    is_optional = True
    needs_chinese = True
    table = "emoji.txt"

    def change(self, text: str, rng: random.Random) -> str:
        """See ``Change``."""
        words = read_pairs(self.table)
        return _pattern(self.table).sub(lambda word: words[word[0]], text)

    def undo(self, text: str) -> str:
        """See ``Change``."""
        pattern, words = _inverse(self.table)
        return pattern.sub(lambda word: words[word[0]], text)

    def normal(self, text: str) -> str:
        """See ``Change``."""
        return self.undo(text)


@functools.cache
def _classical() -> tuple[re.Pattern[str], dict[str, str]]:
    """Finds words of modern Chinese; words that only hold one of them stand in the table as themselves."""
    table = dict(line.split(" ") for line in read_lines("classical.txt"))
    words = sorted(table, key=lambda word: (-len(word), word))
    return re.compile("|".join(map(re.escape, words))), table


class ClassicalWords(Change):
    """Function words of classical Chinese; normal: with them."""

    is_exact = False
    is_optional = True
    needs_chinese = True

    def change(self, text: str, rng: random.Random) -> str:
        """See ``Change``."""
        return self.normal(text)

    def undo(self, text: str) -> str:
        """See ``Change``."""
        return text

    def normal(self, text: str) -> str:
        """See ``Change``."""
        pattern, words = _classical()
        return pattern.sub(lambda word: words[word[0]], text)


@dataclass(frozen=True)
class Lookup(Change):
    """The whole question by a table of the user's.

    Attributes:
        place: Of the table, for messages.
        table: Question to its translation.
    """

    place: str
    table: dict[str, str]

    hint = "请用中文回答。"
    leaves_chinese = False

    def change(self, text: str, rng: random.Random) -> str:
        """The translation.

        Raises:
            DataError: The table has none.
        """
        from safe_r1.errors import DataError

        if text not in self.table:
            raise DataError(
                f"{self.place}: no translation of the question {text[:40]!r}; add a line for it, or leave "
                "the attack out"
            )
        return self.table[text]

    def undo(self, text: str) -> str:
        """See ``Change``."""
        return next(question for question, other in self.table.items() if other == text)
