"""Compares finished runs, in order: load, check, test, write the report."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from upath import UPath

from safe_r1.compare.attacks import attack_comparisons, attack_notes, is_under_attack, transfers
from safe_r1.compare.corrected import corrected_comparisons
from safe_r1.compare.data import ComparisonData, VariantPair, build_comparison
from safe_r1.compare.differences import (
    MARGIN,
    Comparison,
    Relation,
    compare_all,
    correct,
    lineage_order,
    variant_pairs,
    without_pairs,
)
from safe_r1.compare.flips import find_flips
from safe_r1.compare.load import (
    Run,
    block_notes,
    check_comparable,
    declared_margin,
    load_runs,
    shape_notes,
)
from safe_r1.compare.render import write_report
from safe_r1.errors import ConfigError
from safe_r1.redaction import hide_credentials
from safe_r1.report.labels import METRICS
from safe_r1.runs import as_path


@dataclass(frozen=True)
class ComparisonReport:
    """A written comparison.

    Attributes:
        path: Of ``report.html``.
        data: Everything in it.
    """

    path: UPath
    data: ComparisonData

    def to_text(self) -> str:
        """Mismatches, the overall differences of every pair and the report's path, for a terminal."""
        lines = [f"mismatch: {problem}" for problem in self.data.problems]
        lines += [f"note: {note}" for note in self.data.notes]
        for pair in self.data.pairs:
            lines += _pair_lines(pair)
            lines += [
                _comparison_line(each)
                for each in self.data.attack_comparisons
                if (each.first, each.second, each.scope) == (pair.first, pair.second, "overall")
            ]
            lines += [
                each.to_text()
                for each in self.data.corrected
                if (each.first, each.second, each.place.key) == (pair.first, pair.second, "all")
            ]
        return "\n".join([*lines, f"report: {hide_credentials(str(self.path))}"])


def compare(
    paths: Sequence[str],
    baseline: str,
    output: str,
    allow_mismatch: bool = False,
    margin: float | None = None,
) -> ComparisonReport:
    """Compare finished runs and write the report.

    Args:
        paths: Folders with the runs, see ``load_runs``.
        baseline: The variant that every other one is compared with, besides the one that it was made from. A
            comma-separated list stands for its first variant that was run.
        output: Folder of the report.
        allow_mismatch: Compare runs even if their settings differ, and leave out what is missing; the report
            lists both.
        margin: Non-inferiority margin for pass@1, as a fraction; None: the one that all runs have in their
            settings, or ``MARGIN``.

    Raises:
        ConfigError: The runs cannot be compared; the message lists the differences.
        StorageError: A folder holds no finished run, or the report cannot be written.
    """
    if margin is not None and not 0 < margin < 1:
        raise ConfigError(
            f"--margin {100 * margin:g}: expected more than 0 and less than 100 percentage points, e.g. 3"
        )
    runs, problems = load_runs(paths, allow_mismatch)
    if margin is None:
        declared = {declared_margin(run) for run in runs}
        margin = next(iter(declared)) if len(declared) == 1 else None
        margin = MARGIN if margin is None else margin
    variants = {run.variant for run in runs}
    baseline = next((name for name in baseline.split(",") if name in variants), baseline)
    problems += check_comparable(runs, baseline, allow_mismatch)
    pairs = variant_pairs(runs, baseline)
    # An attacked benchmark has one measure of its own in place of all those of a benchmark.
    plain = [run for run in runs if not is_under_attack(run)]
    comparisons = compare_all(plain, pairs, margin) + correct(attack_comparisons(runs, pairs))
    folder = as_path(output)
    corrected, notes = corrected_comparisons(runs, pairs)
    notes += [*shape_notes(runs), *(note for run in runs for note in block_notes(run))]
    notes += [*attack_notes(runs), *_gaps(runs, pairs)]
    data = build_comparison(runs, comparisons, baseline, problems, margin, folder)
    transferred = transfers(runs, lineage_order(runs, baseline))
    data = replace(data, notes=notes, corrected=corrected, transfers=transferred)
    flips = find_flips(runs, [(first, second) for first, second, _ in pairs])
    return ComparisonReport(write_report(folder, data, runs, flips), data)


def _gaps(runs: Sequence[Run], pairs: Sequence[tuple[str, str, Relation]]) -> list[str]:
    """What no difference could be made of: a table would say nothing of it."""
    by_name = {(run.variant, run.benchmark): run for run in runs}
    found = [
        (first, second, metrics)
        for one, other, _ in pairs
        for (variant, benchmark), first in by_name.items()
        if variant == one and (second := by_name.get((other, benchmark)))
        if (metrics := without_pairs(first, second))
    ]
    return [
        f"{first.variant} → {second.variant} on {first.benchmark}: no completion has an outcome for both in "
        f"{', '.join(METRICS[metric].en for metric in metrics)}; not compared"
        for first, second, metrics in found
    ]


def _pair_lines(pair: VariantPair) -> list[str]:
    title = f"{pair.first} → {pair.second} ({pair.relation.en})"
    return [title, *(_comparison_line(comparison) for comparison in pair.comparisons)]


def _comparison_line(comparison: Comparison) -> str:
    found = comparison.difference
    rates = f"{100 * found.first:5.1f} → {100 * found.second:5.1f} %"
    change = f"{100 * found.value:+6.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    name = comparison.name.en
    line = f"  {comparison.benchmark:22} {name:32} {rates}  {change:24} p (Holm) {comparison.p_holm:.3g}"
    if found.num_missing:
        line += (
            f"; {found.num_missing} of {found.num_asked} without a score: "
            f"{100 * found.bound_low:+.1f} to {100 * found.bound_high:+.1f}"
        )
    return line + (" *" if comparison.is_significant else "")
