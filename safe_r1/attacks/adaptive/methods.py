"""The methods: what a layer of attempts is made of, and what is left of it for the next one.

Source:
    PAIR: arXiv 2310.08419. TAP: arXiv 2312.02119. Crescendo: arXiv 2404.01833. Best-of-N: arXiv 2412.03556.
    The attacker's texts are this project's own; scores come from the run's judge.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, Protocol

from safe_r1.attacks.adaptive.augment import draw
from safe_r1.attacks.adaptive.prompts import Past, crescendo_messages, refine_messages
from safe_r1.attacks.adaptive.turns import Question
from safe_r1.attacks.base import seeded
from safe_r1.config.adaptive import AdaptiveConfig, BestOfNConfig, CrescendoConfig, PairConfig, TapConfig
from safe_r1.schema import Message, RefusalLabel

Result = Literal["labelled", "no_label", "no_answer", "refused", "unreadable", "off_topic"]
"""How an attempt ended. ``labelled``: the judge labelled an answer; ``no_label``: it could not;
``no_answer``: the target gave none; the others never reached the target: the attacker ``refused``, its reply
was ``unreadable``, or its prompt asked for something else (``off_topic``).
"""
ASKED: tuple[Result, ...] = ("labelled", "no_label", "no_answer")
"""Results of attempts that reached the target."""


class CallCounts(NamedTuple):
    """Calls by role."""

    attacker: int = 0
    target: int = 0
    judge: int = 0


NO_CALLS = CallCounts()


@dataclass(frozen=True)
class Branch:
    """What an attempt continues.

    Attributes:
        number: Stream, conversation or draw; in a tree the first prompt that it comes from.
        past: Prompts before, in order.
        failures: Replies of the attacker without a prompt.
        parent: Attempt of the layer before; -1 for none.
    """

    number: int
    past: tuple[Past, ...] = ()
    failures: int = 0
    parent: int = -1


@dataclass(frozen=True)
class Ended:
    """An attempt that has ended.

    Attributes:
        place: Its number in its layer.
        branch: What it continued.
        result: How it ended.
        past: What is remembered of it; None where the target was not asked.
    """

    place: int
    branch: Branch
    result: Result
    past: Past | None

    @property
    def continued(self) -> Branch:
        """The branch with this attempt."""
        if self.past is None:
            return replace(self.branch, failures=self.branch.failures + 1, parent=self.place)
        return replace(self.branch, past=(*self.branch.past, self.past), parent=self.place)


class Method(Protocol):
    """One way to search."""

    @property
    def costs(self) -> CallCounts:
        """Calls of one attempt at most."""
        ...

    @property
    def checks_topic(self) -> bool:
        """Whether a prompt is compared with the question before the target is asked."""
        ...

    def first(self) -> list[Branch]:
        """Branches of the first layer, one for each attempt."""
        ...

    def following(self, layer: Sequence[Ended]) -> list[Branch]:
        """Branches of the next layer, one for each attempt; empty at the end."""
        ...

    def request(self, question: Question, branch: Branch) -> list[Message]:
        """What the attacker is asked; empty where there is none."""
        ...

    def drawn(self, question: Question, branch: Branch, seed: int) -> str:
        """The prompt of a method without an attacker; empty for others."""
        ...

    def dialogue(self, question: Question, branch: Branch, prompt: str) -> list[Message]:
        """What the target is asked."""
        ...


@dataclass(frozen=True)
class _WithAttacker:
    """What methods have in common whose prompts an attacker writes."""

    attacker_failures: int
    remembered: int
    costs: CallCounts = field(default=CallCounts(attacker=1, target=1, judge=1))
    checks_topic: bool = False

    def drawn(self, question: Question, branch: Branch, seed: int) -> str:
        """See ``Method``."""
        return ""

    def request(self, question: Question, branch: Branch) -> list[Message]:
        """See ``Method``."""
        return refine_messages(question.text, branch.past, branch.number, self.remembered)

    def dialogue(self, question: Question, branch: Branch, prompt: str) -> list[Message]:
        """See ``Method``."""
        return _after_dialogue(question, prompt)

    def _has_failed(self, branch: Branch) -> bool:
        return branch.failures >= self.attacker_failures


@dataclass(frozen=True)
class Pair(_WithAttacker):
    """Streams side by side."""

    settings: PairConfig = field(default=PairConfig())

    def first(self) -> list[Branch]:
        """See ``Method``."""
        return [Branch(number) for number in range(self.settings.streams)]

    def following(self, layer: Sequence[Ended]) -> list[Branch]:
        """See ``Method``."""
        branches = [ended.continued for ended in layer]
        return [
            branch
            for branch in branches
            if len(branch.past) < self.settings.depth and not self._has_failed(branch)
        ]


@dataclass(frozen=True)
class Tap(_WithAttacker):
    """A tree: of each layer the best prompts are kept, and several are made of each."""

    settings: TapConfig = field(default=TapConfig())
    # The second call of the attacker compares the prompt with the question.
    costs: CallCounts = field(default=CallCounts(attacker=2, target=1, judge=1))
    checks_topic: bool = True

    def first(self) -> list[Branch]:
        """See ``Method``."""
        return [Branch(number) for number in range(self.settings.branching)]

    def following(self, layer: Sequence[Ended]) -> list[Branch]:
        """See ``Method``."""
        asked = [ended for ended in layer if ended.past is not None]
        if not asked:
            # Nothing to prune: the same prompts are continued once more.
            failed = [ended.continued for ended in layer]
            return [branch for branch in failed if not self._has_failed(branch)]
        if len(asked[0].continued.past) >= self.settings.depth:
            return []
        # Where scores are equal the order is that of the layer.
        ranked = sorted(asked, key=_score, reverse=True)
        kept = [replace(ended.continued, failures=0) for ended in ranked[: self.settings.width]]
        return [branch for branch in kept for _ in range(self.settings.branching)]


@dataclass(frozen=True)
class Crescendo(_WithAttacker):
    """Conversations that escalate; a turn that the target refuses is taken back."""

    settings: CrescendoConfig = field(default=CrescendoConfig())

    def first(self) -> list[Branch]:
        """See ``Method``."""
        return [Branch(number) for number in range(self.settings.conversations)]

    def following(self, layer: Sequence[Ended]) -> list[Branch]:
        """See ``Method``."""
        branches = [ended.continued for ended in layer]
        return [
            branch
            for branch in branches
            if self._left(branch) > 0
            and _num_refused(branch) <= self.settings.backtracks
            and not self._has_failed(branch)
        ]

    def request(self, question: Question, branch: Branch) -> list[Message]:
        """See ``Method``."""
        return crescendo_messages(
            question.text, branch.past, self.settings.turns, self._left(branch), self.remembered
        )

    def dialogue(self, question: Question, branch: Branch, prompt: str) -> list[Message]:
        """See ``Method``."""
        turns: list[Message] = []
        for past in branch.past:
            if not past.is_refused:
                turns.append(Message(role="user", content=past.prompt))
                turns.append(Message(role="assistant", content=past.answer or ""))
        return _after_dialogue(question, prompt, turns)

    def _left(self, branch: Branch) -> int:
        return self.settings.turns - len(branch.past) + _num_refused(branch)


@dataclass(frozen=True)
class BestOfN:
    """Draws, some at a time."""

    settings: BestOfNConfig
    costs: CallCounts = field(default=CallCounts(target=1, judge=1))
    checks_topic: bool = False

    def first(self) -> list[Branch]:
        """See ``Method``."""
        return self._draws(0)

    def following(self, layer: Sequence[Ended]) -> list[Branch]:
        """See ``Method``."""
        return self._draws(layer[-1].branch.number + 1)

    def request(self, question: Question, branch: Branch) -> list[Message]:
        """See ``Method``."""
        return []

    def drawn(self, question: Question, branch: Branch, seed: int) -> str:
        """See ``Method``."""
        rng = seeded(seed, f"bon/{question.repeat}/{branch.number}", question.sample_id)
        return draw(question.text, rng)

    def dialogue(self, question: Question, branch: Branch, prompt: str) -> list[Message]:
        """See ``Method``."""
        return _after_dialogue(question, prompt)

    def _draws(self, start: int) -> list[Branch]:
        end = min(start + self.settings.at_once, self.settings.n)
        return [Branch(number) for number in range(start, end)]


def get_method(config: AdaptiveConfig) -> Method:
    """The method of the settings."""
    if config.method == "bon":
        return BestOfN(config.bon)
    shared = config.attacker_failures, config.remembered_turns
    if config.method == "pair":
        return Pair(*shared, settings=config.pair)
    if config.method == "tap":
        return Tap(*shared, settings=config.tap)
    return Crescendo(*shared, settings=config.crescendo)


def most_target_calls(config: AdaptiveConfig) -> int:
    """Calls of the target a question at most."""
    if config.method == "pair":
        most = config.pair.streams * config.pair.depth
    elif config.method == "tap":
        most, layer = 0, config.tap.branching
        for _ in range(config.tap.depth):
            most += layer
            layer = min(layer, config.tap.width) * config.tap.branching
    elif config.method == "crescendo":
        most = config.crescendo.conversations * (config.crescendo.turns + config.crescendo.backtracks)
    else:
        most = config.bon.n
    return min(most, config.budget.target or most)


def is_refused(label: RefusalLabel | None, answer: str | None) -> bool:
    """Whether a turn is taken back: the target refused, or gave no answer that could be continued."""
    return answer is None or (label is not None and label.is_refusal)


def _score(ended: Ended) -> float:
    return 0.0 if ended.past is None or ended.past.score is None else ended.past.score


def _num_refused(branch: Branch) -> int:
    return sum(past.is_refused for past in branch.past)


def _after_dialogue(question: Question, prompt: str, turns: Sequence[Message] = ()) -> list[Message]:
    return [*question.messages[:-1], *turns, Message(role="user", content=prompt)]
