"""Sketches of prompts, by which near duplicates are found without their texts.

A sketch is a MinHash signature (rensa) over the n-grams of ``text``, its bands, and two hashes: of the whole
prompt, and of the prompt without its numbers. Spans that many prompts of a source share, such as an
instruction above each question, are left out of the signature: they would make different questions alike.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue] - the wheel carries no types

from safe_r1.corpus.recipe import DedupConfig
from safe_r1.corpus.text import Hashes, Indices, Units, ngrams, units_of
from safe_r1.language import Language, detect_language

# 32 bands of 4 rows: two prompts with Jaccard similarity 0.65 share a band with probability 0.998, with
# similarity 0.5 with probability 0.87.
NUM_PERM = 128
NUM_BANDS = 32
_ROWS_PER_BAND = NUM_PERM // NUM_BANDS
_SEED = 1
# A letter or digit of any script: a word character that is no underscore.
_LETTER = re.compile(r"[^\W_]")
# An n-gram that so many prompts of a source have, and at least that share of them, may belong to a shared
# span; a span is that many of them in a row, as the edits of near duplicates lie closer together.
_MIN_SHARING, _MIN_SHARING_SHARE = 8, 0.01
_MIN_SPAN: dict[Language, int] = {"zh": 30, "en": 12}
# A prompt has a part of its own if that many more n-grams than their size are its own in a row: an edit of a
# copy changes no more than their size. All other prompts are compared as a whole.
_MIN_OWN = 2

SKETCH_SCHEMA = pa.schema(
    [
        ("exact", pa.uint64()),
        ("template", pa.uint64()),
        ("signature", pa.binary(NUM_PERM)),
        *((f"band_{band:02d}", pa.uint64()) for band in range(NUM_BANDS)),
    ]
)


SharedGrams = Mapping[Language, Hashes]
"""Sorted hashes of n-grams that many prompts share, of each language."""


def find_shared(prompts: Sequence[str], config: DedupConfig) -> dict[Language, Hashes]:
    """N-grams that many of some prompts share; their order does not count."""
    shared: dict[Language, Hashes] = {}
    for language, size, _, units in _units_by_language(_comparable(prompts), config):
        grams = units.ngrams(size)
        num_texts, text = len(grams.counts), grams.of_text
        # Pairs of n-gram and text, each once.
        order = np.lexsort((text, grams.hashes))
        hashes, text = grams.hashes[order], text[order]
        is_new = np.ones(len(order), bool)
        is_new[1:] = (hashes[1:] != hashes[:-1]) | (text[1:] != text[:-1])
        found, num_sharing = np.unique(hashes[is_new], return_counts=True)
        shared[language] = found[num_sharing >= max(_MIN_SHARING, _MIN_SHARING_SHARE * num_texts)]
    return shared


def join_shared(parts: Iterable[SharedGrams]) -> dict[Language, Hashes]:
    """The n-grams of several sources together: a prompt has one sketch, whichever source it is in."""
    listed = list(parts)
    empty = [np.zeros(0, np.uint64)]
    return {
        language: np.unique(np.concatenate(empty + [each[language] for each in listed if language in each]))
        for language in _MIN_SPAN
    }


def sketch(prompts: Sequence[str], config: DedupConfig, shared: SharedGrams | None = None) -> pa.Table:
    """Sketch prompts.

    Args:
        prompts: The prompts.
        config: Sizes of the n-grams.
        shared: N-grams of spans that many prompts share; None: of none.

    Returns:
        One row of ``SKETCH_SCHEMA`` per prompt: the hash of the whole prompt, and that of the prompt with its
        numbers replaced; the low bytes of its MinHash signature, and the hashes of its bands.
    """
    texts = _comparable(prompts)
    exact, template = np.zeros(len(texts), np.uint64), np.zeros(len(texts), np.uint64)
    signatures = np.zeros((len(texts), NUM_PERM), np.uint32)
    for language, size, positions, units in _units_by_language(texts, config):
        exact[positions] = units.whole()
        template[positions] = units.without_numbers().whole()
        known = (shared or {}).get(language, np.zeros(0, np.uint64))
        grams = _without_shared_spans(units.ngrams(size), known, size, _MIN_SPAN[language])
        signatures[positions] = _minhash(grams)
    # The low byte of each value is enough to estimate the similarity, in a quarter of the memory.
    low_bytes = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(NUM_PERM), len(texts), [None, pa.py_buffer(signatures.astype(np.uint8).tobytes())]
    )
    columns = [pa.array(exact), pa.array(template), low_bytes, *map(pa.array, _bands(signatures))]
    return pa.table(columns, schema=SKETCH_SCHEMA)


def _comparable(prompts: Sequence[str]) -> list[str]:
    return [prompt if _LETTER.search(prompt) else _code_points(prompt) for prompt in prompts]


def _units_by_language(
    texts: Sequence[str], config: DedupConfig
) -> Iterator[tuple[Language, int, Indices, Units]]:
    """Of each language: the size of its n-grams, the positions of its texts, and their units."""
    languages = np.array([detect_language(text) for text in texts])
    sizes: dict[Language, int] = {"zh": config.ngram_chars, "en": config.ngram_words}
    for language, size in sizes.items():
        positions = np.flatnonzero(languages == language)
        yield language, size, positions, units_of([texts[int(place)] for place in positions], language)


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


def _without_shared_spans(grams: Units, known: Hashes, size: int, min_span: int) -> Units:
    """The n-grams of each text but for those inside a span of n-grams that many texts share."""
    if not len(known) or not len(grams.hashes):
        return grams
    num_texts, text = len(grams.counts), grams.of_text
    shared = np.isin(grams.hashes, known)
    lengths = _run_lengths(shared, text)
    longest_own = np.zeros(num_texts, np.int64)
    np.maximum.at(longest_own, text[~shared], lengths[~shared])
    has_own = longest_own >= _MIN_OWN + size
    is_kept = ~(shared & (lengths >= min_span) & has_own[text])
    return Units(grams.hashes[is_kept], np.bincount(text[is_kept], minlength=num_texts).astype(np.int64))


def _run_lengths(flags: npt.NDArray[np.bool_], text: Indices) -> Indices:
    """Length of the run of equal flags within one text that each position is in, shape (positions,)."""
    starts_run = np.ones(len(flags), bool)
    starts_run[1:] = (flags[1:] != flags[:-1]) | (text[1:] != text[:-1])
    starts = np.flatnonzero(starts_run)
    lengths = np.diff(np.append(starts, len(flags)))
    return lengths[np.cumsum(starts_run) - 1]
