"""Labels that a text names, how each is meant, and the one that the text decides for.

All texts here have been translated by ``verdict_rules.NORMALISE``.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from itertools import pairwise
from typing import Literal

from safe_r1.judge import verdict_rules as rules
from safe_r1.judge.vocabulary import Vocabulary
from safe_r1.schema import Label, Unscored

Decision = Label | Literal[Unscored.AMBIGUOUS] | None
"""One label, several without a decision between them, or none."""

# Characters before a label in which a negation or a weakening is looked for.
_LEAD = 200

# Blanks between Chinese characters: "直接 拒绝".
_INNER_BLANKS = re.compile(r"(?<=[\u4e00-\u9fff])[ \t]+(?=[\u4e00-\u9fff])")
# A negation reaches no further back than its own clause.
_CLAUSE_END = re.compile(r"[,:]|但是?|而(?=是)|却|\bbut\b")
# "A or B", "B would do too": both stand, none is decided for.
_EITHER = re.compile(r"或(?!许)|[也亦]可")
# "closer to the former": the choice between two labels that were named before.
_FORMER_OR_LATTER = re.compile(r"(?:接近|倾向|选择?|应为|取|偏向|符合|属于|是)于?(前者|后者)")


class Sense(Enum):
    """How a label is meant."""

    ASSERTED = auto()
    WEAK = auto()
    DENIED = auto()


@dataclass(frozen=True)
class Mention:
    """A label named in a text.

    Attributes:
        label: The label.
        start: Position of its first character.
        end: Position after its last.
        sense: How it is meant.
    """

    label: Label
    start: int
    end: int
    sense: Sense


def find_mentions(text: str, words: Vocabulary) -> Iterator[Mention]:
    """Every label named in ``text``, with how it is meant."""
    text = _INNER_BLANKS.sub("", text)
    for found in words.label.finditer(text):
        lead = rules.SENTENCE_END.split(text[max(0, found.start() - _LEAD) : found.start()])[-1]
        label = words.labels[str(found.lastgroup)]
        yield Mention(label, found.start(), found.end(), _sense(text, found.end(), lead))


def names_all_labels(text: str, words: Vocabulary) -> bool:
    """True where all labels are named: the choice repeated from the prompt, not a choice made."""
    return len({mention.label for mention in find_mentions(text, words)}) == len(words.labels)


def decide(text: str, words: Vocabulary, *, weak_counts: bool = True) -> Decision:
    """The one label that ``text`` decides for.

    Args:
        text: A field or a sentence.
        words: The labels.
        weak_counts: A label that is only supposed ("perhaps") counts where no other is asserted.
    """
    only = words.alone.fullmatch(text)
    if only:
        return words.labels[str(only.lastgroup)]
    text = _INNER_BLANKS.sub("", text)
    mentions = list(find_mentions(text, words))
    asserted = [mention for mention in mentions if mention.sense is Sense.ASSERTED]
    if not asserted and weak_counts:
        asserted = [mention for mention in mentions if mention.sense is Sense.WEAK]
    named = list(dict.fromkeys(mention.label for mention in asserted))
    if len(named) < 2:
        return named[0] if named else None
    decided = [
        mention
        for before, mention in pairwise(asserted)
        if rules.DECIDES.search(text[max(0, mention.start - _LEAD) : mention.start])
        and not _EITHER.search(text[before.end : mention.start])
    ]
    if decided:
        return decided[-1].label
    pronouns = _FORMER_OR_LATTER.findall(text)
    if pronouns and len(named) == 2:
        return named[0] if pronouns[-1] == "前者" else named[1]
    return _decide_without_afterthought(text.strip(), words)


def _sense(text: str, end: int, lead: str) -> Sense:
    """How the label that ends at ``end`` is meant; ``lead`` is its sentence up to it."""
    lead = rules.NOT_NEGATION.sub("", lead)
    clause = _CLAUSE_END.split(lead)[-1]
    if (
        rules.NEGATED.search(clause)
        or rules.HYPOTHETICAL.search(rules.TURN.split(lead)[-1])
        or rules.DENIED_AFTER.match(text, end)
        or rules.DEFINED_AFTER.match(text, end)
    ):
        return Sense.DENIED
    if rules.WEAK.search(lead) or rules.ASKED_AFTER.match(text, end):
        return Sense.WEAK
    return Sense.ASSERTED


def _decide_without_afterthought(text: str, words: Vocabulary) -> Decision:
    """The label of the first clause where the rest explains it: "label A (not label B, because ...)"."""
    first = re.split(r"[。!?;(]", text)[0]
    rest = text[len(first) :]
    has_words = re.search(r"\w", words.label.sub("", rest))
    if has_words and not rules.ALTERNATIVE.search(rest):
        return decide(first, words) or Unscored.AMBIGUOUS
    return Unscored.AMBIGUOUS
