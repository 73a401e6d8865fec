"""Which clean rows make the corpus: quotas, balance inside them, and a split that no near-duplicate family
crosses.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from safe_r1.corpus.recipe import Quota, Recipe
from safe_r1.errors import DataError


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row that could be in the corpus, without its texts.

    Attributes:
        position: Where the row is; given back, not looked at.
        family: Rows of one family stay on one side of the split.
    """

    row_id: str
    source: str
    kind: str
    language: str
    area: str | None
    category: str | None
    position: int
    family: int


def draw(seed: int, row_id: str) -> bytes:
    """The row's place in every seeded order."""
    return hashlib.sha256(f"{seed}|{row_id}".encode()).digest()


def quota_sizes(recipe: Recipe) -> list[int]:
    """Rows wanted by each quota, by largest remainders; they add up to the total."""
    total = recipe.total or 0
    shares = [total * quota.share for quota in recipe.quotas]
    sizes = [int(share + 1e-9) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: (sizes[i] - shares[i], i))
    for i in by_remainder[: total - sum(sizes)]:
        sizes[i] += 1
    return sizes


def fit_quota(quotas: Sequence[Quota], row: Candidate) -> int | None:
    """Index of the first quota that a row fits."""
    return next((i for i, quota in enumerate(quotas) if quota.fits(row.kind, row.language, row.area)), None)


def group_by_quota(recipe: Recipe, rows: Sequence[Candidate]) -> dict[int | None, list[Candidate]]:
    """The rows of each quota in the order in which they are taken; key None for those that fit no quota.

    Every (category, source) of a quota gives its rows in turn, in the seeded order, so that none crowds out
    the others.
    """
    groups: dict[int | None, list[Candidate]] = defaultdict(list)
    for row in rows:
        groups[fit_quota(recipe.quotas, row) if recipe.quotas else 0].append(row)
    return {quota: _in_turn(members, recipe.seed) for quota, members in groups.items()}


def _in_turn(rows: Sequence[Candidate], seed: int) -> list[Candidate]:
    taken: dict[tuple[str | None, str], int] = defaultdict(int)
    turns = []
    for row in sorted(rows, key=lambda row: draw(seed, row.row_id)):
        turns.append((taken[row.category, row.source], draw(seed, row.row_id), row))
        taken[row.category, row.source] += 1
    return [row for *_, row in sorted(turns, key=lambda turn: turn[:2])]


def choose(recipe: Recipe, rows: Sequence[Candidate]) -> list[Candidate]:
    """The rows of the corpus.

    Raises:
        DataError: A quota is missed by more than the recipe allows.
    """
    groups = group_by_quota(recipe, rows)
    if not recipe.quotas:
        return groups.get(0, [])
    check_quotas(recipe, {i: len(group) for i, group in groups.items() if i is not None})
    return [row for i, size in enumerate(quota_sizes(recipe)) for row in groups.get(i, [])[:size]]


def check_quotas(recipe: Recipe, available: Mapping[int, int], note: str = "clean rows") -> None:
    """Every quota can be met.

    Raises:
        DataError: Some cannot; says which and by how much.
    """
    missed = []
    for i, (quota, size) in enumerate(zip(recipe.quotas, quota_sizes(recipe), strict=True)):
        had = available.get(i, 0)
        if had < size * (1 - recipe.max_shortfall):
            missed.append(
                f"{quota.title} wants {size:,} rows, there are {had:,} {note} ({size - had:,} too few)"
            )
    refuse_shortfalls(missed)


def refuse_shortfalls(missed: Sequence[str]) -> None:
    """Stops where quotas are missed.

    Raises:
        DataError: Some are; names them and what to do.
    """
    if missed:
        raise DataError(
            f"quotas cannot be met: {'; '.join(missed)}. Add sources, lower `total` or the share, or allow max_shortfall"
        )


def split(recipe: Recipe, rows: Sequence[Candidate]) -> dict[str, list[Candidate]]:
    """``train`` and ``validation``: whole families, drawn by seed, until each quota has its share of
    validation rows.
    """
    held_out: set[int] = set()
    for members in group_by_quota(recipe, rows).values():
        wanted = round(len(members) * recipe.validation_share)
        sizes = Counter(row.family for row in members)
        count = sum(sizes[family] for family in sizes.keys() & held_out)
        for row in sorted(members, key=lambda row: draw(recipe.seed + 1, row.row_id)):
            if count >= wanted:
                break
            if row.family not in held_out:
                held_out.add(row.family)
                count += sizes[row.family]
    return {
        "train": [row for row in rows if row.family not in held_out],
        "validation": [row for row in rows if row.family in held_out],
    }
