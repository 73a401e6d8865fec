"""Accounting of a corpus: the content of ``corpus.json``; every row is either kept or dropped, once."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict

import pyarrow as pa

from safe_r1.corpus.index import RowIndex
from safe_r1.corpus.plan import CorpusPlan
from safe_r1.corpus.recipe import CorpusRecipe
from safe_r1.corpus.rows import Drop, TableRow
from safe_r1.corpus.selection import Selection
from safe_r1.errors import IntegrityError, NoResultError
from safe_r1.runs import RunFolder, write_table

_KEPT_FIELDS = ("source", "kind", "language", "area", "category")
_DROPPED_FIELDS = ("source", "stage", "reason")
_REPAIRED_FIELDS = ("source", "repair")
_DROPS_SCHEMA = pa.schema([(name, pa.string()) for name in ("row_id", "source", "stage", "reason", "detail")])
_REMEDY = "change the source's mapping or the limits of the recipe"
_REMEDIES = {
    "empty_reasoning": "filters.reasoning=optional keeps answers without reasoning, in a new --output",
    "no_category": "filters.category=optional keeps rows of no category, in a new --output",
    "language": "set the source's language to that of its rows",
    **dict.fromkeys(
        ("complies_with_risk", "refuses_harmless"),
        "set the source's kind to what its rows are, or trusted where people have read them",
    ),
}
_NOT_NEEDED = Drop("mix", "over_quota", "not drawn")

CountRow = Mapping[str, str | int]
"""Number of rows (``rows``) with the values of its other fields."""


class Counts(TypedDict):
    """Row counts of a corpus.

    Attributes:
        read: Rows of each source.
        kept: Rows of the corpus by source, kind, language, area and category (``-`` for none).
        dropped: All other rows by source, stage and reason.
        repaired: Rows of the corpus by source and by what was repaired in their turns (see ``dialogue``).
        splits: Rows of ``train`` and ``validation``.
    """

    num_read: int
    num_kept: int
    num_dropped: int
    read: dict[str, int]
    kept: list[CountRow]
    dropped: list[CountRow]
    repaired: list[CountRow]
    splits: dict[str, int]


class CorpusInfo(Counts):
    """Content of ``corpus.json``.

    Attributes:
        recipe: The recipe.
        fingerprint: Everything that could change a row; see ``plan.fingerprint``.
        attacks: See ``attacked.record``; missing where the recipe says nothing of attacks.
        shards: SHA-256 of each file of the corpus by its path.
        lengths: Median, 90th percentile and maximum length of prompt, reasoning and answer in characters.
        histogram: Number of rows in each length bin; see ``card.length_edges``.
        teacher_costs: See ``synthesis.sum_costs``.
        sessions: Duration in seconds of each job that worked on the corpus to its end.
    """

    recipe: dict[str, object]
    fingerprint: dict[str, object]
    attacks: NotRequired[dict[str, Any]]
    shards: dict[str, str]
    lengths: dict[str, list[int]]
    histogram: dict[str, list[int]]
    teacher_costs: dict[str, int]
    versions: dict[str, str | None]
    hardware: dict[str, object]
    started_at: str
    finished_at: str
    sessions: list[float]


@dataclass
class _Tally:
    kept: Counter[tuple[str, ...]] = field(default_factory=Counter)
    dropped: Counter[tuple[str, ...]] = field(default_factory=Counter)
    repaired: Counter[tuple[str, ...]] = field(default_factory=Counter)


def account(plan: CorpusPlan, folder: RunFolder, index: RowIndex, selection: Selection) -> Counts:
    """Write all dropped rows to ``drops/``, and count rows.

    Raises:
        IntegrityError: The number of rows read is not that of rows kept and dropped.
        NoResultError: No row is kept or none is left to train on, or too many are lost for one reason.
    """
    tally = _Tally()
    # In slices: as Python objects, the columns of a million rows take gigabytes.
    size = plan.recipe.rows_per_part
    for number, start in enumerate(range(0, index.table.num_rows, size)):
        rows = index.table.slice(start, size).to_pylist()
        table = pa.Table.from_pylist(_count(rows, selection, tally), schema=_DROPS_SCHEMA)
        write_table(folder.path / "drops" / f"part-{number:05d}.parquet", table)
    num_read = sum(part.num_records for part in plan.parts)
    num_kept = tally.kept.total()
    num_dropped = tally.dropped.total()
    num_selected = len(selection.candidates)
    if num_read != num_kept + num_dropped or num_kept != num_selected:
        raise IntegrityError(
            f"{num_read:,} rows read, {num_kept:,} kept and {num_dropped:,} dropped, {num_selected:,} "
            "selected; expected read = kept + dropped: remove the output folder and run again"
        )
    where = f"see {folder.path / 'drops'}"
    if not num_kept:
        raise _nothing_kept(num_read, tally, where)
    lost: Counter[tuple[str, str]] = Counter()
    for (_, stage, reason), number in tally.dropped.items():
        lost[stage, reason] += number
    check_losses(plan.recipe, lost, num_read, where)
    if not selection.splits["train"]:
        raise NoResultError(
            f"no row to train on: all {num_kept:,} rows are held out by validation_share="
            f"{plan.recipe.validation_share:g}; lower it or add rows"
        )
    return Counts(
        num_read=num_read,
        num_kept=num_kept,
        num_dropped=num_dropped,
        read={source.name: plan.count(source.name) for source in plan.recipe.sources},
        kept=_count_rows(_KEPT_FIELDS, tally.kept),
        dropped=_count_rows(_DROPPED_FIELDS, tally.dropped),
        repaired=_count_rows(_REPAIRED_FIELDS, tally.repaired),
        splits={name: len(rows) for name, rows in selection.splits.items()},
    )


def check_losses(
    recipe: CorpusRecipe, lost: Mapping[tuple[str, str], int], num_read: int, where: str
) -> None:
    """Check that no single reason took more rows than the recipe allows.

    Args:
        recipe: The recipe.
        lost: Dropped rows by stage and reason.
        num_read: Rows in all.
        where: Where the rows can be found, for the message.

    Raises:
        NoResultError: One took more.
    """
    for (stage, reason), number in lost.items():
        is_lost = (stage, reason) != (_NOT_NEEDED.stage, _NOT_NEEDED.reason)
        if is_lost and number > recipe.max_lost_share * num_read:
            raise NoResultError(
                f"{number:,} of {num_read:,} rows are dropped for one reason, {stage}: {reason}, more than "
                f"max_lost_share={recipe.max_lost_share:g} allows: {where}; "
                f"{_REMEDIES.get(reason, _REMEDY)}, or raise max_lost_share if these rows are not wanted"
            )


def _nothing_kept(num_read: int, tally: _Tally, where: str) -> NoResultError:
    reasons: Counter[str] = Counter()
    for (_, stage, reason), rows in tally.dropped.items():
        reasons[f"{stage}: {reason}"] += rows
    shown = ", ".join(f"{reason} {rows:,}" for reason, rows in reasons.most_common(3))
    return NoResultError(
        f"none of {num_read:,} rows is kept ({shown}): {where}, and change the sources or the limits of the "
        "recipe"
    )


def _count(rows: Iterable[TableRow], selection: Selection, tally: _Tally) -> list[TableRow]:
    """Count rows; returns the rows of ``_DROPS_SCHEMA`` for the dropped ones."""
    drops: list[TableRow] = []
    for row in rows:
        row_id = row["row_id"]
        if row_id in selection.candidates:
            tally.kept[tuple(row[name] or "-" for name in _KEPT_FIELDS)] += 1
            tally.repaired.update((row["source"], repair) for repair in row.get("repairs") or ())
            continue
        # Ingestion wrote its drops into the parts' files; the later stages only know the row ids.
        if row["drop_stage"]:
            drop = Drop(row["drop_stage"], row["drop_reason"], row["drop_detail"])
        else:
            drop = selection.drops.get(row_id, _NOT_NEEDED)
        tally.dropped[row["source"], drop.stage, drop.reason] += 1
        drops.append(
            {
                "row_id": row_id,
                "source": row["source"],
                "stage": drop.stage,
                "reason": drop.reason,
                "detail": drop.detail,
            }
        )
    return drops


def _count_rows(fields: Sequence[str], counter: Mapping[tuple[str, ...], int]) -> list[CountRow]:
    return [{**dict(zip(fields, key, strict=True)), "rows": count} for key, count in sorted(counter.items())]


def sum_rows(rows: Iterable[CountRow], *fields: str) -> Counter[tuple[str, ...]]:
    """Number of rows by some of the fields."""
    counts: Counter[tuple[str, ...]] = Counter()
    for row in rows:
        counts[tuple(str(row[name]) for name in fields)] += int(row["rows"])
    return counts
