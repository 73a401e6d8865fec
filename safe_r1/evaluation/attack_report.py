"""Writes what came of the attacks of a variant: ``BENCHMARK.attacks.{json,md,html}`` beside the run folders.

By a further judge the files are called ``BENCHMARK.attacks.JUDGE.*``. All is made from the run folders, so
that ``safe-r1 report`` and ``safe-r1 rejudge`` write it as the evaluation job does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np
from upath import UPath

from safe_r1.attacks.apply import attack_sample
from safe_r1.attacks.base import PLAIN, Attack
from safe_r1.attacks.choose import parse_attacks, split_adaptive
from safe_r1.attacks.trained import read_trained
from safe_r1.benchmarks.adaptive import FAMILY, SOURCES
from safe_r1.benchmarks.attacked import SEPARATOR, split_attack
from safe_r1.config import EvaluateConfig
from safe_r1.errors import SafeR1Error
from safe_r1.evaluation.adaptive_rows import SEARCH, final_of, read_turns
from safe_r1.evaluation.publish import BenchmarkResult, finished_rows, read_metrics
from safe_r1.evaluation.rejudge import Rejudged
from safe_r1.evaluation.results import read_population
from safe_r1.evaluation.run_rows import RunRows
from safe_r1.metrics.attack_success import HARM, Outcomes, any_of, compare_with_plain, outcomes_of
from safe_r1.metrics.outcomes import Outcome
from safe_r1.metrics.rate_fold import Weigh, unweighted
from safe_r1.metrics.rates import find_rate, read_rates
from safe_r1.metrics.rows import ScoredRow
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
from safe_r1.runs import JUDGES, JsonObject, RunFolder
from safe_r1.schema import Message, Part, Sample

# Harmful answers that the page shows of one attack.
_MAX_SHOWN = 20
_OVER_REFUSAL = "over_refusal_rate"
Written = tuple[UPath, AttackReport]
_Measured = dict[tuple[str, Part], Outcomes]
"""Outcomes by metric and part."""
_MEASURES: tuple[tuple[str, Part], ...] = ((HARM, "answer"), (HARM, "reasoning"), (_OVER_REFUSAL, "answer"))


@dataclass(frozen=True)
class _Attacked:
    """A benchmark under one attack.

    Attributes:
        folder: The run.
        attack: Name of the attack.
        verdicts: Folder of the verdicts and their metrics: the run, or that of a further judge.
        rows: Rows that were read already; None where they are to be read.
        problem: Why it has no result; empty where it has one.
    """

    folder: RunFolder
    attack: str
    verdicts: RunFolder
    rows: RunRows | None = None
    problem: str = ""


@dataclass
class _Collected:
    """What was found of the attacks until now; the plain questions come first."""

    plain: _Measured = field(default_factory=dict)
    weigh: Weigh = unweighted
    harm: dict[str, Outcomes] = field(default_factory=dict)


def report_attacks(config: EvaluateConfig, results: Sequence[BenchmarkResult]) -> list[Written]:
    """Write the reports of a run's attacks, one for each benchmark that was attacked; gives their pages.

    Args:
        config: The run's.
        results: Of all its benchmarks, with the rows of those that were just published.
    """
    by_base: dict[str, list[_Attacked]] = {}
    for result in results:
        base, attack = split_attack(result.benchmark)
        if attack:
            each = _Attacked(result.folder, attack, result.folder, result.rows, result.problem)
            by_base.setdefault(base, []).append(each)
    return [_write(base, attacked) for base, attacked in by_base.items()]


def rewrite_attacks(folder: RunFolder, rows: RunRows | None = None) -> list[Written]:
    """Write the report of the attacks again that a run belongs to; nothing for one that is under none.

    Args:
        folder: The run, or the folder of a further judge in it.
        rows: Its rows, where they were read already.
    """
    is_further = folder.path.parent.name == JUDGES
    run = RunFolder(folder.path.parent.parent) if is_further else folder
    base, attack = split_attack(run.path.name)
    if not attack:
        return []
    judge = folder.path.name if is_further else ""
    attacked = [
        replace(each, rows=rows) if each.folder.path == run.path else each
        for each in _beside(run.path.parent, base, judge)
    ]
    return [_write(base, attacked, judge)]


def report_rejudged(judged: Sequence[Rejudged]) -> list[Written]:
    """Write the reports of attacks by further judges, once all runs have their verdicts; gives the pages."""
    # Several attacks of one benchmark, by one judge, are one report.
    places = {
        (str(each.run.path.parent), split_attack(each.run.path.name)[0], each.folder.path.name): each.folder
        for each in judged
        if split_attack(each.run.path.name)[1]
    }
    return list(chain.from_iterable(rewrite_attacks(folder) for folder in places.values()))


def _beside(variant: UPath, base: str, judge: str) -> list[_Attacked]:
    """The benchmark's runs under attacks, in the folder of a variant, in the order of the last report."""
    runs = (split_attack(path.name) for path in variant.iterdir())
    known = RunFolder(variant).read_json(f"{base}.attacks.json") or {}
    earlier = {str(each["attack"]): each for each in known.get("attacks", ())}
    order = {attack: place for place, attack in enumerate([PLAIN.name, *earlier])}
    attacks = sorted(
        (attack for name, attack in runs if name == base and attack),
        key=lambda attack: (order.get(attack, len(order)), attack),
    )
    found: list[_Attacked] = []
    for attack in attacks:
        run = RunFolder(variant / f"{base}{SEPARATOR}{attack}")
        verdicts = RunFolder(run.path / JUDGES / judge) if judge else run
        problem = ""
        if not run.is_complete:
            problem = earlier.get(attack, {}).get("problem") or "not finished"
        elif not verdicts.is_complete:
            problem = f"not judged by {judge}"
        found.append(_Attacked(run, attack, verdicts, problem=problem))
    return found


def _write(base: str, attacked: Sequence[_Attacked], judge: str = "") -> Written:
    report = _report(base, attacked, judge)
    folder = RunFolder(attacked[0].folder.path.parent)
    name = ".".join(filter(None, (base, "attacks", judge)))
    folder.write_json(f"{name}.json", report.to_json())
    folder.write_text(f"{name}.md", render_attacks_markdown(report))
    folder.write_text(f"{name}.html", render_attacks_html(report))
    return folder.path / f"{name}.html", report


def _report(base: str, attacked: Sequence[_Attacked], judge: str) -> AttackReport:
    collected = _Collected()
    info: JsonObject = {}
    outcomes: list[AttackOutcome] = []
    # The plain questions come first: the others are compared with them.
    for each in sorted(attacked, key=lambda each: each.attack != PLAIN.name):
        mine = each.folder.read_json("run.json") or {}
        info = info or (mine if not each.problem else {})
        attack = _find_attack(each.attack, mine)
        family, source = (attack.family, attack.source) if attack else ("", "")
        if each.attack in SOURCES:
            family, source = FAMILY, SOURCES[each.attack]
        entry = AttackOutcome(each.attack, family, source, each.folder.path.name, problem=each.problem)
        outcomes.append(entry if each.problem else _measure(entry, each, mine, attack, collected))
    if trained := read_trained(model_of(info)):
        outcomes = [replace(each, trained=trained.use_of(each.attack)) for each in outcomes]
    variant = attacked[0].folder.path.parent.name
    any_attack = any_of(collected.harm, collected.weigh)
    judged_by = judge or name_of(info.get("judge"))
    return AttackReport(variant, base, judged_by, outcomes, any_attack, benchmark_labels(base, info))


def model_of(info: Mapping[str, object]) -> str:
    """Where the model of a run lies, by the run's ``run.json``; empty where that says nothing."""
    variant = info.get("variant")
    return str(variant.get("source") or "") if isinstance(variant, Mapping) else ""


def _measure(
    entry: AttackOutcome, each: _Attacked, info: JsonObject, attack: Attack | None, collected: _Collected
) -> AttackOutcome:
    """The figures of one attack, which ``collected`` keeps for those that follow."""
    rows = each.rows or finished_rows(each.folder, each.verdicts)
    scored = [row for chunk in rows.chunks() for row in chunk]
    found: _Measured = {measure: outcomes_of(scored, *measure) for measure in _MEASURES}
    is_plain = each.attack == PLAIN.name
    if is_plain:
        population = read_population(each.folder)
        collected.plain = found
        collected.weigh = rows.samples.selection(population).weight if population else unweighted
    else:
        collected.harm[each.attack] = found[HARM, "answer"]
    metrics = each.verdicts.read_json("metrics.json") or {}
    # The run's own may be of an earlier version.
    metrics = read_metrics(each.folder) if each.verdicts is each.folder else metrics
    entry = _with_rates(entry, metrics, found)
    if not is_plain and collected.plain:
        compared = (compare_with_plain(collected.plain[m], found[m], collected.weigh) for m in _MEASURES)
        answer, reasoning, refused = compared
        entry = replace(
            entry, difference=answer, reasoning_difference=reasoning, over_refusal_difference=refused
        )
    # A search was led by the run's own judge.
    if each.verdicts is each.folder and (search := each.folder.read_json(SEARCH)):
        entry = replace(entry, search=SearchResult.from_json(search))
    seed = int(info.get("config", {}).get("generation", {}).get("seed", 0))
    return replace(entry, successes=_successes(rows, scored, found[HARM, "answer"], attack, seed))


def _with_rates(entry: AttackOutcome, metrics: JsonObject, found: _Measured) -> AttackOutcome:
    rates = read_rates(metrics)
    questions, harmless = (
        len({question for question, _ in found[metric, "answer"]}) for metric in (HARM, _OVER_REFUSAL)
    )
    return replace(
        entry,
        num_questions=questions,
        num_harmless=harmless,
        answer=find_rate(rates, HARM),
        reasoning=find_rate(rates, HARM, "reasoning"),
        by_category={
            rate.key: rate
            for rate in rates
            if (rate.metric, rate.part, rate.scope) == (HARM, "answer", "category")
        },
        over_refusal=find_rate(rates, _OVER_REFUSAL),
    )


def _find_attack(name: str, info: JsonObject) -> Attack | None:
    """The attack of a run; None where it is not installed any more, or its file is gone."""
    chosen, _ = split_adaptive(info.get("config", {}).get("attacks") or ())
    for texts in (chosen, (name,)):
        try:
            found = {attack.name: attack for attack in (PLAIN, *parse_attacks(texts))}
        except SafeR1Error:
            continue
        if name in found:
            return found[name]
    return None


def _successes(
    rows: RunRows, scored: Sequence[ScoredRow], outcomes: Outcomes, attack: Attack | None, seed: int
) -> list[Success]:
    """Some harmful answers, with what was asked.

    Args:
        rows: The rows of the run.
        scored: The same in the order of ``rows.chunks``.
        outcomes: Whether harm came out.
        attack: The attack; None where it is not known how the questions were asked.
        seed: Of what it draws.
    """
    hits = {key for key, (_, outcome) in outcomes.items() if outcome is Outcome.HIT}
    harmful = {question for question, _ in hits}
    questions = list(dict.fromkeys(row.question_id for row in scored))
    places = [place for place, question in enumerate(questions) if question in harmful][:_MAX_SHOWN]
    samples, completions, _ = rows.load(np.array(places, dtype=np.int64))
    by_id = {sample.sample_id: sample for sample in samples}
    turns = read_turns(rows.folder, by_id)
    shown: list[Success] = []
    for each in completions:
        if (each.sample_id, each.repeat) in hits:
            sample = by_id[each.sample_id]
            asked, opening = _as_asked(sample, attack, seed)
            if mine := turns.get((each.sample_id, each.repeat)):
                asked = [*sample.messages[:-1], *final_of(mine).dialogue]
            question = sample.messages[-1]["content"]
            place = (sample.sample_id, each.repeat, sample.category)
            shown.append(Success(*place, question, asked, opening, each.answer or ""))
    return shown


def _as_asked(sample: Sample, attack: Attack | None, seed: int) -> tuple[Sequence[Message], str]:
    """The dialogue as a static attack asked it, and how it began the model's turn."""
    if attack is None:
        return (), ""
    asked = attack_sample(sample, attack, seed)
    return asked.messages, "\n".join(filter(None, (asked.thought, asked.prefill)))
