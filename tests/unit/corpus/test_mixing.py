import random
from collections import Counter
from dataclasses import replace

import pytest

from safe_r1.corpus.mixing import RowSummary, choose, quota_sizes, split
from safe_r1.corpus.recipe import CorpusRecipe
from safe_r1.errors import DataError

SOURCE = {
    "name": "a",
    "path": "a.jsonl",
    "kind": "reasoning",
    "language": "zh",
    "licence": "MIT",
    "mapping": {"prompt": "q"},
}
QUOTAS = [
    {"kind": "safety", "language": "zh", "area": "rights", "share": 0.3},
    {"kind": "safety", "share": 0.2},
    {"kind": "reasoning", "share": 0.5},
]


def recipe(**changes) -> CorpusRecipe:
    base = {"name": "t", "licences": ["MIT"], "sources": [SOURCE], "total": 20, "quotas": QUOTAS}
    return CorpusRecipe.model_validate(base | changes)


def rows(
    kind: str,
    count: int,
    area: str | None = None,
    category: str | None = None,
    source: str = "a",
    start: int = 0,
):
    return [
        RowSummary(
            f"{source}/{kind}-{area}-{category}-{i}",
            source,
            kind,
            "zh",
            area,
            category,
            i,
            hash((kind, area, category, i)),
        )
        for i in range(start, start + count)
    ]


POOL = (
    rows("safety", 12, "rights", "privacy")
    + rows("safety", 12, "values", "terrorism")
    + rows("reasoning", 30)
)


def test_quotas_are_met_exactly_whatever_the_order():
    chosen = choose(recipe(), POOL)
    assert Counter((row.kind, row.area) for row in chosen) == {
        ("safety", "rights"): 6,
        ("safety", "values"): 4,
        ("reasoning", None): 10,
    }
    assert {row.row_id for row in choose(recipe(), POOL[::-1])} == {row.row_id for row in chosen}
    assert {row.row_id for row in choose(recipe(seed=1), POOL)} != {row.row_id for row in chosen}


def test_a_large_category_does_not_crowd_out_a_small_one():
    pool = rows("safety", 500, "rights", "privacy") + rows("safety", 3, "rights", "honor") + POOL
    chosen = choose(recipe(), pool)
    assert sum(row.category == "honor" for row in chosen) == 3


def test_sizes_add_up_to_the_total():
    thirds = [{"kind": kind, "share": 1 / 3} for kind in ("safety", "reasoning", "benign-sensitive")]
    assert sum(quota_sizes(recipe(total=100, quotas=thirds))) == 100


def test_a_quota_that_cannot_be_met_says_by_how_much():
    with pytest.raises(DataError, match=r"reasoning wants 10 rows, there are 4 .*6 too few"):
        choose(recipe(), POOL[:24] + rows("reasoning", 4))
    assert len(choose(recipe(max_shortfall=0.6), POOL[:24] + rows("reasoning", 4))) == 14


def test_no_cluster_crosses_the_split():
    pool = rows("reasoning", 400)
    pool = [replace(row, cluster_id=row.position // 4) for row in pool]
    everything = recipe(total=None, quotas=[], validation_share=0.1)
    parts = split(everything, choose(everything, pool))
    assert len(parts["train"]) + len(parts["validation"]) == 400
    assert 38 <= len(parts["validation"]) <= 46
    assert not {row.cluster_id for row in parts["train"]} & {row.cluster_id for row in parts["validation"]}


def test_each_quota_has_its_share_of_the_validation_rows():
    everything = recipe(total=200, validation_share=0.1)
    pool = (
        rows("safety", 80, "rights", "privacy")
        + rows("safety", 60, "values", "terrorism")
        + rows("reasoning", 120)
    )
    held_out = Counter(row.kind for row in split(everything, choose(everything, pool))["validation"])
    assert held_out == {"safety": 10, "reasoning": 10}


def test_the_validation_split_never_holds_more_than_was_asked_for():
    """Clusters of any sizes, within and across quotas: bounded, whole, and as full as they allow."""
    rng = random.Random(3)
    for trial in range(300):
        share = rng.choice((0.0, 0.02, 0.1, 0.33, 0.6))
        everything = recipe(total=10, validation_share=share, max_shortfall=0.99)
        pool = rows("safety", rng.randint(0, 60), "values") + rows("reasoning", rng.randint(1, 60))
        # From every row alone to all in one cluster.
        num_clusters = rng.choice((1, 2, 5, 40, 10**6))
        pool = [replace(row, cluster_id=rng.randrange(num_clusters)) for row in pool]
        parts = split(everything, pool)
        wanted = round(len(pool) * share)
        held = len(parts["validation"])
        assert held <= wanted, trial
        assert len(parts["train"]) + held == len(pool)
        ids = [{row.cluster_id for row in part} for part in parts.values()]
        assert not ids[0] & ids[1]
        if len({row.cluster_id for row in pool}) == len(pool):
            assert held == wanted


def test_one_large_group_of_similar_rows_does_not_take_the_training_rows(caplog: pytest.LogCaptureFixture):
    pool = [replace(row, cluster_id=int(row.position >= 490)) for row in rows("reasoning", 500)]
    everything = recipe(total=None, quotas=[], validation_share=0.02)
    with caplog.at_level("WARNING"):
        parts = split(everything, choose(everything, pool))
    assert {name: len(part) for name, part in parts.items()} == {"train": 490, "validation": 10}
    assert not caplog.records
    with caplog.at_level("WARNING"):
        parts = split(everything, [replace(row, cluster_id=0) for row in pool])
    assert {name: len(part) for name, part in parts.items()} == {"train": 500, "validation": 0}
    assert "validation: 0 of the 10 rows asked for" in caplog.text
