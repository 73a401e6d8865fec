"""What a reader makes of a disguised text: the text in plain characters, and what is encoded in it.

Owns the normalisation of judged texts. ``plain`` undoes compatibility forms, invisible characters, blanks
between characters, traditional characters and the usual homophones; ``decode`` reads base64 and pinyin, once.
The tables are ``data/disguises.toml``. Both take time in proportion to the length of a text, and leave an
ordinary text as it is.
"""

import base64
import binascii
import functools
import re
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from safe_r1.judge.lexicon_features import rules_text
from safe_r1.judge.pinyin import PinyinReader, Syllables

READINGS_VERSION = "readings/1"
"""Part of the identity of judges that read by this module; grows when a text may come out otherwise."""

_HAN = "\u3400-\u9fff"
# Characters that show nothing.
_INVISIBLE = (
    "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b\u200c\u200e\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufeff\uffa0\U000e0000-\U000e01ef"
)
# Marks laid over a character.
_OVERLAYS = "\u0334-\u0338\u0489\u20d2\u20d3\u20d8-\u20da\u20e5\u20e6\u20ea\u20eb"
# Emoji are built with these, which show nothing behind a letter; accents belong to letters alone.
_JOINERS = "\u200d\ufe00-\ufe0f"
_ACCENTS = "\u0300-\u036f"
# Letters and digits in other shapes. Digits in circles are left out: they number the lines of a list.
_SHAPES = (
    "\u2e80-\u2fdf\u24b6-\u24e9\u3280-\u32b0\uf900-\ufaff\ufb00-\ufb06\uff10-\uff19\uff21-\uff3a\uff41-\uff5a"
    "\U0001d400-\U0001d7ff\U0001f130-\U0001f149\U0002f800-\U0002fa1f"
)
_HIDDEN = re.compile(f"[{_INVISIBLE}{_OVERLAYS}]|(?<=[A-Za-z{_HAN}])[{_JOINERS}]|(?<=[{_HAN}])[{_ACCENTS}]")
_SHAPE = re.compile(f"[{_SHAPES}]")
# A single character, one or two blanks or marks, the next one, four times and more.
_MARKS = r" \t\u00a0\u3000·・•.．*_~^+|\-"
_SPACED = re.compile(
    rf"(?<![{_HAN}])[{_HAN}](?:[{_MARKS}\n]{{1,2}}[{_HAN}](?![{_HAN}])){{3,}}"
    r"|(?<![A-Za-z])[A-Za-z](?:[ .*_\-][A-Za-z](?![A-Za-z])){4,}"
)
_SEPARATORS = re.compile(rf"[{_MARKS}\n]+")
# A blank between two characters, which may be inside of a word.
_BLANK = r" \t\u00a0\u3000·・•~^+"
_SPLIT = re.compile(rf"(?<=[{_HAN}])[{_BLANK}]{{1,2}}(?=[{_HAN}])")
_BLANKS = re.compile(f"[{_BLANK}]+")
# Characters of a word on one side of a blank, and where they are looked for.
_MAX_HALF = 3
_WINDOW = 8
_BASE64 = re.compile(r"(?<![A-Za-z0-9+/_\-])[A-Za-z0-9+/_\-]{16,}+(?:\r?\n[A-Za-z0-9+/_\-]{4,}+)*+={0,2}")
_URL_SAFE = str.maketrans("-_", "+/")
# Letters and punctuation of a decoded text that is one, as a share; bytes by chance have fewer.
_MIN_READABLE = 0.9
_READABLE = re.compile(rf"[A-Za-z0-9 \n,.;:!?'{_HAN}，。；：！？、“”《》（）]")
# Letters that may stand before and behind an encoded text that is all there is, such as "base64:".
_MIN_PLAIN_CHARS = 12
_LATIN = re.compile("[A-Za-z]{2}")
_LETTER = re.compile(rf"[A-Za-z{_HAN}]")
_TERM = re.compile(r"[\u4e00-\u9fff]{2,}")
# The groups of rules whose words are read in pinyin where they stand alone.
_TERM_GROUPS = ("insult",)


@dataclass(frozen=True)
class Decoded:
    """What a text says once what is encoded in it is read.

    Attributes:
        how: The encodings: ``base64``, ``pinyin``.
        text: The text with the decoded passages in their places.
        passages: The decoded passages alone.
        is_all: The text says hardly anything else.
    """

    how: tuple[str, ...]
    text: str
    passages: str
    is_all: bool


@dataclass(frozen=True)
class _Tables:
    suspect: re.Pattern[str]
    simplified: Mapping[int, str]
    hint: re.Pattern[str]
    homophone: re.Pattern[str]
    meanings: Mapping[str, str]
    halves: frozenset[tuple[str, str]]


def tables_text() -> str:
    """The tables as they are shipped; part of the identity of a judge that reads by them."""
    return files("safe_r1.judge").joinpath("data/disguises.toml").read_text(encoding="utf-8")


def plain(text: str) -> str:
    """A text in the characters that its reader sees; an ordinary text stays as it is."""
    tables = _tables()
    # Looked for first: most texts have none of them.
    if tables.suspect.search(text):
        text = _HIDDEN.sub("", text)
        text = _SHAPE.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
        text = text.translate(tables.simplified)
    text = _SPACED.sub(lambda found: _SEPARATORS.sub("", found[0]), text)
    text = _SPLIT.sub(lambda found: "" if _is_in_word(found) else found[0], text)
    if tables.hint.search(text):
        text = tables.homophone.sub(lambda found: tables.meanings[found[0]], text)
    return text


def decode(text: str, reader: PinyinReader) -> Decoded | None:
    """What is encoded in a text, decoded once; None where nothing is.

    Args:
        text: As ``plain`` gives it.
        reader: Reads pinyin.
    """
    if not _LATIN.search(text):
        return None
    found = [(*each, "base64") for each in _base64_passages(text)]
    found += [(*each, "pinyin") for each in reader.passages(text)]
    if not found:
        return None
    parts: list[str] = []
    passages: list[str] = []
    outside: list[str] = []
    end = 0
    for start, stop, passage, _ in sorted(found):
        # Letters of base64 that are syllables by chance.
        if start < end:
            continue
        outside.append(text[end:start])
        passages.append(passage)
        parts += [text[end:start], passage]
        end = stop
    outside.append(text[end:])
    num_outside = len(_LETTER.findall("".join(outside)))
    how = tuple(dict.fromkeys(name for *_, name in found))
    return Decoded(how, "".join([*parts, text[end:]]), "\n".join(passages), num_outside < _MIN_PLAIN_CHARS)


def make_reader(pairs: Mapping[str, float]) -> PinyinReader:
    """A reader of pinyin with the characters of the tables and the words of the rules.

    Args:
        pairs: See ``PinyinReader``.
    """
    characters: dict[str, str] = _content()["pinyin"]
    # The commonest reading of a character is that in which it stands first.
    syllables: dict[str, tuple[int, str]] = {}
    for syllable, chars in characters.items():
        for rank, char in enumerate(chars):
            syllables[char] = min((rank, syllable), syllables.get(char, (rank, syllable)))
    terms: dict[Syllables, str] = {}
    rules = tomllib.loads(rules_text())["zh"]
    for term in _TERM.findall("|".join(phrase for group in _TERM_GROUPS for phrase in rules[group])):
        if all(char in syllables for char in term):
            terms[tuple(syllables[char][1] for char in term)] = term
    return PinyinReader(characters, pairs, terms)


def _base64_passages(text: str) -> Iterator[tuple[int, int, str]]:
    """Start, end and content of each passage in base64 that is a text."""
    for found in _BASE64.finditer(text):
        passage = _from_base64(found[0])
        if passage is not None:
            yield found.start(), found.end(), passage


def _from_base64(code: str) -> str | None:
    digits = "".join(code.split()).rstrip("=").translate(_URL_SAFE)
    try:
        # What is left over of a group of four was cut off.
        data = base64.b64decode(digits[: len(digits) // 4 * 4] + _padding(digits), validate=True)
        passage = data.decode("utf-8", "strict")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return passage if len(_READABLE.findall(passage)) >= _MIN_READABLE * len(passage) else None


def _padding(digits: str) -> str:
    rest = digits[len(digits) // 4 * 4 :]
    return f"{rest}{'=' * (4 - len(rest))}" if len(rest) > 1 else ""


def _is_in_word(blank: re.Match[str]) -> bool:
    """Whether a blank stands inside of one of the lexicon's own words."""
    halves = _tables().halves
    before = _BLANKS.sub("", blank.string[max(0, blank.start() - _WINDOW) : blank.start()])
    after = _BLANKS.sub("", blank.string[blank.end() : blank.end() + _WINDOW])
    sizes = range(1, _MAX_HALF + 1)
    return any((before[-left:], after[:right]) in halves for left in sizes for right in sizes)


def _rarest(word: str) -> str:
    """The character of a word that ordinary texts have least, by its place in the tables."""
    ranks = {char: rank for chars in _content()["pinyin"].values() for rank, char in enumerate(chars)}
    return max(word, key=lambda char: ranks.get(char, len(ranks)))


@functools.cache
def _content() -> dict[str, Any]:
    return tomllib.loads(tables_text())


@functools.cache
def _tables() -> _Tables:
    content = _content()
    traditional, simplified = content["traditional"], content["simplified"]
    meanings = {spelled: word for word, every in content["homophones"].items() for spelled in every}
    disguised = tuple(meanings)
    meanings |= {word: word for word in content["ordinary"].split()}
    # Longer ones first: "麻辣鸡" is a dish.
    spellings = sorted(meanings, key=lambda spelled: (-len(spelled), spelled))
    terms = [term for term in _TERM.findall(rules_text()) if len(term) <= _MAX_HALF + 1]
    return _Tables(
        re.compile(f"[{_INVISIBLE}{_OVERLAYS}{_JOINERS}{_ACCENTS}{_SHAPES}{traditional}]"),
        dict(zip(map(ord, traditional), simplified, strict=True)),
        re.compile(f"[{''.join(sorted({_rarest(spelled) for spelled in disguised}))}]"),
        re.compile("|".join(spellings)),
        meanings,
        frozenset((term[:cut], term[cut:]) for term in terms for cut in range(1, len(term))),
    )
