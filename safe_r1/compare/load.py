"""Reads finished runs from their folders and checks that they can be compared."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from upath import UPath

from safe_r1.attacks.base import PLAIN
from safe_r1.benchmarks.attacked import split_attack
from safe_r1.errors import ConfigError, DataError, StorageError, reading
from safe_r1.evaluation.results import read_population, read_results
from safe_r1.evaluation.run_rows import read_results_hash
from safe_r1.judge.base import judge_label
from safe_r1.judge.factory import blind_labels
from safe_r1.metrics.counts import read_counts
from safe_r1.metrics.outcomes import is_blocked
from safe_r1.metrics.rate_fold import Weigh, unweighted
from safe_r1.metrics.rates import SCHEMA_VERSION, compute_metrics, find_rate, read_rates
from safe_r1.metrics.rows import ScoredRow, join_rows
from safe_r1.metrics.strata import Selection
from safe_r1.redaction import hide_credentials, hide_secrets
from safe_r1.report.notes import headline_notes
from safe_r1.runs import LAYOUT, RunFolder, as_path, find_runs, sha256

_REQUIRED = {"variant", "benchmark", "fingerprint"}
# Attacks, as `split_attack` gives them, under which the questions are as they are.
_UNCHANGED = ("", PLAIN.name)


@dataclass(frozen=True)
class Run:
    """A finished run of one variant on one benchmark.

    Attributes:
        variant: Name in the comparison: the variant's, with ``@RUN`` where several runs of it are compared.
        base: Name of the variant that it was made from; None where unknown.
        kind: ``base``, ``r1``, ``enhanced`` and so on, see ``safe_r1.models.registry.Variant``.
        benchmark: Name of the benchmark.
        path: The folder.
        info: Content of ``run.json``.
        metrics: Content of ``metrics.json``.
        rows: All rows except those of questions with reversed options.
        weigh: Weight of a question, where the run asks a selection of its benchmark.
        results_sha256: Hash of the rows as they are now.
    """

    variant: str
    base: str | None
    kind: str
    benchmark: str
    path: UPath
    info: dict[str, Any]
    metrics: dict[str, Any]
    rows: list[ScoredRow]
    weigh: Weigh = unweighted
    results_sha256: str = ""

    @cached_property
    def settings(self) -> dict[str, str]:
        """Everything that has to be equal for a comparison, by name."""
        fingerprint = self.info["fingerprint"]
        data = fingerprint["data"]
        # Runs with different --limit may have equally many questions, but not the same ones.
        questions = sorted({row.question_id for row in self.rows})
        return {
            "data": data["sha256"][:12],
            "answer key": f"{data['answer_key_name']} {data['answer_key'][:12]}".strip(),
            "questions": f"{len(questions)} questions {sha256(questions)[:12]}",
            "judge": _format_settings(_judge_settings(fingerprint["judge"])),
            "generation": _format_settings(fingerprint["generation"]),
            # Of attacks that adapt: another one writes other prompts.
            "attacker": _format_settings(fingerprint.get("attacker", {})),
            "repeats": str(fingerprint["repeats"]),
            "schema": str(self.metrics["schema_version"]),
        }


def _judge_settings(judge: Mapping[str, Any]) -> dict[str, object]:
    """The judge's settings in a fingerprint, with its printed name in place of name and identity."""
    given = {name: value for name, value in judge.items() if value not in (None, [])}
    if "identity" in given:
        given["judge"] = judge_label(given.pop("name"), given.pop("identity"))
    # Schema version 1 has a kind, and for a judge without a model its rules as in "lexicon-1a2b3c4d".
    elif "model" not in given and given.get("rules", "").startswith(f"{given.get('kind')}-"):
        given["judge"] = judge_label(given.pop("kind"), given.pop("rules").rpartition("-")[2])
    return dict(sorted(given.items()))


def _format_settings(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "none"


def load_runs(paths: Sequence[str], allow_mismatch: bool) -> tuple[list[Run], list[str]]:
    """All finished runs under the given folders, and a message for each unfinished one.

    Args:
        paths: ``OUTPUT``, ``OUTPUT/RUN``, ``OUTPUT/RUN/VARIANT`` or ``OUTPUT/RUN/VARIANT/BENCHMARK``.
        allow_mismatch: Leave unfinished runs out instead of refusing them.

    Raises:
        StorageError: A folder holds no run, or an unfinished one.
        DataError: A run's files are damaged or of another version.
    """
    folders: dict[str, RunFolder] = {}
    for path in paths:
        found = find_runs(as_path(path))
        if not found:
            raise StorageError(f"{path}: no run found; expected {LAYOUT}")
        folders |= {str(folder.path): folder for folder in found}
    unfinished = [path for path, folder in folders.items() if not folder.is_complete]
    if unfinished and not allow_mismatch:
        raise StorageError(
            f"not finished (no _SUCCESS): {', '.join(unfinished)}; run the same evaluation again, "
            "or leave it out with --allow-mismatch"
        )
    runs = [_load_whole(folder) for path, folder in folders.items() if path not in unfinished]
    if not runs:
        raise StorageError(f"{', '.join(paths)}: no finished run (no _SUCCESS)")
    return _with_unique_names(runs), [
        f"{hide_credentials(path)} is not finished and was left out" for path in unfinished
    ]


def shape_notes(runs: Sequence[Run]) -> list[str]:
    """How many questions of a benchmark were asked, where not all were, and how many completions were cut."""
    variants: dict[tuple[str, str], list[str]] = defaultdict(list)
    for run in runs:
        for note in headline_notes(run.metrics, run.info):
            variants[run.benchmark, note.en].append(run.variant)
    return [f"{', '.join(names)} on {benchmark}: {note}" for (benchmark, note), names in variants.items()]


def block_notes(run: Run) -> list[str]:
    """What a content filter took says nothing of the model: a note tells it, with RR-1 as a user meets it."""
    num_blocked = sum(is_blocked(row) for row in run.rows)
    if not num_blocked:
        return []
    note = (
        f"{run.variant} on {run.benchmark}: the provider's content filter blocked {num_blocked} of "
        f"{len(run.rows)} rows, which count as wrong in accuracy and as missing elsewhere"
    )
    with_blocks = find_rate(read_rates(run.metrics), "rejection_rate_with_blocks")
    if with_blocks:
        note += f"; RR-1 with the blocks counted as refusals: {100 * with_blocks.value:.1f} %"
    return [note]


def declared_margin(run: Run) -> float | None:
    """The non-inferiority margin in the run's settings; None for a run of a version without it."""
    report: dict[str, Any] = run.info.get("config", {}).get("report", {})
    return report.get("margin")


def _load_whole(folder: RunFolder) -> Run:
    """A run of which everything that is compared can be read."""
    with reading(folder.path):
        run = _load(folder)
        # What is read later, so that a damaged file is told with its folder.
        _ = run.settings, read_rates(run.metrics), read_counts(run.metrics)
        _ = shape_notes([run]), block_notes(run), declared_margin(run)
        return run


def _load(folder: RunFolder) -> Run:
    info = folder.read_json("run.json")
    metrics = folder.read_json("metrics.json")
    if not info or not metrics or not info.keys() >= _REQUIRED:
        raise DataError(
            f"{folder.path}: run.json or metrics.json is missing or not that of an evaluation; "
            "run the evaluation again, or leave the folder out"
        )
    # Earlier releases wrote settings as they were given.
    info = hide_secrets(info)
    variant = info["variant"]
    results = read_results(folder)
    population = read_population(folder)
    found_hash = read_results_hash(folder)
    if metrics.get("schema_version", SCHEMA_VERSION) < SCHEMA_VERSION:
        # Its accuracy has another denominator: figures of two definitions are never shown side by side.
        judges = {verdict.judge for verdict in results[2]}
        metrics |= compute_metrics(*results, population, blind_labels(judges))
    elif found_hash != info.get("results_sha256", found_hash):
        # Rates of what was, beside differences of what is, would be two truths in one report.
        raise DataError(
            f"{folder.path}: its rows were changed after its rates were computed; run safe-r1 report on it "
            "first, which computes them anew"
        )
    return Run(
        variant=variant["name"],
        base=variant.get("base"),
        kind=variant.get("kind", ""),
        benchmark=info["benchmark"],
        path=folder.path,
        info=info,
        metrics=metrics,
        rows=[row for row in join_rows(*results) if not row.is_swapped],
        weigh=Selection.of(results[0], population).weight if population else unweighted,
        results_sha256=found_hash,
    )


def _with_unique_names(runs: list[Run]) -> list[Run]:
    """The runs, with ``@RUN`` in the names of variants that have several runs."""
    folders = defaultdict(set)
    for run in runs:
        folders[run.variant].add(run.path.parent)
    return [
        replace(run, variant=f"{run.variant}@{run.path.parent.parent.name}")
        if len(folders[run.variant]) > 1
        else run
        for run in runs
    ]


def check_comparable(runs: Sequence[Run], baseline: str, allow_mismatch: bool) -> list[str]:
    """Differences between the settings of runs, and missing runs, one message each.

    Args:
        runs: All runs of the comparison.
        baseline: Name of the variant that the others are compared with.
        allow_mismatch: Return the differences instead of refusing them.

    Raises:
        ConfigError: There is a difference and it is not allowed, the baseline is not among the runs, or a
            variant occurs twice on a benchmark.
    """
    variants = list(dict.fromkeys(run.variant for run in runs))
    if baseline not in variants:
        raise ConfigError(f"--baseline {baseline}: not among the runs; there are {', '.join(variants)}")
    if len(variants) < 2:
        raise ConfigError(f"only {variants[0]} was found; give the runs of at least two variants")
    by_benchmark: dict[str, list[Run]] = defaultdict(list)
    attacked: set[tuple[str, str]] = set()
    for run in runs:
        if any(run.variant == other.variant for other in by_benchmark[run.benchmark]):
            raise ConfigError(f"{run.variant} on {run.benchmark} was given twice: {run.path}; leave one out")
        by_benchmark[run.benchmark].append(run)
        base, attack = split_attack(run.benchmark)
        if attack not in _UNCHANGED:
            attacked.add((run.variant, base))
    problems = []
    for benchmark, of_benchmark in by_benchmark.items():
        measured = {run.variant for run in of_benchmark}
        missing = [variant for variant in variants if variant not in measured]
        base, attack = split_attack(benchmark)
        if attack not in _UNCHANGED:
            # A model that does not take one attack is compared by the others, which a note says.
            missing = [variant for variant in missing if (variant, base) not in attacked]
        if missing:
            problems.append(f"{benchmark}: not measured for {', '.join(missing)}")
        problems += setting_differences(of_benchmark, baseline)
    if problems and not allow_mismatch:
        raise ConfigError(
            f"not comparable: {'; '.join(problems)}. Run the evaluations with equal settings, "
            "or give --allow-mismatch to compare them anyway"
        )
    return problems


def setting_differences(runs: Sequence[Run], baseline: str) -> Iterable[str]:
    """Every setting of a benchmark's runs that differs from the baseline's, or else the first run's."""
    reference = next((run for run in runs if run.variant == baseline), runs[0])
    for run in runs:
        for name, value in run.settings.items():
            expected = reference.settings[name]
            if value != expected:
                yield (
                    f"{run.benchmark}: {name} of {run.variant} is [{value}], "
                    f"of {reference.variant} [{expected}]"
                )
