"""Writes what came of the attacks of a run: ``BENCHMARK.attacks.{json,md,html}`` beside the run folders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from upath import UPath

from safe_r1.attacks.base import PLAIN
from safe_r1.attacks.trained import read_trained
from safe_r1.benchmarks import Benchmark, get_benchmarks
from safe_r1.benchmarks.base import UnderAttack, under_attack
from safe_r1.config import EvaluateConfig
from safe_r1.evaluation.adaptive_rows import SEARCH, final_of, read_turns
from safe_r1.evaluation.publish import BenchmarkResult, finished_rows
from safe_r1.evaluation.results import read_population
from safe_r1.evaluation.run_rows import RunRows
from safe_r1.metrics.attack_success import HARM, Outcomes, any_of, compare_with_plain, harm_outcomes
from safe_r1.metrics.outcomes import Outcome
from safe_r1.metrics.rate_fold import Weigh, unweighted
from safe_r1.metrics.rates import find_rate, read_rates
from safe_r1.report.attacks import (
    AttackOutcome,
    AttackReport,
    SearchResult,
    Success,
    render_attacks_html,
    render_attacks_markdown,
)
from safe_r1.report.data import name_of
from safe_r1.report.labels import benchmark_labels
from safe_r1.runs import RunFolder
from safe_r1.schema import OPENING_ANSWER, OPENING_THOUGHT

# Harmful answers that the page shows of one attack.
_MAX_SHOWN = 20


@dataclass(frozen=True)
class _Attacked:
    """A benchmark under one attack, and its result."""

    benchmark: Benchmark
    attack: UnderAttack
    result: BenchmarkResult


def report_attacks(
    config: EvaluateConfig, results: Sequence[BenchmarkResult]
) -> list[tuple[UPath, AttackReport]]:
    """Write the reports of a run's attacks, one for each benchmark that was attacked; gives their pages.

    Args:
        config: The run's.
        results: Of all its benchmarks.
    """
    benchmarks = get_benchmarks(config.benchmarks, config)
    by_base: dict[str, list[_Attacked]] = {}
    for result in results:
        benchmark = benchmarks[result.benchmark]
        if attack := under_attack(benchmark):
            by_base.setdefault(attack.base.name, []).append(_Attacked(benchmark, attack, result))
    reports = []
    for name, attacked in by_base.items():
        report = _report(name, attacked)
        folder = RunFolder(attacked[0].result.folder.path.parent)
        folder.write_json(f"{name}.attacks.json", report.to_json())
        folder.write_text(f"{name}.attacks.md", render_attacks_markdown(report))
        folder.write_text(f"{name}.attacks.html", render_attacks_html(report))
        reports.append((folder.path / f"{name}.attacks.html", report))
    return reports


def _report(name: str, attacked: Sequence[_Attacked]) -> AttackReport:
    weigh: Weigh = unweighted
    found: dict[str, Outcomes] = {}
    outcomes: list[AttackOutcome] = []
    info: Mapping[str, object] = {}
    # The plain questions come first: the others are compared with them.
    for each in attacked:
        attack, result = each.attack, each.result
        entry = AttackOutcome(
            attack.attack, attack.family, attack.source, result.benchmark, problem=result.problem
        )
        if not result.problem:
            rows = finished_rows(result.folder)
            scored = [row for chunk in rows.chunks() for row in chunk]
            found[attack.attack] = harm_outcomes(scored)
            if attack.attack == PLAIN.name:
                info = result.folder.read_json("run.json") or {}
                population = read_population(result.folder)
                weigh = rows.samples.selection(population).weight if population else unweighted
            questions = list(dict.fromkeys(row.question_id for row in scored))
            entry = replace(
                _with_rates(entry, result, found, weigh),
                search=_search(result.folder) if attack.search else None,
                successes=_successes(each, rows, questions, found[attack.attack]),
            )
        outcomes.append(entry)
    if trained := read_trained(model_of(info)):
        outcomes = [replace(each, trained=trained.use_of(each.attack)) for each in outcomes]
    attacks = {attack: each for attack, each in found.items() if attack != PLAIN.name}
    variant = attacked[0].result.folder.path.parent.name
    labels = benchmark_labels(name, info)
    return AttackReport(variant, name, name_of(info.get("judge")), outcomes, any_of(attacks, weigh), labels)


def model_of(info: Mapping[str, object]) -> str:
    """Where the model of a run lies, by the run's ``run.json``; empty where that says nothing."""
    variant = info.get("variant")
    return str(variant.get("source") or "") if isinstance(variant, Mapping) else ""


def _with_rates(
    entry: AttackOutcome, result: BenchmarkResult, found: Mapping[str, Outcomes], weigh: Weigh
) -> AttackOutcome:
    rates = read_rates(result.metrics)
    mine, plain = found[entry.attack], found.get(PLAIN.name)
    return replace(
        entry,
        num_questions=len({question for question, _ in mine}),
        answer=find_rate(rates, HARM),
        reasoning=find_rate(rates, HARM, "reasoning"),
        by_category={
            rate.key: rate
            for rate in rates
            if (rate.metric, rate.part, rate.scope) == (HARM, "answer", "category")
        },
        over_refusal=find_rate(rates, "over_refusal_rate"),
        difference=compare_with_plain(plain, mine, weigh) if plain and entry.attack != PLAIN.name else None,
    )


def _search(folder: RunFolder) -> SearchResult | None:
    found = folder.read_json(SEARCH)
    return SearchResult.from_json(found) if found else None


def _successes(
    attacked: _Attacked, rows: RunRows, questions: Sequence[str], outcomes: Outcomes
) -> list[Success]:
    """Some harmful answers, with what was asked.

    Args:
        attacked: The attacked benchmark.
        rows: Its rows.
        questions: Ids of its questions in the order of ``rows.chunks``.
        outcomes: Whether harm came out.
    """
    hits = {key for key, (_, outcome) in outcomes.items() if outcome is Outcome.HIT}
    harmful = {question for question, _ in hits}
    places = [place for place, question in enumerate(questions) if question in harmful][:_MAX_SHOWN]
    samples, completions, _ = rows.load(np.array(places, dtype=np.int64))
    by_id = {sample.sample_id: sample for sample in samples}
    turns = read_turns(rows.folder, by_id) if attacked.attack.search else {}
    shown = []
    for completion in completions:
        if (completion.sample_id, completion.repeat) not in hits:
            continue
        sample = by_id[completion.sample_id]
        asked = attacked.benchmark.as_asked(sample, completion.repeat)
        messages = asked.messages
        if attacked.attack.search:
            final = final_of(turns.get((completion.sample_id, completion.repeat), ()))
            messages = [*messages[:-1], *final.dialogue]
        opening = [asked.metadata.get(name) for name in (OPENING_THOUGHT, OPENING_ANSWER)]
        shown.append(
            Success(
                sample.sample_id,
                completion.repeat,
                sample.category,
                sample.messages[-1]["content"],
                messages,
                "\n".join(filter(None, opening)),
                completion.answer or "",
            )
        )
    return shown
