"""Chooses the questions whose rows a report shows: all of them, or a sample of a large run."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import numpy.typing as npt

from safe_r1.metrics.outcomes import is_leak
from safe_r1.metrics.rows import ScoredRow

Ints = npt.NDArray[np.int64]

# Where most rows are remarkable, the ordinary ones should still be seen.
_FIRST_SHARE = 0.8


@dataclass
class RowChoice:
    """Chooses at most ``max_rows`` rows, whole questions at a time.

    Questions with an answer that has no label (truncated, blocked, failed, unscored), whose repeats or forms
    have different labels, or whose answer refuses while the reasoning is harmful come first, and take four
    fifths of the rows at most. Then each group and category gets its share. What is drawn depends on the ids
    alone.

    Attributes:
        max_rows: Maximum number of rows.
        first: Ids of further samples that come first, before these.
        num_rows: Rows of all questions so far.
    """

    max_rows: int
    first: Collection[str] = frozenset()
    num_rows: int = 0
    _sizes: list[int] = field(default_factory=list)
    _is_named: list[bool] = field(default_factory=list)
    _is_first: list[bool] = field(default_factory=list)
    _stratum: list[int] = field(default_factory=list)
    _draw: list[int] = field(default_factory=list)
    _strata: dict[tuple[str, str], int] = field(default_factory=dict)

    def add(self, rows: Sequence[ScoredRow]) -> None:
        """Add rows of whole questions, which follow each other."""
        for question_id, each in groupby(rows, lambda row: row.question_id):
            members = list(each)
            sample = members[0].sample
            stratum = self._strata.setdefault((sample.group, sample.category), len(self._strata))
            self.num_rows += len(members)
            self._sizes.append(len(members))
            is_named = any(row.sample.sample_id in self.first for row in members)
            self._is_named.append(is_named)
            self._is_first.append(is_named or _is_remarkable(members))
            self._stratum.append(stratum)
            digest = hashlib.blake2b(question_id.encode("utf-8", "surrogatepass"), digest_size=7).digest()
            self._draw.append(int.from_bytes(digest, "big"))

    def questions(self) -> Ints:
        """Numbers of the chosen questions, in the order in which they were added."""
        sizes = np.asarray(self._sizes, np.int64)
        if self.num_rows <= self.max_rows:
            return np.arange(len(sizes))
        is_first = np.asarray(self._is_first, bool)
        is_named = np.asarray(self._is_named, bool)
        order = np.lexsort((np.asarray(self._draw), self._share(is_first), ~is_named, ~is_first))
        num_first = int(is_first.sum())
        first = order[:num_first]
        if sizes[first].sum() > _FIRST_SHARE * self.max_rows:
            first = _fill(first, sizes, _FIRST_SHARE * self.max_rows)
        others = _fill(order[num_first:], sizes, self.max_rows - sizes[first].sum())
        # One question at least, however many repeats it has.
        return np.sort(np.concatenate([first, others])) if len(first) + len(others) else order[:1]

    def _share(self, is_first: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        """Rank of each question in its stratum as a share of it: the lowest ones are a stratified sample."""
        stratum = np.asarray(self._stratum) * 2 + is_first
        order = np.lexsort((np.asarray(self._draw), stratum))
        _, starts, counts = np.unique(stratum[order], return_index=True, return_counts=True)
        ranks = np.arange(len(order)) - np.repeat(starts, counts)
        share = np.empty(len(order))
        share[order] = ranks / np.repeat(counts, counts)
        return share


def _fill(order: Ints, sizes: Ints, max_rows: float) -> Ints:
    """As many questions from the start as have no more rows."""
    return order[: int(np.searchsorted(np.cumsum(sizes[order]), max_rows, side="right"))]


def _is_remarkable(rows: Sequence[ScoredRow]) -> bool:
    labels = {(row.answer.label, row.reasoning.label if row.reasoning else None) for row in rows}
    return len(labels) > 1 or any(row.answer.label is None or is_leak(row) for row in rows)
