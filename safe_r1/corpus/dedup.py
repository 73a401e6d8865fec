"""Exact and near duplicates among prompts, across all sources.

MinHash (rensa) over the n-grams of ``text``; candidate pairs come from banding and are checked by the
similarity of their signatures. Each task sketches the rows that it read; the driver only holds the sketches:
one band of 8 bytes a row at a time, and 128 bytes a row for the check.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue] - the wheel carries no types
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from safe_r1.corpus.recipe import DedupConfig
from safe_r1.corpus.text import Hashes, Indices, Units, ngrams, units_of
from safe_r1.language import Language, detect_language

# 32 bands of 4 rows: two prompts with Jaccard similarity 0.65 share a band with probability 0.998, with
# similarity 0.5 with probability 0.87.
NUM_PERM = 128
NUM_BANDS = 32
_ROWS_PER_BAND = NUM_PERM // NUM_BANDS
_SEED = 1
# Bounds the memory of the comparison: 128 bytes per side and pair.
_PAIRS_AT_ONCE = 1 << 18
# A letter or digit of any script: a word character that is no underscore.
_LETTER = re.compile(r"[^\W_]")

SKETCH_SCHEMA = pa.schema(
    [
        ("exact", pa.uint64()),
        ("signature", pa.binary(NUM_PERM)),
        *((f"band_{band:02d}", pa.uint64()) for band in range(NUM_BANDS)),
    ]
)


def sketch(prompts: Sequence[str], config: DedupConfig) -> pa.Table:
    """Sketch prompts.

    Returns:
        One row of ``SKETCH_SCHEMA`` per prompt: the hash of the whole prompt, the low bytes of its MinHash
        signature, and the hashes of its bands.
    """
    texts = [prompt if _LETTER.search(prompt) else _code_points(prompt) for prompt in prompts]
    languages = np.array([detect_language(text) for text in texts])
    exact = np.zeros(len(texts), np.uint64)
    signatures = np.zeros((len(texts), NUM_PERM), np.uint32)
    sizes: dict[Language, int] = {"zh": config.ngram_chars, "en": config.ngram_words}
    for language, size in sizes.items():
        positions = np.flatnonzero(languages == language)
        found = units_of([texts[position] for position in positions], language)
        exact[positions] = found.whole()
        signatures[positions] = _minhash(found.ngrams(size))
    # The low byte of each value is enough to estimate the similarity, in a quarter of the memory.
    low_bytes = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(NUM_PERM), len(texts), [None, pa.py_buffer(signatures.astype(np.uint8).tobytes())]
    )
    return pa.table([pa.array(exact), low_bytes, *map(pa.array, _bands(signatures))], schema=SKETCH_SCHEMA)


def _code_points(prompt: str) -> str:
    """A prompt without letters and digits, written as words: folding would leave nothing to compare."""
    return "mark " + " ".join(str(ord(char)) for char in prompt)


def _minhash(grams: Units) -> npt.NDArray[np.uint32]:
    """Signatures, shape (texts, NUM_PERM)."""
    if not len(grams.counts):
        return np.zeros((0, NUM_PERM), np.uint32)
    offsets = np.concatenate(([0], grams.ends)).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(grams.hashes, offsets, NUM_PERM, _SEED)
    return np.asarray(matrix.to_rows(), np.uint32)


def _bands(signatures: npt.NDArray[np.uint32]) -> list[Hashes]:
    """Hash of each band of each signature: NUM_BANDS arrays of shape (texts,)."""
    wide = signatures.astype(np.uint64)
    bands: list[Hashes] = []
    for start in range(0, NUM_PERM, _ROWS_PER_BAND):
        values = wide[:, start : start + _ROWS_PER_BAND].reshape(-1)
        # The n-grams of the flattened values also cross from one text to the next; every fourth does not.
        bands.append(ngrams(values, _ROWS_PER_BAND)[::_ROWS_PER_BAND])
    return bands


@dataclass(frozen=True)
class Clusters:
    """Clusters of rows; each attribute has the shape (rows,) and holds the number of each row's cluster.

    Attributes:
        exact: Rows with the same prompt, ignoring case, character width and punctuation.
        near: Near duplicates, directly or through other rows.
        related: Rows that are similar enough to be kept in the same split.
    """

    exact: Indices
    near: Indices
    related: Indices


def find_clusters(
    exact: Hashes, signatures: npt.NDArray[np.uint8], read_band: Callable[[int], Hashes], config: DedupConfig
) -> Clusters:
    """Cluster rows by their sketches.

    Args:
        exact: Shape (rows,).
        signatures: Shape (rows, NUM_PERM).
        read_band: Returns the band of a number, shape (rows,).
        config: The similarity thresholds.
    """
    num_rows = len(exact)
    same_prompt = np.unique(exact, return_inverse=True)[1].astype(np.int64)
    near: list[tuple[Indices, Indices]] = []
    related: list[tuple[Indices, Indices]] = []
    # One band at a time, so that the driver holds 8 bytes a row instead of 256.
    for band in range(NUM_BANDS):
        left, right = _candidate_pairs(read_band(band))
        similarity = _similarity(signatures, left, right)
        for pairs, threshold in ((near, config.threshold), (related, config.family_threshold)):
            is_similar = similarity >= threshold
            pairs.append((left[is_similar], right[is_similar]))
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


def _similarity(signatures: npt.NDArray[np.uint8], left: Indices, right: Indices) -> npt.NDArray[np.float64]:
    """Estimated Jaccard similarity of pairs of rows, shape (pairs,)."""
    shares = np.empty(len(left))
    for start in range(0, len(left), _PAIRS_AT_ONCE):
        chunk = slice(start, start + _PAIRS_AT_ONCE)
        shares[chunk] = (signatures[left[chunk]] == signatures[right[chunk]]).mean(axis=1)
    # The low bytes of two different values are equal once in 256.
    return (shares - 1 / 256) / (1 - 1 / 256)


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
