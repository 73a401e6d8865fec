"""Simulated services of known quality through the gates: how often they pass, fail, and are not sure.

Each service answers the standard's sample; a judge with known sensitivity and specificity reads the answers,
and people label some of them, allocated as ``safe-r1 label-sample`` does. The verdicts are those of
``safe_r1.filing.gates`` by the same functions, all services at once.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from safe_r1.calibration.allocation import allocate
from safe_r1.calibration.imputation import Floats, Ints, generator
from safe_r1.filing.calibrated import StrataCounts, correct
from safe_r1.filing.gates import Answers, estimate_rate
from safe_r1.filing.lines import Line
from safe_r1.filing.policy import Bank, FilingPolicy
from safe_r1.filing.strata import JudgedStratum
from safe_r1.gate.decide import Status

NUM_SERVICES = 1000
NUM_LABELS = 120
_POINTS = range(-3, 4)
_NUM_DRAWS = 500


@dataclass(frozen=True)
class JudgeErrors:
    """How a judge errs.

    Attributes:
        sensitivity: Chance that it calls a hit a hit.
        specificity: Chance that it calls a miss a miss.
    """

    sensitivity: float = 0.96
    specificity: float = 0.97


@dataclass(frozen=True)
class Shares:
    """Shares of the services by verdict, and of those that pass by the naive rule."""

    passed: float
    failed: float
    not_sure: float
    naive: float


@dataclass(frozen=True)
class Row:
    """Services of one true rate through one gate.

    Attributes:
        bank: Key of the bank.
        line: Its gate's line.
        num_sample: Answers of each service.
        rate: The true rate.
        people: Verdicts where people gave all outcomes.
        judge: The judge's reading as if it were right.
        labelled: Verdicts where people labelled some of the judge's verdicts.
    """

    bank: str
    line: Line
    num_sample: int
    rate: float
    people: Shares
    judge: Shares
    labelled: Shares

    @property
    def is_good(self) -> bool:
        """Whether the true rate keeps the line."""
        return self.line.status(self.rate, self.rate) is Status.PASS


def simulate(
    policy: FilingPolicy,
    errors: JudgeErrors | None = None,
    num_services: int = NUM_SERVICES,
    num_labels: int = NUM_LABELS,
    seed: int = 0,
) -> list[Row]:
    """Put services of known quality through the gates of a policy.

    Args:
        policy: Its banks with a sample of a given size.
        errors: Of the judge.
        num_services: Services for each gate and true rate.
        num_labels: Labels of people for each service.
        seed: Of everything that is drawn.
    """
    errors = errors or JudgeErrors()
    rows: list[Row] = []
    for key, bank in policy.banks.items():
        rows += _simulate_bank(key, bank, errors, num_services, num_labels, seed)
    return rows


def _simulate_bank(
    key: str, bank: Bank, errors: JudgeErrors, num_services: int, num_labels: int, seed: int
) -> Iterator[Row]:
    if bank.gate.sample is None:
        return
    num_sample = bank.gate.sample.value
    line = bank.gate.line
    readings = readings_by_hits(line, num_sample)
    for points in _POINTS:
        rate = round(line.percent + points, 9) / 100
        if not 0 <= rate <= 1:
            continue
        random = generator(seed, "filing", key, str(points))
        hits = random.binomial(num_sample, rate, num_services)
        called = np.stack(
            [
                random.binomial(hits, errors.sensitivity),
                random.binomial(num_sample - hits, 1 - errors.specificity),
            ]
        )
        judged = called.sum(axis=0)
        counts = _labelled(hits, called, num_sample, num_labels, random)
        found = correct(counts, random, _NUM_DRAWS)
        pairs = zip(found.bounds_low.tolist(), found.bounds_high.tolist(), strict=True)
        labelled = [line.status(low, high) for low, high in pairs]
        # What people and the calibrated judge estimate is held against the naive rule too.
        estimated = np.rint(found.value * num_sample).astype(np.int64)
        yield Row(
            bank=key,
            line=line,
            num_sample=num_sample,
            rate=rate,
            people=_shares([readings[each] for each in hits], line, hits, num_sample),
            judge=_shares([readings[each] for each in judged], line, judged, num_sample),
            labelled=_shares(labelled, line, estimated, num_sample),
        )


def readings_by_hits(line: Line, num: int) -> list[Status]:
    """The verdict of people on each possible number of hits among so many answers."""
    found = (estimate_rate(Answers(hits, num)) for hits in range(num + 1))
    return [line.status(each.bounds_low, each.bounds_high) for each in found]


def _shares(statuses: Sequence[Status], line: Line, hits: Ints, num_sample: int) -> Shares:
    num = len(statuses)
    return Shares(
        passed=sum(each is Status.PASS for each in statuses) / num,
        failed=sum(each is Status.FAIL for each in statuses) / num,
        not_sure=sum(each is Status.UNDECIDED for each in statuses) / num,
        naive=sum(line.is_kept_by(each, num_sample) for each in hits.tolist()) / num,
    )


def _labelled(
    hits: Ints, called: Ints, num_sample: int, num_labels: int, random: np.random.Generator
) -> StrataCounts:
    """Labels of what the judge calls hits and misses, drawn without replacement.

    Args:
        hits: True hits of each service, shape (services,).
        called: Of the hits and of the misses those that the judge calls hits, shape (2, services).
        num_sample: Answers of each service.
        num_labels: Labels of each.
        random: For the draws.
    """
    judged = called.sum(axis=0)
    num_rows = np.stack([judged, num_sample - judged], axis=1)
    true_hits = np.stack([called[0], hits - called[0]], axis=1)
    labels = np.array([_allocated(each, num_sample, num_labels) for each in judged.tolist()])
    label_hits = random.hypergeometric(true_hits, num_rows - true_hits, labels)
    return StrataCounts(num_rows, labels, label_hits.astype(np.float64), _shapes())


def _shapes() -> Floats:
    """What is expected of a judge of which nothing is known."""
    return np.array([JudgedStratum(is_hit, 0).shape for is_hit in (True, False)])


@functools.cache
def _allocated(num_judged: int, num_sample: int, num_labels: int) -> tuple[int, int]:
    """Labels of what the judge calls hits and misses."""
    sizes = (num_judged, num_sample - num_judged)
    shares = _shapes()
    errors = (1 - shares[0], shares[1])
    kept = [place for place in (0, 1) if sizes[place]]
    found = allocate([sizes[each] for each in kept], [float(errors[each]) for each in kept], num_labels)
    by_place = dict(zip(kept, found, strict=True))
    return by_place.get(0, 0), by_place.get(1, 0)
