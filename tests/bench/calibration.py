"""Coverage of rates that 120 labels correct: do 95% intervals hold the true rate in 95% of runs?

``python -m tests.bench.calibration`` simulates runs of 563 answers in three worlds: a mixed model, a harmful
one and a safe one (HR 0.5%). The judge errs as on its gold set, or adversarially: it takes harmful answers
with a disavowal for guidance, and its confidence says nothing. Each run is sampled, labelled and calibrated
by the code that ``safe-r1 label-sample`` and ``safe-r1 calibrate`` run. Exact from the seed.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir

import numpy as np

from safe_r1.calibration.allocation import allocate, draw
from safe_r1.calibration.corrected import corrected_rates
from safe_r1.calibration.guesses import Guesses
from safe_r1.calibration.imputation import Floats, Imputation, StratumLabels
from safe_r1.calibration.items import Item, Stratum, stratum_of
from safe_r1.calibration.rate_draws import RateDrawsFold
from safe_r1.judge.gold_errors import GoldErrors, load_gold_errors
from safe_r1.metrics.intervals import wilson_interval
from safe_r1.metrics.outcomes import REFUSAL_LABELS
from safe_r1.metrics.rows import ScoredRow
from safe_r1.schema import Completion, RefusalLabel, Sample, Verdict
from tests.bench.results import begin, make_parser, parse, show, write

NUM_ANSWERS = 563
NUM_LABELS = 120
WORLDS: dict[str, tuple[float, ...]] = {
    "mixed, RR-1 65, HR 10": (0.10, 0.25, 0.10, 0.55),
    "harmful, RR-1 40, HR 30": (0.30, 0.30, 0.10, 0.30),
    "safe, RR-1 95, HR 0.5": (0.005, 0.045, 0.10, 0.85),
}
"""Shares of the labels in the order of ``RefusalLabel``."""
ADVERSARIAL: tuple[tuple[float, ...], ...] = (
    (0.55, 0.10, 0.00, 0.35),
    (0.05, 0.65, 0.05, 0.25),
    (0.00, 0.05, 0.80, 0.15),
    (0.02, 0.13, 0.05, 0.80),
)
"""Chance of each judged label given the true one; confidence is high for 6 in 10, right or wrong."""
_LEVELS = {"high": 0.95, "low": 0.6}


@dataclass(frozen=True)
class Estimate:
    """Intervals of one run: what people's labels correct, and what the judge alone says, by metric."""

    corrected: dict[str, tuple[float, float]]
    judged: dict[str, tuple[float, float]]


def judge_errors(kind: str, errors: GoldErrors) -> Floats:
    """Chance of each judged label and level given the true label, shape (4, 2, 4): true, level, judged."""
    if kind == "same":
        counts = np.stack([errors.confusion(level) for level in _LEVELS], axis=1) + 0.02
    else:
        counts = np.stack([0.6 * np.asarray(ADVERSARIAL), 0.4 * np.asarray(ADVERSARIAL)], axis=1)
    return counts / counts.sum(axis=(1, 2), keepdims=True)


def make_rows(
    shares: Sequence[float], chances: Floats, random: np.random.Generator
) -> tuple[list[ScoredRow], list[int]]:
    """A run's rows as a judge sees them, and the true classes."""
    truth = random.choice(4, NUM_ANSWERS, p=shares)
    rows: list[ScoredRow] = []
    levels = list(_LEVELS.values())
    labels = list(RefusalLabel)
    for place, true in enumerate(truth.tolist()):
        level, judged = divmod(int(random.choice(8, p=chances[true].ravel())), 4)
        sample = Sample(f"s/{place}", "simulated", "refusal", f"area-{place % 2}", "c", [])
        completion = Completion(sample.sample_id, "v", 0, 1, 1, "", "", "", "stop", None)
        verdict = Verdict(
            sample.sample_id, "v", 0, "answer", labels[judged], judged, "j", None, confidence=levels[level]
        )
        rows.append(ScoredRow(sample, completion, verdict))
    return rows, truth.tolist()


def estimate(
    rows: Sequence[ScoredRow],
    truth: Sequence[int],
    guesses: Guesses,
    num_labels: int,
    seed: int,
    num_draws: int,
) -> Estimate:
    """Draw a sample, label it with the true classes, and calibrate."""
    strata = [stratum_of(row, "answer") for row in rows]
    items = [
        Item(row.sample.sample_id, 0, stratum, place)
        for place, (row, stratum) in enumerate(zip(rows, strata, strict=True))
        if stratum is not None
    ]
    sizes = Counter(item.stratum for item in items)
    names = sorted(sizes)
    numbers = allocate(
        [sizes[name] for name in names], [guesses.error_share(name) for name in names], num_labels
    )
    drawn = draw(items, dict(zip(names, numbers, strict=True)), seed)
    counts: Mapping[Stratum, Floats] = {name: np.zeros(4) for name in names}
    for item in drawn:
        counts[item.stratum][truth[item.question]] += 1
    labelled = {name: StratumLabels(sizes[name], counts[name], guesses.shape(name)) for name in names}
    given = {item.key: [truth[item.question]] for item in drawn}
    fold = RateDrawsFold(Imputation(labelled, given, f"run-{seed}", seed, num_draws))
    fold.add(rows)
    overall = {rate.metric: rate for rate in corrected_rates(fold) if rate.scope == "overall"}
    judged = {}
    for metric, labels in REFUSAL_LABELS.items():
        judged[metric] = wilson_interval(sum(row.answer.label in labels for row in rows), len(rows))
    return Estimate({metric: (rate.low, rate.high) for metric, rate in overall.items()}, judged)


def simulate(world: str, kind: str, num_runs: int, num_draws: int, seed: int = 0) -> dict[str, object]:
    """Coverage and mean width of the intervals of RR-1, RR-2 and HR over simulated runs."""
    errors = load_gold_errors("lexicon")
    assert errors is not None
    shares = WORLDS[world]
    chances = judge_errors(kind, errors)
    random = np.random.default_rng([seed, list(WORLDS).index(world), kind == "same"])
    hits: dict[str, list[bool]] = {metric: [] for metric in REFUSAL_LABELS}
    judged_hits: dict[str, list[bool]] = {metric: [] for metric in REFUSAL_LABELS}
    widths: dict[str, list[float]] = {metric: [] for metric in REFUSAL_LABELS}
    for run in range(num_runs):
        rows, truth = make_rows(shares, chances, random)
        found = estimate(rows, truth, Guesses(errors), NUM_LABELS, seed * num_runs + run, num_draws)
        for metric, labels in REFUSAL_LABELS.items():
            true = sum(shares[label.degree] for label in labels)
            low, high = found.corrected[metric]
            hits[metric].append(low <= true <= high)
            widths[metric].append(high - low)
            low, high = found.judged[metric]
            judged_hits[metric].append(low <= true <= high)
    return {
        "world": world,
        "errors": kind,
        "coverage": {metric: float(np.mean(each)) for metric, each in hits.items()},
        "coverage_judged": {metric: float(np.mean(each)) for metric, each in judged_hits.items()},
        "width": {metric: float(np.mean(each)) for metric, each in widths.items()},
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--runs", type=int, default=400, help="simulated runs of each world and kind of errors"
    )
    parser.add_argument("--draws", type=int, default=1000, help="draws of each calibration")
    parser.add_argument("--seed", type=int, default=0)
    args = parse(parser, runs=4, draws=200)
    results = begin(args)
    cells = []
    for world in WORLDS:
        for kind in ("same", "adversarial"):
            cells.append(simulate(world, kind, args.runs, args.draws, args.seed))
            show(f"{world}, {kind} errors", cells[-1])
    write({**results, "cells": cells}, args.output, "calibration", Path(gettempdir()))


if __name__ == "__main__":
    main()
