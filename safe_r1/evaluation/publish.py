"""Publishes the run of one benchmark: metrics, report, and the marker of a complete run."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from safe_r1.benchmarks.attacked import split_attack
from safe_r1.config import ReportConfig
from safe_r1.errors import NoResultError, StorageError
from safe_r1.evaluation.floors import check_coverage
from safe_r1.evaluation.plan import EvaluationPlan
from safe_r1.evaluation.results import read_population
from safe_r1.evaluation.run_rows import RunRows, read_run
from safe_r1.evaluation.sample_index import SampleIndex, index_samples
from safe_r1.evaluation.target import Target
from safe_r1.evaluation.workers import Workers
from safe_r1.judge.factory import blind_labels
from safe_r1.metrics.coverage import Coverage, CoverageFold
from safe_r1.metrics.rates import SCHEMA_VERSION, MetricsFold
from safe_r1.metrics.rows import check_rows
from safe_r1.provenance import now
from safe_r1.report.corrected import read_calibration
from safe_r1.report.export import ExportedFile, export_run
from safe_r1.report.html import render_html
from safe_r1.report.markdown import render_markdown
from safe_r1.report.row_choice import RowChoice
from safe_r1.runs import JsonObject, RunFolder, as_path
from safe_r1.schema import JUDGED_PARTS

_log = logging.getLogger(__name__)
# Of all completions: a few may be about tags.
_WARNED_SHARE = 0.05


@dataclass
class BenchmarkResult:
    """The result of one benchmark.

    Attributes:
        benchmark: Its name.
        folder: Its run folder.
        metrics: Content of ``metrics.json``.
        was_complete: Whether it was complete before this session.
        timings: Durations in seconds, and tokens, of this session's stages.
        exports: Tables that this session wrote.
        problem: Why it could not be published; empty where it was.
        rows: Of a benchmark under an attack that this session published: the report of all attacks needs
            them, without texts.
    """

    benchmark: str
    folder: RunFolder
    metrics: JsonObject
    was_complete: bool = False
    timings: dict[str, float] = field(default_factory=dict)
    exports: list[ExportedFile] = field(default_factory=list)
    problem: str = ""
    rows: RunRows | None = None


@dataclass(frozen=True)
class Published:
    """What a report is made of.

    Attributes:
        rows: The rows of the run.
        metrics: Content of ``metrics.json``, without the lengths.
        coverage: Of each group of samples.
        choice: The questions whose rows the report shows.
    """

    rows: RunRows
    metrics: JsonObject
    coverage: list[Coverage]
    choice: RowChoice


def summarize(rows: RunRows, max_rows: int, first: Collection[str] = frozenset()) -> Published:
    """Fold all rows of a run.

    Args:
        rows: The rows.
        max_rows: Maximum number of rows that a report shows.
        first: Ids of samples that are shown before others, beside those that always are.

    Raises:
        IntegrityError: A verdict contradicts its completion.
    """
    population = read_population(rows.folder)
    selection = rows.samples.selection(population) if population else None
    metrics = MetricsFold(selection, blind_labels(rows.judges()))
    coverage = CoverageFold()
    choice = RowChoice(max_rows, first)
    for chunk in rows.chunks():
        check_rows(chunk)
        metrics.add(chunk)
        coverage.add(chunk)
        choice.add(chunk)
    return Published(rows, metrics.result(), coverage.result(), choice)


def publish(
    plan: EvaluationPlan, target: Target, result: BenchmarkResult, samples: SampleIndex, workers: Workers
) -> None:
    """Check that every count adds up, then write metrics, report and, last, the marker.

    Raises:
        IntegrityError: Rows are missing or surplus.
        NoResultError: Too few answers have a label, see ``check_coverage``; nothing is written.
        StorageError: The folder cannot be written.
    """
    name = result.benchmark
    folder = result.folder
    rows = read_run(
        folder, samples, workers, plan.config.judge.parts, target.token_counter(), plan.repeats(name)
    )
    summary = summarize(rows, plan.config.report.max_rows)
    check_coverage(plan, name, samples.kinds, summary.coverage)
    metrics = summary.metrics | {"tokens": rows.lengths()}
    info = folder.read_json("run.json") or {}
    totals = rows.totals()
    warn_of_unknown_thinking(name, totals.unknown_thinking, rows.num_rows)
    sessions = [*info.get("sessions", []), result.timings]
    info |= {
        "finished_at": now(),
        "sessions": sessions,
        "wall_s": sum(session["wall_s"] for session in sessions),
        "results_sha256": rows.results_hash(),
        **target.facts(name, totals),
    }
    if plan.judge and any(kind.task in JUDGED_PARTS for kind in samples.kinds):
        info["judge"] = plan.judge.facts
    # The marker comes last: a folder with it has all of these files.
    folder.write_json("run.json", info)
    folder.write_json("metrics.json", metrics)
    write_report(folder, summary, metrics, info)
    if plan.config.export:
        result.exports = export_run(folder, plan.config.export)
    folder.publish()
    if split_attack(name)[1]:
        result.rows = rows


def warn_of_unknown_thinking(name: str, found: Mapping[str, int], num_rows: int) -> None:
    """Log that a model seems to think in a form that is not known, so that its thoughts count as answers."""
    for tag, number in found.items():
        if number >= _WARNED_SHARE * num_rows:
            _log.warning(
                "%s: %d of %d completions seem to begin with thoughts in a form that is not known (%s), and "
                'count as answers; name the tags: --set generation.thinking_tags=\'["OPEN", "CLOSE"]\'',
                name,
                number,
                num_rows,
                tag,
            )


def publish_all(
    plan: EvaluationPlan,
    target: Target,
    results: Sequence[BenchmarkResult],
    samples: Mapping[str, SampleIndex],
    workers: Workers,
) -> None:
    """Publish several benchmarks; one without a result gets a ``problem`` and holds back no other."""
    for result in results:
        try:
            publish(plan, target, result, samples[result.benchmark], workers)
        except NoResultError as error:
            result.problem = str(error)
        else:
            target.finished(result.benchmark)


def check_published(results: Sequence[BenchmarkResult]) -> None:
    """Check that every benchmark was published.

    Raises:
        NoResultError: At least one has no result.
    """
    problems = [result.problem for result in results if result.problem]
    if problems:
        raise NoResultError(" | ".join(problems))


def write_report(folder: RunFolder, summary: Published, metrics: JsonObject, info: JsonObject) -> None:
    """Write both reports of a run, or of its verdicts by a further judge.

    Args:
        folder: Where they are written.
        summary: The rows.
        metrics: Content of ``metrics.json``.
        info: Content of ``run.json``.
    """
    kinds = summary.rows.samples.kinds
    shown = summary.rows.load(summary.choice.questions())
    calibration = read_calibration(folder, summary.rows.results_hash())
    folder.write_text("report.md", render_markdown(kinds, metrics, info, calibration))
    html = render_html(
        *shown,
        metrics,
        info,
        kinds=kinds,
        num_rows=summary.rows.num_rows,
        calibration=calibration,
        first=summary.choice.first,
    )
    folder.write_text("report.html", html)


def rewrite_report(path: str) -> str:
    """Compute the metrics of a finished run again from its rows, and write its report; gives the path of
    ``report.html``.

    Raises:
        StorageError: The folder holds no finished run.
    """
    page, _ = rewrite_from_rows(path)
    return page


def rewrite_from_rows(path: str) -> tuple[str, RunRows]:
    """As ``rewrite_report``; gives the rows too."""
    folder = RunFolder(as_path(path))
    if not folder.is_complete:
        raise StorageError(
            f"{path}: no finished run here (no _SUCCESS); expected OUTPUT/RUN/VARIANT/BENCHMARK"
        )
    info = folder.read_json("run.json") or {}
    max_rows = info.get("config", {}).get("report", {}).get("max_rows", ReportConfig().max_rows)
    summary = summarize(finished_rows(folder), max_rows)
    metrics = _with_lengths(summary, folder)
    # From the same rows as the page: a report must not show the figures of verdicts that were changed since.
    folder.write_json("metrics.json", metrics)
    found_hash = summary.rows.results_hash()
    if found_hash != info.get("results_sha256"):
        info |= {"results_sha256": found_hash, "recomputed_at": now()}
        folder.write_json("run.json", info)
    write_report(folder, summary, metrics, info)
    return str(folder.path / "report.html"), summary.rows


def read_metrics(folder: RunFolder) -> JsonObject:
    """Content of ``metrics.json``; of a finished run of an earlier version, what it would be today.

    Empty where there is none.
    """
    metrics = folder.read_json("metrics.json") or {}
    if not metrics or metrics.get("schema_version", 0) >= SCHEMA_VERSION:
        return metrics
    return _with_lengths(summarize(finished_rows(folder), max_rows=0), folder)


def finished_rows(folder: RunFolder, verdicts_of: RunFolder | None = None) -> RunRows:
    """The rows of a finished run. Without Ray: its report needs no cluster.

    Args:
        folder: The run.
        verdicts_of: Folder of the verdicts of a further judge; None: the run's own.
    """
    samples = index_samples(folder)
    return read_run(folder, samples, Workers(0), parts=None, count_tokens=None, verdicts_of=verdicts_of)


def _with_lengths(summary: Published, folder: RunFolder) -> JsonObject:
    # Lengths of reasonings take the model's tokenizer, and stay as they were counted.
    recorded = folder.read_json("metrics.json") or {}
    return summary.metrics | {"tokens": recorded.get("tokens", {})}
