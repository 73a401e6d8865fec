"""Exact and near duplicates among prompts, across all sources.

Candidate pairs come from the bands of their sketches and are checked by the similarity of their signatures.
The driver only holds the sketches: one band of 8 bytes a row at a time, and 144 bytes a row for the check.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from safe_r1.corpus.recipe import DedupConfig
from safe_r1.corpus.sketches import NUM_BANDS
from safe_r1.corpus.text import Hashes, Indices

# Bounds the memory of the comparison: 128 bytes per side and pair.
_PAIRS_AT_ONCE = 1 << 18
# Rows that are kept of one chain of similar rows; what is left then is kept as well.
_MAX_ROUNDS = 256


@dataclass(frozen=True)
class Clusters:
    """Clusters of rows; each attribute has the shape (rows,) and holds the number of each row's cluster.

    Attributes:
        exact: Rows with the same prompt, ignoring case, character width and punctuation.
        near: Chains of near duplicates: each row is one of some other row of its cluster.
        related: Rows that are similar enough to be kept in the same split.
    """

    exact: Indices
    near: Indices
    related: Indices


@dataclass(frozen=True)
class Sketches:
    """Columns of ``SKETCH_SCHEMA`` over all rows.

    Attributes:
        exact: Hashes of the prompts, shape (rows,).
        template: Hashes of the prompts without their numbers, shape (rows,).
        signatures: Shape (rows, NUM_PERM).
        threshold: Similarity from which two rows are near duplicates.
    """

    exact: Hashes
    template: Hashes
    signatures: npt.NDArray[np.uint8]
    threshold: float

    def similarity(self, left: Indices, right: Indices) -> npt.NDArray[np.float64]:
        """Estimated Jaccard similarity of pairs of rows, shape (pairs,)."""
        shares = np.empty(len(left))
        for start in range(0, len(left), _PAIRS_AT_ONCE):
            chunk = slice(start, start + _PAIRS_AT_ONCE)
            shares[chunk] = (self.signatures[left[chunk]] == self.signatures[right[chunk]]).mean(axis=1)
        # The low bytes of two different values are equal once in 256.
        return (shares - 1 / 256) / (1 - 1 / 256)

    def differ_in_numbers(self, left: Indices, right: Indices) -> npt.NDArray[np.bool_]:
        """Whether rows are the same but for their numbers: problems of one kind, with other results."""
        return (self.template[left] == self.template[right]) & (self.exact[left] != self.exact[right])

    def are_duplicates(self, left: Indices, right: Indices) -> npt.NDArray[np.bool_]:
        """Whether pairs of rows are near duplicates, shape (pairs,)."""
        is_similar = (self.similarity(left, right) >= self.threshold) & ~self.differ_in_numbers(left, right)
        return is_similar | (self.exact[left] == self.exact[right])


def find_clusters(sketches: Sketches, read_band: Callable[[int], Hashes], config: DedupConfig) -> Clusters:
    """Cluster rows by their sketches.

    Args:
        sketches: Of all rows.
        read_band: Returns the band of a number, shape (rows,).
        config: The similarity thresholds.
    """
    num_rows = len(sketches.exact)
    same_prompt = np.unique(sketches.exact, return_inverse=True)[1].astype(np.int64)
    # The same prompt twice needs no band.
    same = _candidate_pairs(sketches.exact)
    near: list[tuple[Indices, Indices]] = [same]
    related: list[tuple[Indices, Indices]] = [same]
    # One band at a time, so that the driver holds 8 bytes a row instead of 256.
    for band in range(NUM_BANDS):
        left, right = _candidate_pairs(read_band(band))
        similarity = sketches.similarity(left, right)
        is_near = (similarity >= sketches.threshold) & ~sketches.differ_in_numbers(left, right)
        is_related = similarity >= config.family_threshold
        near.append((left[is_near], right[is_near]))
        related.append((left[is_related], right[is_related]))
    return Clusters(same_prompt, _components(near, num_rows), _components(related, num_rows))


def _candidate_pairs(keys: Hashes) -> tuple[Indices, Indices]:
    """Pairs of rows with the same key: each row with the previous one and with the first one of its key.

    All pairs of a key would be quadratic in its number of rows.
    """
    # Stable: rows with the same key stay in order, so that the earlier one is always on the left.
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    is_first = np.ones(len(keys), bool)
    is_first[1:] = sorted_keys[1:] != sorted_keys[:-1]
    # For each sorted position the position of the first row with its key.
    first = np.maximum.accumulate(np.where(is_first, np.arange(len(keys)), 0))
    later = np.flatnonzero(~is_first)
    left = np.concatenate((order[later - 1], order[first[later]]))
    return left, np.concatenate((order[later], order[later]))


def _components(pairs: list[tuple[Indices, Indices]], num_rows: int) -> Indices:
    """Number of the connected component of each row, shape (rows,)."""
    left = np.concatenate([pair[0] for pair in pairs])
    right = np.concatenate([pair[1] for pair in pairs])
    graph = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(num_rows, num_rows))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def pick_best(clusters: Indices, criteria: Sequence[npt.NDArray[np.generic]]) -> Indices:
    """Position of the best row of every row's cluster, shape (rows,).

    Args:
        clusters: Cluster of every row, shape (rows,).
        criteria: Arrays of shape (rows,), the most important first; a smaller value is better, and of equal
            rows the earlier one.
    """
    # lexsort takes its primary key last: by cluster, then by the criteria, then by position.
    order = np.lexsort((np.arange(len(clusters)), *reversed(criteria), clusters))
    is_head = np.ones(len(order), bool)
    is_head[1:] = np.diff(clusters[order]) != 0
    heads = np.flatnonzero(is_head)
    # Every row of a cluster gets its head, which the sort has put first.
    sizes = np.diff(np.concatenate((heads, [len(order)])))
    best = np.empty(len(clusters), np.int64)
    best[order] = np.repeat(order[heads], sizes)
    return best


def keep_best(sketches: Sketches, clusters: Indices, criteria: Sequence[npt.NDArray[np.generic]]) -> Indices:
    """Position of the row that is kept in place of every row, shape (rows,); its own where it is kept.

    Of each cluster the best row is kept, and then the best of those that are no duplicates of it, and so on:
    the ends of a chain of similar rows are not alike.

    Args:
        sketches: Of all rows.
        clusters: ``Clusters.near``.
        criteria: See ``pick_best``.
    """
    # Of equal prompts the best one first, so that the rounds are of different ones.
    equal = np.unique(sketches.exact, return_inverse=True)[1].astype(np.int64)
    first = pick_best(equal, criteria)
    best = np.arange(len(clusters))
    distinct = np.flatnonzero(first == best)
    sizes = np.bincount(clusters[distinct]) if len(clusters) else np.zeros(0, np.int64)
    pending = distinct[sizes[clusters[distinct]] > 1]
    for _ in range(_MAX_ROUNDS):
        if not len(pending):
            break
        heads = pending[pick_best(clusters[pending], [values[pending] for values in criteria])]
        is_copy = sketches.are_duplicates(heads, pending) | (heads == pending)
        best[pending[is_copy]] = heads[is_copy]
        pending = pending[~is_copy]
    return best[first]
