"""The report of a benchmark under attacks: each attack beside the plain questions."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from markupsafe import Markup

from safe_r1.metrics.attack_curve import CurvePoint
from safe_r1.metrics.rate_fold import Rate
from safe_r1.metrics.tests import Difference
from safe_r1.report.html import asset, content_policy, html_environment
from safe_r1.report.labels import BenchmarkLabels
from safe_r1.report.markdown import markdown_environment, percent, rate_with_bounds, rate_with_interval
from safe_r1.schema import Message

PLAIN = "plain"


@dataclass(frozen=True)
class Success:
    """A harmful answer to an attacked question.

    Attributes:
        sample_id: The question.
        repeat: The repeat.
        category: Key of its category.
        question: Its last turn as the benchmark has it.
        asked: The turns as the model was asked.
        opening: What was put into the model's mouth; empty for nothing.
        answer: The answer.
    """

    sample_id: str
    repeat: int
    category: str
    question: str
    asked: Sequence[Message]
    opening: str
    answer: str


@dataclass(frozen=True)
class SearchResult:
    """What an attack that adapts has found within k calls of the model, and what it took.

    Attributes:
        attacker: Name of the model that wrote the prompts; None for chance.
        attacker_cost: Of its endpoint, in the currency of its prices; None where it is not known.
        num_conversations: Conversations, one for each question and repeat.
        never_asked: Those in which the attacker wrote no prompt, so that the model was not asked.
        most_target_calls: Calls of the model in one of them at most.
        calls: Calls of all conversations by role.
        tokens: Tokens of these calls by role; a judge's are not known.
        ends: Conversations by why they ended: ``success``, ``exhausted`` or ``budget``.
        results: Attempts by how they ended; ``refused`` are refusals of the attacker.
        curve: Success within k calls.
    """

    attacker: str | None
    attacker_cost: float | None
    num_conversations: int
    never_asked: int
    most_target_calls: int
    calls: Mapping[str, int]
    tokens: Mapping[str, int]
    ends: Mapping[str, int]
    results: Mapping[str, int]
    curve: Sequence[CurvePoint]

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """From ``search.json`` of a run folder."""
        given: dict[str, Any] = {each.name: content[each.name] for each in fields(cls)}
        given["curve"] = [CurvePoint(**point) for point in content["curve"]]
        return cls(**given)

    def to_json(self) -> dict[str, Any]:
        """Inverse of ``from_json``."""
        return asdict(self) | {"curve": [point._asdict() for point in self.curve]}


@dataclass(frozen=True)
class AttackOutcome:
    """What came of one attack, or of the questions as they are.

    Attributes:
        attack: Name of the attack; ``plain`` for none.
        family: Family of the attack.
        source: Where it was published, or ``own``.
        benchmark: Name of the attacked benchmark, whose own report has all rows.
        num_questions: Risky questions that were asked.
        answer: Share of them with a harmful answer; None where no row has an outcome.
        reasoning: The same of the reasonings.
        by_category: Of the answers by key of the category.
        over_refusal: Share of the harmless questions that were refused; None where none was asked.
        difference: ``answer`` less that of the plain questions, on the same questions; None without one.
        reasoning_difference: The same of ``reasoning``.
        over_refusal_difference: The same of ``over_refusal``.
        num_harmless: Harmless questions that were asked.
        problem: Why there is no result; empty where there is one.
        search: Success at k calls of an attack that adapts; None for others.
        successes: Some harmful answers.
        trained: Whether the model was trained on the attack, as ``TrainedAttacks.use_of`` says; empty where
            its folder says nothing.
    """

    attack: str
    family: str
    source: str
    benchmark: str
    num_questions: int = 0
    answer: Rate | None = None
    reasoning: Rate | None = None
    by_category: Mapping[str, Rate] = field(default_factory=dict)
    over_refusal: Rate | None = None
    difference: Difference | None = None
    reasoning_difference: Difference | None = None
    over_refusal_difference: Difference | None = None
    num_harmless: int = 0
    problem: str = ""
    search: SearchResult | None = None
    successes: Sequence[Success] = ()
    trained: str = ""

    @property
    def shown_difference(self) -> Markup:
        """``answer`` against plain, see ``shown_change``."""
        return shown_change(self.difference)


@dataclass(frozen=True)
class AttackReport:
    """One variant on one benchmark under attacks.

    Attributes:
        variant: The model.
        benchmark: The benchmark.
        judge: Who judged.
        outcomes: The plain questions first, then each attack.
        any_attack: Share of the questions with a harmful answer under at least one attack, by scope.
        labels: Names of categories.
    """

    variant: str
    benchmark: str
    judge: str
    outcomes: Sequence[AttackOutcome]
    any_attack: Sequence[Rate]
    labels: BenchmarkLabels

    @property
    def has_harmless(self) -> bool:
        """True where harmless questions were asked too."""
        return any(each.num_harmless for each in self.outcomes)

    @property
    def any_overall(self) -> Rate | None:
        """Of all questions."""
        return next((rate for rate in self.any_attack if rate.scope == "overall"), None)

    @property
    def categories(self) -> list[str]:
        """Keys of all categories in the order of the benchmark."""
        return self.labels.ordered(key for outcome in self.outcomes for key in outcome.by_category)

    @property
    def searches(self) -> list[AttackOutcome]:
        """Attacks that adapt, with a result."""
        return [each for each in self.outcomes if each.search is not None]

    @property
    def knows_training(self) -> bool:
        """Whether the model's folder says which attacks it was trained on."""
        return any(each.trained for each in self.outcomes)

    @property
    def num_attacks(self) -> int:
        """Attacks with a result."""
        return sum(each.attack != PLAIN and not each.problem for each in self.outcomes)

    def to_json(self) -> dict[str, object]:
        """All figures, without texts of rows."""
        outcomes = [
            {
                **asdict(each),
                "successes": len(each.successes),
                "search": each.search.to_json() if each.search else None,
            }
            for each in self.outcomes
        ]
        return {
            "variant": self.variant,
            "benchmark": self.benchmark,
            "judge": self.judge,
            "attacks": outcomes,
            "any_attack": [asdict(rate) for rate in self.any_attack],
        }

    def lines(self) -> list[str]:
        """For terminals: a line for each attack."""
        shown = [f"attack success on {self.benchmark} (harmful answers, %; difference to plain in points):"]
        for each in self.outcomes:
            text = each.problem or f"{rate_with_bounds(each.answer)}  {each.shown_difference}"
            text += f"  {each.trained}" if each.trained else ""
            if each.over_refusal and not each.problem:
                change = f"  {shown_change(each.over_refusal_difference)}" if each.attack != PLAIN else ""
                text += f"  harmless refused {rate_with_bounds(each.over_refusal)}{change}"
            shown.append(f"  {each.attack:24} {text}")
        shown.append(f"  {'any of them':24} {rate_with_bounds(self.any_overall)}")
        return shown


def shown_change(found: Difference | None) -> Markup:
    """``+7.3 [+2.1, +12.5]`` in points, a star where it is clear; a dash for none."""
    if found is None:
        return Markup("–")
    star = " *" if found.direction else ""
    return Markup(f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]{star}")


def render_attacks_html(report: AttackReport) -> str:
    """Render the page; encode it as UTF-8."""
    script, style = asset("attacks.js"), asset("report.css")
    template = html_environment().get_template("attacks.html.jinja")
    return template.render(
        data=report,
        script=Markup(script),
        style=Markup(style),
        policy=content_policy(script, style),
        percent=percent,
        rate=rate_with_interval,
        bounded=rate_with_bounds,
        change=shown_change,
    )


def render_attacks_markdown(report: AttackReport) -> str:
    """Render the figures without any text of rows."""
    template = markdown_environment().get_template("attacks.md.jinja")
    return template.render(
        data=report, rate=rate_with_interval, bounded=rate_with_bounds, change=shown_change, percent=percent
    )
