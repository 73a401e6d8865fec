"""Data behind a comparison report: tables of rates with differences, pairs of variants, mismatches."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from upath import UPath

from safe_r1.compare.attack_tables import AttackPair, attack_pairs
from safe_r1.compare.attacks import Transfer, is_under_attack
from safe_r1.compare.corrected import CorrectedComparison
from safe_r1.compare.differences import Comparison, Relation, lineage_order
from safe_r1.compare.load import Run, declared_margin
from safe_r1.compare.rate_tables import RateTable, TableBuilder
from safe_r1.report.labels import BilingualName

_RELATIONS: dict[Relation, BilingualName] = {
    "distillation": BilingualName("distillation", "蒸馏", "distillation"),
    "enhancement": BilingualName("enhancement", "安全增强", "enhancement"),
    "baseline": BilingualName("baseline", "与基线相比", "against the baseline"),
}


@dataclass(frozen=True)
class VariantPair:
    """Two variants and the overall comparisons between them."""

    first: str
    second: str
    relation: BilingualName
    comparisons: list[Comparison]


@dataclass(frozen=True)
class ComparisonData:
    """Everything that the renderers show.

    Attributes:
        baseline: The variant that all others are compared with.
        variants: Names, each after the one that it was made from.
        tables: See ``RateTable``.
        pairs: See ``VariantPair``.
        comparisons: All of them.
        lengths: (variant, benchmark, part, rows, mean, median) in tokens.
        facts: Settings that the runs have in common, as name and text.
        problems: Mismatches and missing runs, where they were allowed.
        margin: Non-inferiority margin for pass@1, as a fraction.
        is_margin_declared: All runs had this margin in their settings.
        num_headline: Number of tests in the family of main metrics, those of non-inferiority among them.
        num_detail: Number of tests in the other family.
        notes: What else a reader has to know of the runs.
        corrected: Differences of calibrated runs, in rates that people's labels corrected.
        attacks: Attack success of each pair of variants on each attacked benchmark.
        transfers: How attacks on one variant fare with another.
    """

    baseline: str
    variants: list[str]
    tables: list[RateTable]
    pairs: list[VariantPair]
    comparisons: list[Comparison]
    lengths: list[tuple[str, str, str, int, float, float]]
    facts: list[tuple[str, str]]
    problems: list[str]
    margin: float
    is_margin_declared: bool
    num_headline: int
    num_detail: int
    notes: list[str] = field(default_factory=list)
    corrected: list[CorrectedComparison] = field(default_factory=list)
    attacks: list[AttackPair] = field(default_factory=list)
    transfers: list[Transfer] = field(default_factory=list)

    @property
    def num_attack(self) -> int:
        """Number of tests in the family of attack success overall."""
        return len(self.attack_comparisons)

    @property
    def num_attack_detail(self) -> int:
        """Number of the other tests of attacked benchmarks."""
        return sum(each.family == "attack_detail" for each in self.comparisons)

    @property
    def attack_comparisons(self) -> list[Comparison]:
        """Those of attacked benchmarks that belong to the main ones."""
        return [each for each in self.comparisons if each.family == "attack"]


def build_comparison(
    runs: Sequence[Run],
    comparisons: Sequence[Comparison],
    baseline: str,
    problems: Sequence[str],
    margin: float,
    output: UPath,
) -> ComparisonData:
    """Arrange runs and comparisons for the renderers; links are relative to ``output``."""
    variants = lineage_order(runs, baseline)
    families = [each.family for each in comparisons]
    num_margins = sum(each.difference.p_margin is not None for each in comparisons)
    return ComparisonData(
        baseline=baseline,
        variants=variants,
        tables=TableBuilder(runs, comparisons, variants, output).tables(),
        pairs=_variant_pairs(comparisons),
        comparisons=list(comparisons),
        lengths=[
            (run.variant, run.benchmark, part, entry["num_rows"], entry["mean"], entry["median"])
            for run in sorted(runs, key=lambda run: (run.benchmark, variants.index(run.variant)))
            # Of tens of attacks the table would hide the others.
            if not is_under_attack(run)
            for part, entry in run.metrics.get("tokens", {}).items()
        ],
        facts=[
            (f"{run.benchmark}: {name}", value)
            # The settings are equal within a benchmark, or else listed as problems.
            for run in {run.benchmark: run for run in runs}.values()
            if not is_under_attack(run)
            for name, value in run.settings.items()
        ],
        problems=list(problems),
        margin=margin,
        is_margin_declared=all(declared_margin(run) == margin for run in runs),
        num_headline=families.count("headline") + num_margins,
        num_detail=families.count("detail"),
        attacks=attack_pairs(comparisons, runs),
    )


def _variant_pairs(comparisons: Sequence[Comparison]) -> list[VariantPair]:
    relations: dict[tuple[str, str], Relation] = {
        (each.first, each.second): each.relation for each in comparisons
    }
    return [
        VariantPair(
            first,
            second,
            _RELATIONS[relation],
            [
                each
                for each in comparisons
                if (each.first, each.second, each.scope) == (first, second, "overall")
                and each.family in ("headline", "detail")
            ],
        )
        for (first, second), relation in relations.items()
    ]
