"""Exact and near duplicates among prompts, across sources.

MinHash (rensa) over the n-grams of ``text``, found by banding and checked by the signatures' own similarity.
A task sketches the rows it read; only the sketches come together: one band of 8 bytes a row at a time, and
128 bytes a row for the check.
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
from safe_r1.corpus.text import Hashes, Indices, Language, Units, ngrams, units_of
from safe_r1.language import detect_language

# 32 bands of 4: two prompts of similarity 0.65 meet in one with a probability of 0.998, of 0.5 with 0.87.
NUM_PERM, NUM_BANDS = 128, 32
_ROWS_PER_BAND = NUM_PERM // NUM_BANDS
_SEED = 1
_PAIRS_AT_ONCE = 1 << 18
_WORD = re.compile(r"[^\W_]")

SKETCH_SCHEMA = pa.schema(
    [
        ("exact", pa.uint64()),
        ("signature", pa.binary(NUM_PERM)),
        *((f"band_{band:02d}", pa.uint64()) for band in range(NUM_BANDS)),
    ]
)


def sketch(prompts: Sequence[str], config: DedupConfig) -> pa.Table:
    """One row of ``SKETCH_SCHEMA`` for every prompt: a hash of all of it, 128 bytes of MinHash, and its
    bands.
    """
    texts = [prompt if _WORD.search(prompt) else _marks(prompt) for prompt in prompts]
    languages = np.array([detect_language(text) for text in texts])
    exact = np.zeros(len(texts), np.uint64)
    signatures = np.zeros((len(texts), NUM_PERM), np.uint32)
    sizes: dict[Language, int] = {"zh": config.ngram_chars, "en": config.ngram_words}
    for language, size in sizes.items():
        mine = np.flatnonzero(languages == language)
        found = units_of([texts[i] for i in mine], language)
        exact[mine] = found.whole()
        signatures[mine] = _minhash(found.ngrams(size))
    low_bytes = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(NUM_PERM), len(texts), [None, pa.py_buffer(signatures.astype(np.uint8).tobytes())]
    )
    return pa.table([pa.array(exact), low_bytes, *map(pa.array, _bands(signatures))], schema=SKETCH_SCHEMA)


def _marks(prompt: str) -> str:
    """What a prompt without a letter or figure is compared by."""
    return "mark " + " ".join(str(ord(char)) for char in prompt)


def _minhash(grams: Units) -> npt.NDArray[np.uint32]:
    """Signatures, shape (texts, NUM_PERM)."""
    if not len(grams.counts):
        return np.zeros((0, NUM_PERM), np.uint32)
    offsets = np.concatenate(([0], grams.ends)).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(grams.hashes, offsets, NUM_PERM, _SEED)
    return np.asarray(matrix.to_rows(), np.uint32)


def _bands(signatures: npt.NDArray[np.uint32]) -> list[Hashes]:
    wide = signatures.astype(np.uint64)
    return [
        ngrams(wide[:, start : start + _ROWS_PER_BAND].reshape(-1), _ROWS_PER_BAND)[::_ROWS_PER_BAND]
        for start in range(0, NUM_PERM, _ROWS_PER_BAND)
    ]


@dataclass(frozen=True)
class Clusters:
    """Which rows belong together; arrays over the rows.

    Attributes:
        exact: Rows with the same number have the same prompt but for case, width and punctuation.
        near: Rows with the same number are near duplicates, directly or by way of others.
        family: Rows with the same number are similar enough to stay on one side of a split.
    """

    exact: Indices
    near: Indices
    family: Indices


def find_clusters(
    exact: Hashes, signatures: npt.NDArray[np.uint8], read_band: Callable[[int], Hashes], config: DedupConfig
) -> Clusters:
    """Cluster rows by their sketches.

    Args:
        exact: Shape (rows,).
        signatures: Shape (rows, NUM_PERM).
        read_band: Gives the band of that number, shape (rows,).
        config: The thresholds.
    """
    num_rows = len(exact)
    same_prompt = np.unique(exact, return_inverse=True)[1].astype(np.int64)
    near: list[tuple[Indices, Indices]] = []
    family: list[tuple[Indices, Indices]] = []
    for band in range(NUM_BANDS):
        left, right = _meetings(read_band(band))
        similarity = _similarity(signatures, left, right)
        for pairs, threshold in ((near, config.threshold), (family, config.family_threshold)):
            kept = similarity >= threshold
            pairs.append((left[kept], right[kept]))
    return Clusters(same_prompt, _components(near, num_rows), _components(family, num_rows))


def _meetings(keys: Hashes) -> tuple[Indices, Indices]:
    """Pairs of rows with the same key: each row with the one before it, and with the first of its kind."""
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    is_first = (
        np.concatenate(([True], sorted_keys[1:] != sorted_keys[:-1])) if len(keys) else np.zeros(0, bool)
    )
    first = np.maximum.accumulate(np.where(is_first, np.arange(len(keys)), 0))
    later = np.flatnonzero(~is_first)
    before = np.concatenate((order[later - 1], order[first[later]]))
    return before, np.concatenate((order[later], order[later]))


def _similarity(signatures: npt.NDArray[np.uint8], left: Indices, right: Indices) -> npt.NDArray[np.float64]:
    """Estimated Jaccard similarity of pairs of rows; two different values share their low byte once in 256."""
    shares = np.empty(len(left))
    for start in range(0, len(left), _PAIRS_AT_ONCE):
        piece = slice(start, start + _PAIRS_AT_ONCE)
        shares[piece] = (signatures[left[piece]] == signatures[right[piece]]).mean(axis=1)
    return (shares - 1 / 256) / (1 - 1 / 256)


def _components(pairs: list[tuple[Indices, Indices]], num_rows: int) -> Indices:
    left, right = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
    graph = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(num_rows, num_rows))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def pick_best(clusters: Indices, worth: Sequence[npt.NDArray[np.generic]]) -> Indices:
    """The row to keep for every row: the best of its cluster.

    Args:
        clusters: Cluster of every row.
        worth: What makes a row better, the most important first, smaller is better; ties go to the earlier
            row.
    """
    order = np.lexsort((np.arange(len(clusters)), *reversed(worth), clusters))
    heads = np.flatnonzero(np.concatenate(([True], np.diff(clusters[order]) != 0))) if len(order) else order
    best = np.empty(len(clusters), np.int64)
    sizes = np.diff(np.concatenate((heads, [len(order)])))
    best[order] = np.repeat(order[heads], sizes)
    return best
