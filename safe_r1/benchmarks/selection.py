"""Selects the questions of a benchmark for a run."""

import hashlib
import heapq
from array import array
from collections import defaultdict
from collections.abc import Sequence

from safe_r1.benchmarks.options import swap_options
from safe_r1.benchmarks.sample_table import LazySamples
from safe_r1.metrics.strata import stratum_of
from safe_r1.schema import Sample


def select(samples: Sequence[Sample], limit: int | None, seed: int, swap: bool) -> Sequence[Sample]:
    """A stratified, seeded sample of ``limit`` questions in the benchmark's order, then their swapped forms.

    The limit is shared among the groups (task, with or without history) so that a small one holds some of
    each, then within a group among its categories by largest remainders. Swapped forms come on top of the
    limit. Rates give each question the weight of its stratum, see ``safe_r1.metrics.strata``.

    Returns:
        A list where ``samples`` is one; otherwise a view, which reads a sample whenever it is asked for it.
    """
    is_whole = limit is None or limit >= len(samples)
    if is_whole and not swap:
        return samples
    chosen = range(len(samples)) if is_whole or limit is None else _stratified(samples, limit, seed)
    selected = _View(samples, chosen)
    if swap:
        is_swapped = (place for place, sample in zip(chosen, selected, strict=True) if sample.group == "mcq")
        selected = _View(samples, chosen, array("q", is_swapped))
    return list(selected) if isinstance(samples, list) else selected


class _View(LazySamples):
    """Some of a sequence of samples, and the swapped forms of some; none of them is held."""

    def __init__(self, samples: Sequence[Sample], chosen: Sequence[int], swapped: Sequence[int] = ()) -> None:
        self._samples = samples
        self._chosen = chosen
        self._swapped = swapped

    def __len__(self) -> int:
        return len(self._chosen) + len(self._swapped)

    def _at(self, place: int) -> Sample:
        if place < len(self._chosen):
            return self._samples[self._chosen[place]]
        return swap_options(self._samples[self._swapped[place - len(self._chosen)]])


def _stratified(samples: Sequence[Sample], limit: int, seed: int) -> "array[int]":
    """Places of the chosen samples; only ids and places are held."""
    ids: list[str] = []
    # By task and history first: the rates of these are reported apart, so a small sample needs some of each.
    groups: dict[str, dict[str, array[int]]] = defaultdict(lambda: defaultdict(lambda: array("q")))
    for place, sample in enumerate(samples):
        ids.append(sample.sample_id)
        stratum = stratum_of(sample)
        groups[f"{stratum.task}|{str(stratum.has_history).lower()}"][stratum.category].append(place)
    kept: set[str] = set()
    group_sizes = {group: sum(map(len, categories.values())) for group, categories in groups.items()}
    for group, quota in _share_among_groups(group_sizes, limit).items():
        sizes = {category: len(members) for category, members in groups[group].items()}
        for category, size in _share_among_categories(sizes, quota, f"{seed}|{group}").items():
            # By hash, not by a generator's state: with a larger share a category keeps its earlier questions.
            members = (ids[place] for place in groups[group][category])
            kept.update(heapq.nsmallest(size, members, key=lambda sample_id: _shuffle_key(seed, sample_id)))
    return array("q", (place for place, sample_id in enumerate(ids) if sample_id in kept))


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
