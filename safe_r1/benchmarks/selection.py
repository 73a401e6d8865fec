"""Selects the questions of a benchmark for a run."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence

from safe_r1.benchmarks.options import swap_options
from safe_r1.schema import Sample


def select(samples: Sequence[Sample], limit: int | None, seed: int, swap: bool) -> list[Sample]:
    """A stratified, seeded sample of ``limit`` questions in the benchmark's order, then their swapped forms.

    The limit is shared among the groups (task, with or without history) so that a small one holds some of
    each, then within a group among its categories by largest remainders. Swapped forms come on top of the
    limit.
    """
    chosen = list(samples) if limit is None or limit >= len(samples) else _stratified(samples, limit, seed)
    return chosen + [swap_options(sample) for sample in chosen if sample.group == "mcq"] if swap else chosen


def _stratified(samples: Sequence[Sample], limit: int, seed: int) -> list[Sample]:
    # By task and history first: the rates of these are reported apart, so a small sample needs some of each.
    groups = _by(samples, lambda sample: f"{sample.task}|{sample.metadata.get('has_history', 'false')}")
    kept: set[str] = set()
    for group, quota in _share_among_groups(
        {group: len(members) for group, members in groups.items()}, limit
    ).items():
        categories = _by(groups[group], lambda sample: sample.category)
        sizes = {category: len(members) for category, members in categories.items()}
        for category, size in _share_among_categories(sizes, quota, f"{seed}|{group}").items():
            # By hash, not by a generator's state: with a larger share a category keeps its earlier questions.
            ids = [sample.sample_id for sample in categories[category]]
            kept.update(sorted(ids, key=lambda sample_id: _shuffle_key(seed, sample_id))[:size])
    return [sample for sample in samples if sample.sample_id in kept]


def _by(samples: Sequence[Sample], key: Callable[[Sample], str]) -> dict[str, list[Sample]]:
    parts: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        parts[key(sample)].append(sample)
    return parts


def _share_among_groups(sizes: dict[str, int], limit: int) -> dict[str, int]:
    # Adams' divisor method: the next seat goes to the group with the most members a seat, an empty one first.
    # It never gives a group more than its share rounded up.
    seats = dict.fromkeys(sizes, 0)
    for _ in range(limit):
        seats[max(sizes, key=lambda group: (seats[group] == 0, sizes[group] / max(seats[group], 1)))] += 1
    return seats


def _share_among_categories(sizes: dict[str, int], limit: int, seed: str) -> dict[str, int]:
    total = sum(sizes.values())
    shares = {category: limit * size / total for category, size in sizes.items()}
    quotas = {category: int(share) for category, share in shares.items()}
    # Ties are broken by the seed, so that no category is favoured by its name.
    by_remainder = sorted(
        sizes, key=lambda category: (quotas[category] - shares[category], _shuffle_key(seed, category))
    )
    for category in by_remainder[: limit - sum(quotas.values())]:
        quotas[category] += 1
    return quotas


def _shuffle_key(seed: int | str, *parts: str) -> bytes:
    return hashlib.sha256("|".join([str(seed), *parts]).encode()).digest()
