"""Mixing: quotas, balance within quotas, and a split that keeps related rows together."""

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from safe_r1.corpus.attacked import share_of
from safe_r1.corpus.recipe import CorpusRecipe, Quota
from safe_r1.errors import DataError
from safe_r1.progress import NOTICES


@dataclass(frozen=True, slots=True)
class RowSummary:
    """A clean row without its texts, as far as mixing needs it.

    Attributes:
        position: Position of the row in the index; passed through.
        cluster_id: Rows of one cluster are similar and stay on one side of the split.
    """

    row_id: str
    source: str
    kind: str
    language: str
    area: str | None
    category: str | None
    position: int
    cluster_id: int


def shuffle_key(seed: int, row_id: str) -> bytes:
    """Sort key of a row for a pseudo-random order that depends on the seed and the row id alone."""
    return hashlib.sha256(f"{seed}|{row_id}".encode()).digest()


def quota_sizes(recipe: CorpusRecipe) -> list[int]:
    """Number of rows of each quota; they add up to the total."""
    return apportion(recipe.total or 0, [quota.share for quota in recipe.quotas])


def apportion(total: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers in the proportion of some shares that add up to 1, by the largest remainder method."""
    exact = [total * share for share in shares]
    # The summand keeps a product such as 0.29 * 100 = 28.999999999999996 from losing a whole row.
    sizes = [int(value + 1e-9) for value in exact]
    # Equal remainders go to the one that is named first.
    by_remainder = sorted(range(len(exact)), key=lambda i: (sizes[i] - exact[i], i))
    for i in by_remainder[: total - sum(sizes)]:
        sizes[i] += 1
    return sizes


def find_quota(quotas: Sequence[Quota], row: RowSummary) -> int | None:
    """Index of the first quota that matches a row."""
    matching = (i for i, quota in enumerate(quotas) if quota.matches(row.kind, row.language, row.area))
    return next(matching, None)


def group_by_quota(recipe: CorpusRecipe, rows: Sequence[RowSummary]) -> dict[int | None, list[RowSummary]]:
    """The rows of each quota in the order in which they are selected; key None for rows that match no quota.

    Within a quota the rows of all (category, source) pairs alternate, each in its shuffled order, so that a
    large category does not displace a small one. Without quotas all rows have the key 0.
    """
    groups: dict[int | None, list[RowSummary]] = defaultdict(list)
    for row in rows:
        groups[find_quota(recipe.quotas, row) if recipe.quotas else 0].append(row)
    return {quota: _interleave(members, recipe.seed) for quota, members in groups.items()}


def _interleave(rows: Sequence[RowSummary], seed: int) -> list[RowSummary]:
    num_seen: dict[tuple[str | None, str], int] = defaultdict(int)
    keyed: list[tuple[int, bytes, RowSummary]] = []
    for row in sorted(rows, key=lambda row: shuffle_key(seed, row.row_id)):
        keyed.append((num_seen[row.category, row.source], shuffle_key(seed, row.row_id), row))
        num_seen[row.category, row.source] += 1
    return [row for *_, row in sorted(keyed, key=lambda entry: entry[:2])]


def choose(recipe: CorpusRecipe, rows: Sequence[RowSummary]) -> list[RowSummary]:
    """Select the rows of the corpus.

    Raises:
        DataError: A quota falls short by more than the recipe allows.
    """
    groups = group_by_quota(recipe, rows)
    if not recipe.quotas:
        return groups.get(0, [])
    check_quotas(recipe, {i: len(group) for i, group in groups.items() if i is not None})
    return [row for i, size in enumerate(quota_sizes(recipe)) for row in groups.get(i, [])[:size]]


def check_quotas(recipe: CorpusRecipe, available: Mapping[int, int], note: str = "clean rows") -> None:
    """Check that every quota can be filled.

    Args:
        recipe: The recipe.
        available: Number of rows by the index of the quota.
        note: What these rows are, for the message.

    Raises:
        DataError: A quota falls short by more than the recipe allows; the message has the numbers.
    """
    missed: list[str] = []
    for i, (quota, size) in enumerate(zip(recipe.quotas, quota_sizes(recipe), strict=True)):
        count = available.get(i, 0)
        if count < size * (1 - recipe.max_shortfall):
            missed.append(
                f"{quota.title} wants {size:,} rows, there are {count:,} {note} ({size - count:,} too few)"
            )
    raise_shortfalls(missed)


def raise_shortfalls(missed: Sequence[str]) -> None:
    """Raise an error if quotas fall short.

    Raises:
        DataError: There are shortfalls; names them and the remedy.
    """
    if missed:
        raise DataError(
            f"quotas cannot be met: {'; '.join(missed)}. "
            "Add sources, lower `total` or the share, or allow max_shortfall"
        )


def split(recipe: CorpusRecipe, rows: Sequence[RowSummary]) -> dict[str, list[RowSummary]]:
    """Split rows into ``train`` and ``validation``.

    Whole clusters are held out, in shuffled order, as long as they fit into the share of every quota that has
    rows of them: there are never more validation rows than the recipe asks for, and fewer where the clusters
    that are left are larger.
    """
    groups = group_by_quota(recipe, rows)
    num_wanted = round(len(rows) * recipe.validation_share)
    sizes = apportion(num_wanted, [len(members) / len(rows) for members in groups.values()])
    left = dict(zip(groups, sizes, strict=True))
    clusters: dict[int, Counter[int | None]] = defaultdict(Counter)
    for quota, members in groups.items():
        for row in members:
            clusters[row.cluster_id][quota] += 1
    held_out: set[int] = set()
    for quota, members in groups.items():
        # Another seed than that of the selection, or the first selected rows would be held out.
        for row in sorted(members, key=lambda row: shuffle_key(recipe.seed + 1, row.row_id)):
            if not left[quota]:
                break
            needed = clusters[row.cluster_id]
            if row.cluster_id not in held_out and all(left[each] >= num for each, num in needed.items()):
                held_out.add(row.cluster_id)
                for each, num in needed.items():
                    left[each] -= num
    if missing := sum(left.values()):
        logging.getLogger(NOTICES).warning(
            "validation: %d of the %d rows asked for; similar rows stay on one side of the split, and the "
            "other groups of them are larger",
            num_wanted - missing,
            num_wanted,
        )
    return {
        "train": [row for row in rows if row.cluster_id not in held_out],
        "validation": [row for row in rows if row.cluster_id in held_out],
    }


def place_attacks(recipe: CorpusRecipe, splits: Mapping[str, Sequence[RowSummary]]) -> dict[str, int]:
    """Choose the rows that are asked through attacks, in proportion from each category and source of a split.

    Returns:
        Row id to a place in the order of the attacks: each attack has as many rows as the others.
    """
    places: dict[str, int] = {}
    for rows in splits.values():
        for kind in sorted({row.kind for row in rows}):
            share = share_of(recipe.attacks, kind)
            mine = [row for row in rows if row.kind == kind]
            # Other seeds than those of selection, split and export, whose orders are independent of this one.
            mine.sort(
                key=lambda row: (row.category or "", row.source, shuffle_key(recipe.seed + 3, row.row_id))
            )
            # Every n-th row of that order: the summand is that of `apportion`.
            chosen = [
                row
                for number, row in enumerate(mine)
                if int((number + 1) * share + 1e-9) > int(number * share + 1e-9)
            ]
            chosen.sort(key=lambda row: shuffle_key(recipe.seed + 4, row.row_id))
            places.update((row.row_id, place) for place, row in enumerate(chosen))
    return places
