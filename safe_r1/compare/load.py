"""Finished runs from their folders, and whether they can be compared."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from upath import UPath

from safe_r1.errors import ConfigError, DataError, StorageError
from safe_r1.evaluation.results import read_results
from safe_r1.metrics.rows import ScoredRow, join_rows
from safe_r1.runs import RunFolder, sha256

_DEPTH = 3  # OUTPUT/RUN/VARIANT/BENCHMARK


@dataclass(frozen=True)
class Run:
    """One variant on one benchmark, finished.

    Attributes:
        variant: Its name here: the variant's, with ``@RUN`` where several runs of it are compared.
        base: Name of the variant that it was made from; None where unknown.
        kind: ``base``, ``r1``, ``enhanced`` and so on, see ``safe_r1.models.registry.Variant``.
        benchmark: Name of the benchmark.
        path: The folder.
        info: Content of ``run.json``.
        metrics: Content of ``metrics.json``.
        rows: All rows, swapped questions left out.
    """

    variant: str
    base: str | None
    kind: str
    benchmark: str
    path: UPath
    info: dict[str, Any]
    metrics: dict[str, Any]
    rows: list[ScoredRow]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What has to be equal for a comparison."""
        fingerprint = self.info["fingerprint"]
        data, questions = fingerprint["data"], sorted({row.question_id for row in self.rows})
        return {
            "data": data["sha256"][:12],
            "answer key": f"{data['answer_key_name']} {data['answer_key'][:12]}".strip(),
            "questions": f"{len(questions)} questions {sha256(questions)[:12]}",
            "judge": _words(
                {name: value for name, value in fingerprint["judge"].items() if value not in (None, [])}
            ),
            "generation": _words(fingerprint["generation"]),
            "repeats": str(fingerprint["repeats"]),
            "schema": str(self.metrics["schema_version"]),
        }


def _words(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def load_runs(places: Sequence[str], allow: bool) -> tuple[list[Run], list[str]]:
    """All finished runs under the given folders, and what was left out.

    Args:
        places: ``OUTPUT``, ``OUTPUT/RUN``, ``OUTPUT/RUN/VARIANT`` or ``OUTPUT/RUN/VARIANT/BENCHMARK``.
        allow: Leave unfinished runs out, saying so.

    Raises:
        StorageError: A folder holds no run, or an unfinished one.
        DataError: A run's files are damaged or of another version.
    """
    folders: dict[str, RunFolder] = {}
    for place in places:
        found = _find(UPath(place))
        if not found:
            raise StorageError(
                f"{place}: no run here; expected OUTPUT, OUTPUT/RUN, OUTPUT/RUN/VARIANT or one benchmark of it"
            )
        folders |= {str(folder.path): folder for folder in found}
    unfinished = [path for path, folder in folders.items() if not folder.is_complete]
    if unfinished and not allow:
        raise StorageError(
            f"not finished (no _SUCCESS): {', '.join(unfinished)}; run the same evaluation again, or leave it out with --allow"
        )
    runs = [_load(folder) for path, folder in folders.items() if path not in unfinished]
    if not runs:
        raise StorageError(f"{', '.join(places)}: no finished run")
    return _with_names(runs), [f"{path} is not finished and was left out" for path in unfinished]


def _find(root: UPath) -> list[RunFolder]:
    level = [root]
    for _ in range(_DEPTH + 1):
        found = [path for path in level if _is_run(path)]
        if found:
            return [RunFolder(path) for path in found]
        level = sorted(
            (child for path in level if path.is_dir() for child in path.iterdir() if child.is_dir()), key=str
        )
    return []


def _is_run(path: UPath) -> bool:
    return (path / "run.json").is_file() and ((path / "samples").is_dir() or (path / "_SUCCESS").exists())


def _load(folder: RunFolder) -> Run:
    info, metrics = folder.read_json("run.json"), folder.read_json("metrics.json")
    if not info or not metrics or "fingerprint" not in info:
        raise DataError(f"{folder.path}: run.json or metrics.json is missing; evaluate it again")
    rows = [row for row in join_rows(*read_results(folder)) if not row.is_swapped]
    variant = info["variant"]
    return Run(
        variant["name"],
        variant.get("base"),
        variant.get("kind", ""),
        info["benchmark"],
        folder.path,
        info,
        metrics,
        rows,
    )


def _with_names(runs: list[Run]) -> list[Run]:
    """Names that tell runs of the same variant apart."""
    times = defaultdict(set)
    for run in runs:
        times[run.variant].add(run.path.parent)
    return [
        replace(run, variant=f"{run.variant}@{run.path.parent.parent.name}")
        if len(times[run.variant]) > 1
        else run
        for run in runs
    ]


def check_comparable(runs: Sequence[Run], baseline: str, allow: bool) -> list[str]:
    """What differs between runs of a benchmark, and what is missing; nothing where all is equal.

    Raises:
        ConfigError: There is such a difference and it was not allowed, the baseline is not among the runs, or
            a variant occurs twice on a benchmark.
    """
    variants = list(dict.fromkeys(run.variant for run in runs))
    if baseline not in variants:
        raise ConfigError(f"--baseline {baseline}: not among the runs; there are {', '.join(variants)}")
    if len(variants) < 2:
        raise ConfigError(f"only {variants[0]} is here; give the runs of at least two variants")
    by_benchmark: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if any(run.variant == other.variant for other in by_benchmark[run.benchmark]):
            raise ConfigError(f"{run.variant} on {run.benchmark} was given twice: {run.path}; leave one out")
        by_benchmark[run.benchmark].append(run)
    problems = []
    for benchmark, group in by_benchmark.items():
        missing = [variant for variant in variants if all(run.variant != variant for run in group)]
        if missing:
            problems.append(f"{benchmark}: not measured for {', '.join(missing)}")
        first = next((run for run in group if run.variant == baseline), group[0])
        for run in group:
            for name, value in run.settings.items():
                if value != first.settings[name]:
                    problems.append(
                        f"{benchmark}: {name} of {run.variant} is [{value}], of {first.variant} [{first.settings[name]}]"
                    )
    if problems and not allow:
        raise ConfigError(
            f"not comparable: {'; '.join(problems)}. Evaluate them alike, or give --allow to compare all the same"
        )
    return problems
