"""A team's own keywords: held against the standard's numbers, and found in texts.

A word is found as it stands, and in the text as its reader sees it (``judge.disguise``), also where blanks or
marks stand between its characters. ``keyword_files`` reads lists.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from safe_r1.filing.automaton import Automaton
from safe_r1.filing.policy import FilingPolicy
from safe_r1.judge.disguise import plain
from safe_r1.taxonomy import CATEGORIES

_CONTEXT_CHARS = 12
_HAN = "\u3400-\u9fff"
_BETWEEN = re.compile(rf"(?<=[{_HAN}])[ \t\u3000·・•*_~^+|.\-]{{1,3}}(?=[{_HAN}])")


@dataclass(frozen=True)
class Keyword:
    """A word of a list.

    Attributes:
        word: As it stands in the list, without blanks around it.
        risks: Keys of its risks (``safe_r1.taxonomy``); several where it stands in several rows, maybe none.
    """

    word: str
    risks: tuple[str, ...]

    @property
    def names(self) -> str:
        """Chinese names of its risks."""
        return "、".join(CATEGORIES[risk].name_zh for risk in self.risks)


@dataclass(frozen=True)
class KeywordList:
    """The words of a file.

    Attributes:
        name: Name of the file.
        words: Each word once, in the order of the file.
        num_repeated: Rows with a word that stands above with the same risk, or differs from it in case alone.
        notes: What was decided about the file and its user should know, such as its encoding.
    """

    name: str
    words: tuple[Keyword, ...]
    num_repeated: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hit:
    """A keyword in a text.

    Attributes:
        keyword: The word.
        count: How often it stands there.
        start: Place of the first, in characters from 0; of a disguised word in the text without disguises.
        excerpt: The first with what stands around it, in one line.
        is_disguised: Whether it is there only once disguises are undone.
    """

    keyword: Keyword
    count: int
    start: int
    excerpt: str
    is_disguised: bool

    def to_text(self) -> str:
        """Word, risk and place in one line of Chinese."""
        risk = f"（{self.keyword.names}）" if self.keyword.risks else ""
        place = f"{'还原后' if self.is_disguised else ''}第 {self.start + 1} 字"
        return f"{self.keyword.word}{risk}×{self.count}，{place}：{self.excerpt}"


class KeywordFinder:
    """Finds the words of a list in texts, in time that grows with the texts alone."""

    def __init__(self, keywords: KeywordList) -> None:
        """Build the automaton; a list of 10,000 words takes about a second.

        Args:
            keywords: The words.
        """
        forms: dict[str, dict[Keyword, None]] = defaultdict(dict)
        for keyword in keywords.words:
            for form in filter(None, _readings(keyword.word)):
                forms[form][keyword] = None
        self._forms: Mapping[str, tuple[Keyword, ...]] = {form: tuple(found) for form, found in forms.items()}
        self._automaton = Automaton(self._forms)

    def find(self, text: str) -> list[Hit]:
        """The words in a text, each once, by their places; disguised ones behind those that stand there."""
        hits: list[Hit] = []
        known: set[Keyword] = set()
        for number, reading in enumerate(_readings(text)):
            found = self._find_in(reading, is_disguised=number > 0)
            hits += [hit for hit in found if hit.keyword not in known]
            known.update(hit.keyword for hit in found)
        return hits

    def _find_in(self, text: str, *, is_disguised: bool) -> list[Hit]:
        places: dict[Keyword, tuple[int, int]] = {}
        counts: Counter[Keyword] = Counter()
        for start, end in self._automaton.find(text):
            for keyword in self._forms[text[start:end]]:
                counts[keyword] += 1
                places.setdefault(keyword, (start, end))
        ordered = sorted(places, key=places.__getitem__)
        return [
            Hit(each, counts[each], places[each][0], _excerpt(text, *places[each]), is_disguised)
            for each in ordered
        ]


def _readings(text: str) -> list[str]:
    """A text as it stands, without disguises, and without marks between its characters; each once."""
    read = plain(text)
    return list(dict.fromkeys(map(fold, (text, read, _BETWEEN.sub("", read)))))


def fold(text: str) -> str:
    """A text in small letters, with as many characters, so that places stay."""
    # Of all characters only İ would become two, and ς depends on its neighbours.
    return text.replace("İ", "i").lower().replace("ς", "σ")


def _excerpt(text: str, start: int, end: int) -> str:
    before = text[max(0, start - _CONTEXT_CHARS) : start]
    after = text[end : end + _CONTEXT_CHARS]
    marks = ("…" if start > _CONTEXT_CHARS else "", "…" if end + _CONTEXT_CHARS < len(text) else "")
    return " ".join(f"{marks[0]}{before}【{text[start:end]}】{after}{marks[1]}".split())


def check_list(keywords: KeywordList, policy: FilingPolicy) -> list[str]:
    """What a user should know of a list, by line: its numbers against a policy's, and what looks wrong.

    Args:
        keywords: The list.
        policy: It has the numbers; one without keywords asks for none.
    """
    num = len(keywords.words)
    lines = [f"{keywords.name}: {num:,} keywords"]
    if rule := policy.keywords:
        lines = [f"{lines[0]} of at least {rule.size.value:,}: {_verdict(num, rule.size.value)}"]
        counts = Counter(risk for keyword in keywords.words for risk in keyword.risks)
        for each in rule.coverage:
            group = policy.groups[each.group]
            needed = each.each.value
            few = [f"{zh} {counts[key]:,}" for key, (zh, _) in group.names.items() if counts[key] < needed]
            said = f"too few: {', '.join(few)}" if few else "enough"
            enough = f"{len(group.names) - len(few)} of {len(group.names)} risks have at least {needed:,}"
            lines.append(f"{each.group} {group.zh}: {enough}; {said}")
        lines += filter(None, (policy.remark_en,))
    told = {
        "rows repeat a keyword": keywords.num_repeated,
        "keywords have no risk and count for none": sum(not each.risks for each in keywords.words),
        "keywords are one character, which ordinary texts have": sum(
            len(each.word) == 1 for each in keywords.words
        ),
    }
    return [*lines, *(f"{number:,} {what}" for what, number in told.items() if number), *keywords.notes]


def _verdict(num: int, minimum: int) -> str:
    return "enough" if num >= minimum else f"{minimum - num:,} too few"
