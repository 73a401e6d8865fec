"""Publishes the run of one benchmark: metrics, report, and the marker of a complete run."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from upath import UPath

from safe_r1.errors import NoResultError, StorageError
from safe_r1.evaluation.floors import check_coverage
from safe_r1.evaluation.plan import EvaluationPlan
from safe_r1.evaluation.results import read_completions, read_results, read_verdicts, results_hash
from safe_r1.evaluation.scoring import expected_parts
from safe_r1.evaluation.target import Target
from safe_r1.metrics.rates import compute_metrics
from safe_r1.provenance import now
from safe_r1.report.export import ExportedFile, export_run
from safe_r1.report.html import render_html
from safe_r1.report.markdown import render_markdown
from safe_r1.runs import JsonObject, RunFolder, check_complete
from safe_r1.schema import JUDGED_PARTS, Completion, Sample, Verdict


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
    """

    benchmark: str
    folder: RunFolder
    metrics: JsonObject
    was_complete: bool = False
    timings: dict[str, float] = field(default_factory=dict)
    exports: list[ExportedFile] = field(default_factory=list)
    problem: str = ""


def publish(plan: EvaluationPlan, target: Target, result: BenchmarkResult) -> None:
    """Check that every count adds up, then write metrics, report and, last, the marker.

    Raises:
        IntegrityError: Rows are missing or surplus.
        NoResultError: Too few answers have a label, see ``check_coverage``; nothing is written.
        StorageError: The folder cannot be written.
    """
    folder = result.folder
    samples = plan.samples[result.benchmark]
    completions, verdicts = _checked_rows(plan, result)
    check_coverage(plan, result.benchmark, samples, verdicts)
    metrics = compute_metrics(samples, completions, verdicts)
    metrics["tokens"] = target.lengths(completions)
    info = folder.read_json("run.json") or {}
    sessions = [*info.get("sessions", []), result.timings]
    info |= {
        "finished_at": now(),
        "sessions": sessions,
        "wall_s": sum(session["wall_s"] for session in sessions),
        "results_sha256": results_hash(completions, verdicts),
        **target.facts(result.benchmark, completions),
    }
    if plan.judge and any(sample.task in JUDGED_PARTS for sample in samples):
        info["judge"] = {
            "name": plan.judge.label,
            "identity": plan.judge.identity,
            "agreement": plan.judge.note,
            **({"policy": plan.judge.policy.name} if plan.judge.policy.name else {}),
        }
    # The marker comes last: a folder with it has all of these files.
    folder.write_json("run.json", info)
    folder.write_json("metrics.json", metrics)
    _write_report(folder, samples, completions, verdicts, metrics, info)
    if plan.config.export:
        result.exports = export_run(folder, plan.config.export)
    folder.publish()


def publish_all(plan: EvaluationPlan, target: Target, results: Sequence[BenchmarkResult]) -> None:
    """Publish several benchmarks; one without a result gets a ``problem`` and holds back no other."""
    for result in results:
        try:
            publish(plan, target, result)
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


def _checked_rows(plan: EvaluationPlan, result: BenchmarkResult) -> tuple[list[Completion], list[Verdict]]:
    """Completions and verdicts in the order of the samples, each expected row once.

    Raises:
        IntegrityError: Verdicts are missing or surplus.
    """
    samples = plan.samples[result.benchmark]
    order = {sample.sample_id: position for position, sample in enumerate(samples)}
    by_id = {sample.sample_id: sample for sample in samples}
    completions = [Completion(**row) for row in read_completions(result.folder).values()]
    # Shards are written as batches finish: only sorted rows give equal hashes for equal results.
    completions.sort(key=lambda row: (order[row.sample_id], row.repeat))
    verdicts = [Verdict(**row) for row in read_verdicts(result.folder).values()]
    wanted = [
        (row.sample_id, row.repeat, part)
        for row in completions
        for part in expected_parts(by_id[row.sample_id], row, plan.config.judge.parts)
    ]
    found = [(row.sample_id, row.repeat, row.part) for row in verdicts]
    # Before any figure: a verdict that is missing would change a rate without a trace.
    check_complete(f"{result.benchmark}: verdicts", wanted, found)
    verdicts.sort(key=lambda row: (order[row.sample_id], row.repeat, row.part))
    return completions, verdicts


def _write_report(
    folder: RunFolder,
    samples: Sequence[Sample],
    completions: Sequence[Completion],
    verdicts: Sequence[Verdict],
    metrics: JsonObject,
    info: JsonObject,
) -> None:
    folder.write_text("report.md", render_markdown(samples, metrics, info))
    folder.write_text("report.html", render_html(samples, completions, verdicts, metrics, info))


def rewrite_report(path: str) -> str:
    """Render the report of a finished run again from its rows; gives the path of ``report.html``.

    Raises:
        StorageError: The folder holds no finished run.
    """
    folder = RunFolder(UPath(path))
    if not folder.is_complete:
        raise StorageError(
            f"{path}: no finished run here (no _SUCCESS); expected OUTPUT/RUN/VARIANT/BENCHMARK"
        )
    samples, completions, verdicts = read_results(folder)
    metrics = folder.read_json("metrics.json") or {}
    info = folder.read_json("run.json") or {}
    _write_report(folder, samples, completions, verdicts, metrics, info)
    return str(folder.path / "report.html")
