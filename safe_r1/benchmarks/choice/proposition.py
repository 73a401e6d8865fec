"""What a yes/no question asks: terms of its predicate, each with the polarity that the question gives it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from safe_r1.benchmarks.choice import words

# The question's own clause, in four forms: "是否……", "……吗?", "有……?", "……与否".
_WHETHER = r"(?:是否|有没有|是不是|会不会|能否|可否)(?P<whether>[^?:。\n]{1,60})"
_ASKED = re.compile(
    rf"{_WHETHER}|(?P<ma>[^,。?:;\n]{{1,60}})吗\s*\?|(?P<plain>有[^,。?:;\n]{{1,40}})\?|(?P<or>[^,。?:;\n]{{1,30}})与否"
)
# A beginning that announces a text, which may hold questions of its own.
_ANNOUNCED = re.compile(rf"\s*(?:请问|请|判断|以下|下面|下列|上述)[^。?:\n]{{0,40}}?{_WHETHER}")
_OPTIONS = re.compile(r"(?:^|\s|\()A\s?[.、:)]")
_MODAL = re.compile("会不会|能否|可否|可以|能够|应该|应当|会|能")
_SPLIT = re.compile(r"、|和|或者?|以及|及|与|且")


_DENIAL = re.compile("(?:不|没有|没|未|并未|并不|无|非)")


def find_pair(texts: Sequence[str]) -> tuple[int, int] | None:
    """Positions of the options that say yes and no; None for other options.

    Args:
        texts: Their texts in the normalized writing.
    """
    said = [[i for i, text in enumerate(texts) if text in listed] for listed in (words.YES, words.NO)]
    if len(said[0]) == len(said[1]) == 1:
        return said[0][0], said[1][0]
    if len(texts) != 2:
        return None
    for yes, no in ((0, 1), (1, 0)):
        denial = _DENIAL.match(texts[no])
        is_denied = denial and texts[no][denial.end() :] == texts[yes]
        if is_denied or (_RATINGS.get(texts[yes]) is False and _RATINGS.get(texts[no]) is True):
            return yes, no
    return None


def _any(listed: Iterable[str]) -> str:
    return "|".join(sorted(listed, key=len, reverse=True))


_NEGATED = re.compile("[不非未无]")
_GENERIC = re.compile(words.GENERIC)
_RATINGS: dict[str, bool] = dict.fromkeys(words.GOOD, False) | dict.fromkeys(words.BAD, True)
_ASSENTS: dict[str, bool] = dict.fromkeys(words.ASSENT, False) | dict.fromkeys(words.DISSENT, True)
_RATING = re.compile(_any(_RATINGS))
# A verb at the beginning, with its negation and adverbs; a negation before anything else is not the verb's.
_HEAD = re.compile(
    rf"(?:{_any(words.ADVERBS)})?(?P<negation>[不未无])?(?P<verb>{_any(words.VERBS)})(?:出来|出|到|了)*"
)
_FILLER = re.compile(rf"(?P<negation>[不非未无])|{_any(words.ADVERBS)}|{words.GENERIC}")
_PIECES = re.compile(rf"(不)|{_any(word for word in words.VERBS if len(word) > 1)}|{words.GENERIC}")
# Ratings that fit whatever question, and say nothing where it is about a breach of rules.
_GENERAL: dict[str, bool] = dict.fromkeys(words.listed("正确 合适 恰当 妥当 合理 可靠 准确 得当"), False)


@dataclass
class Proposition:
    """What a yes/no question asks.

    Attributes:
        terms: Terms of its predicate, each with whether the question negates it.
        predicates: Terms that are predicates by themselves.
        verbs: The question's own verbs, each with whether the question negates it.
        ratings: Words that rate, each with whether it denies; empty where the question asks for no rating.
        own_ratings: Ratings that the question itself uses.
        own_kinds: Terms of which the question names one kind.
        other_kinds: Other kinds, of which nothing is asked.
        joints: What stands around the commas of its predicate.
        is_any_object: Its verbs alone decide, whatever their object.
        is_assent: The question asks for agreement.
        is_negative_rating: The question asks whether something is bad.
        is_modal: The question asks what one can or will do.
    """

    terms: dict[str, bool] = field(default_factory=dict)
    predicates: set[str] = field(default_factory=set)
    verbs: dict[str, bool] = field(default_factory=dict)
    ratings: Mapping[str, bool] = field(default_factory=dict)
    own_ratings: set[str] = field(default_factory=set)
    own_kinds: set[str] = field(default_factory=set)
    other_kinds: set[str] = field(default_factory=set)
    joints: list[str] = field(default_factory=list)
    is_any_object: bool = False
    is_assent: bool = False
    is_negative_rating: bool = False
    is_modal: bool = False

    @property
    def takes_verbs(self) -> bool:
        """Whether a verb answers it alone: "属于", but not to "正确吗"."""
        return bool(self.verbs) or not self.ratings

    @classmethod
    def of_options(cls, yes: str) -> Self | None:
        """The proposition that the options themselves state, as "正确" and "错误" do; None for "是".

        Args:
            yes: The option that affirms.
        """
        if yes in _ASSENTS:
            return cls(ratings=_RATINGS | _ASSENTS, own_ratings=set(_ASSENTS), is_assent=True)
        if yes in _RATINGS or yes == "对":
            return cls(ratings=_RATINGS, own_ratings=set(_RATINGS))
        if yes in words.YES:
            return None
        proposition = cls()
        proposition._add_clause(yes)
        if not proposition.terms:
            proposition.verbs[yes] = False
            proposition.is_any_object = True
        return proposition

    @classmethod
    def unknown(cls) -> Self:
        """What a safety question usually asks, where it is not at hand."""
        risks = dict.fromkeys(words.RISKS, False)
        return cls(
            risks,
            set(risks) & words.PREDICATES,
            dict.fromkeys(words.BREACHES, False),
            ratings=_GENERAL,
            own_ratings=set(_GENERAL),
            is_any_object=True,
        )

    @classmethod
    def of_question(cls, question: str) -> Self | None:
        """The proposition of a question in the normalized writing; None where none can be read.

        Args:
            question: Its text; options and an instruction may follow.
        """
        stem = question[: match.start()] if (match := _OPTIONS.search(question)) else question
        announced = _ANNOUNCED.match(stem)
        asked = announced or next(reversed(list(_ASKED.finditer(stem))), None)
        if asked is None:
            return None
        clause = next(group for group in asked.groups() if group)
        proposition = cls(is_modal=bool(_MODAL.search(asked.group())))
        proposition._add_clause(clause)
        return proposition if proposition.terms or proposition.ratings else None

    def _add_clause(self, clause: str) -> None:
        # "这种说法正确吗": the predicate follows its subject.
        subject = next(reversed(list(re.finditer(words.SUBJECT, clause))), None)
        if subject and _RATING.search(clause, subject.end()):
            clause = clause[subject.end() :]
        self.joints = [clause[max(0, m.start() - 2) : m.end() + 2] for m in re.finditer(",", clause)]
        for phrase in clause.split(","):
            # A negated verb denies all of its objects: "不符合科学常识或主流认知".
            text, negated = self._without_verbs(phrase)
            for part in _SPLIT.split(text):
                self._add_part(part, negated)
        kinds = set(words.KINDS)
        self.own_kinds = {kind for kind in kinds if kind in clause}
        self.other_kinds = kinds - self.own_kinds if self.own_kinds else set()
        self.terms |= dict.fromkeys(self.own_kinds, False)

    def _without_verbs(self, text: str) -> tuple[str, bool]:
        """What follows the verbs at the beginning, and whether these are negated."""
        negated = False
        while match := _HEAD.match(text):
            negated ^= bool(match.group("negation"))
            if len(verb := match.group("verb") or "") > 1:
                self.verbs[verb] = negated
            text = text[match.end() :]
        return text, negated

    def _add_part(self, part: str, negated: bool) -> None:
        """Adds one object, such as "内容不准确" of "属于内容不准确"."""
        while part and not _RATING.match(part) and (match := _FILLER.match(part)):
            negated ^= bool(match.group("negation"))
            part = part[match.end() :]
        rating = _GENERIC.sub("", part)
        if rating in _RATINGS:
            self._ask_rating(rating, negated)
            return
        for piece in _PIECES.split(part):
            if piece and _NEGATED.fullmatch(piece):
                negated = not negated
            elif piece and len(piece) > 1:
                if not self.verbs and not self.terms:
                    self.predicates.add(piece[:2])
                self.terms |= {piece[i : i + 2]: negated for i in range(len(piece) - 1)}
        self.predicates |= set(self.terms) & words.PREDICATES

    def _ask_rating(self, word: str, negated: bool) -> None:
        self.is_negative_rating = negated ^ _RATINGS[word]
        self.ratings = {other: bad ^ self.is_negative_rating for other, bad in _RATINGS.items()}
        self.own_ratings |= {word, word.removeprefix("不"), f"不{word}"}
        # "缺乏科学依据" is what makes a statement unreliable.
        self.terms |= dict.fromkeys(words.GROUNDS, self.is_negative_rating)
        self.predicates |= {"科学"}
