from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from upath import UPath

from safe_r1.errors import DataError, IntegrityError
from safe_r1.runs import RunFolder, read_table, write_table
from safe_r1.train import pack as module
from safe_r1.train.pack import PackShards, count_packed, pack
from safe_r1.train.packed import (
    DUMMY_INDEX,
    DUMMY_SEQUENCE,
    IGNORE_INDEX,
    PackedReader,
    PackedSequence,
)
from safe_r1.train.preview import describe_batch
from safe_r1.train.token_shards import TOKENS_SCHEMA

LENGTHS = st.integers(8, 200).flatmap(
    lambda n: st.tuples(st.just(n), st.lists(st.integers(1, n), max_size=120))
)


@given(LENGTHS)
def test_every_document_is_packed_once_and_no_sequence_is_too_long(case: tuple[int, list[int]]):
    seq_len, lengths = case
    bins = pack(lengths, seq_len)
    assert sorted(document for chosen in bins for document in chosen) == list(range(len(lengths)))
    assert all(sum(lengths[document] for document in chosen) <= seq_len for chosen in bins)
    assert bins == pack(np.array(lengths, np.int32), seq_len)


@given(LENGTHS)
def test_at_most_one_sequence_is_half_empty(case: tuple[int, list[int]]):
    seq_len, lengths = case
    assert (
        sum(2 * sum(lengths[document] for document in chosen) <= seq_len for chosen in pack(lengths, seq_len))
        <= 1
    )


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8))
def test_packing_is_close_to_the_best_there_is(lengths: list[int]):
    # Dósa 2007: first or best fit decreasing needs at most 11/9 of the best and 6/9 more; plain first fit may
    # need 17/10.
    assert len(pack(lengths, 30)) <= 11 / 9 * best_possible(lengths, 30) + 6 / 9


def best_possible(lengths: list[int], seq_len: int) -> int:
    """Fewest sequences: for every set of documents, the fewest and the least that the last one holds then."""
    best = {0: (1, 0)}
    for chosen in range(1, 1 << len(lengths)):
        options = []
        for document, length in enumerate(lengths):
            if chosen >> document & 1:
                num, used = best[chosen ^ (1 << document)]
                options.append((num, used + length) if used + length <= seq_len else (num + 1, length))
        best[chosen] = min(options)
    return best[(1 << len(lengths)) - 1][0]


def test_an_example_by_hand():
    # Longest first: 7 | 6 | 5 | 4 beside 6, not 5 (room 0, not 1) | 3 beside 7 | 3 beside 5 | 2 beside 5 and
    # 3.
    assert pack([3, 7, 4, 5, 6, 3, 2], 10) == [[0, 1], [2, 4], [3, 5, 6]]
    assert pack([], 10) == []


def test_a_document_that_fits_nowhere_is_an_error_of_ours():
    with pytest.raises(AssertionError):
        pack([11], 10)


def test_many_documents_are_packed_tightly():
    lengths = np.clip(np.random.default_rng(0).lognormal(6.6, 0.8, 200_000).astype(int), 50, 8192)
    bins = pack(lengths, 8192)
    assert lengths.sum() / (len(bins) * 8192) > 0.99


SEQUENCE = PackedSequence(
    np.array([10, 11, 12, 20, 21]), [3, 2], [1, 1], ["safety", "reasoning"], ["a/0", "b/1"]
)


def test_positions_begin_again_and_prompts_are_not_learned():
    assert SEQUENCE.position_ids.tolist() == [0, 1, 2, 0, 1]
    assert SEQUENCE.labels.tolist() == [IGNORE_INDEX, 11, 12, IGNORE_INDEX, 21]
    assert SEQUENCE.kind == "mixed"
    assert (DUMMY_SEQUENCE.labels == IGNORE_INDEX).all()


def line(name: str, kind: str, tokens: list[int], num_prompt: int = 1, reason: str | None = None) -> dict:
    return {
        "row_id": name,
        "kind": kind,
        "turn": 1,
        "reason": reason,
        "was_cut": False,
        "num_whole": len(tokens),
        "num_tokens": len(tokens),
        "num_prompt": num_prompt,
        "input_ids": None if reason else tokens,
    }


LINES = [
    line("a/0", "safety", [1, 2, 3, 4, 5, 6]),
    line("a/1", "safety", [9] * 40, reason="too_long"),
    line("b/0", "reasoning", [11, 12, 13], 2),
    line("a/2", "safety", [21, 22, 23, 24], 3),
    line("b/1", "reasoning", [31, 32]),
]


def prepared(
    folder: UPath, split: str, files: list[list[dict]], by_kind: bool, seq_len: int = 8
) -> PackedReader:
    shards = []
    for number, lines in enumerate(files):
        sources = [folder / "tokens" / f"{number}-{part}.parquet" for part in range(2)]
        for source, half in zip(sources, (lines[:2], lines[2:]), strict=True):
            write_table(source, pa.Table.from_pylist(half, schema=TOKENS_SCHEMA))
        target = folder / split / f"part-{number:05d}.parquet"
        PackShards(seq_len, by_kind)(target, sources)
        shards.append([target.name, count_packed(target)["sequences", ""]])
    RunFolder(folder).write_json("data.json", {"splits": {split: {"shards": shards}}})
    return PackedReader(folder, split)


def test_documents_come_back_as_they_were():
    reader = prepared(UPath("memory://pack/mixed"), "train", [LINES], by_kind=False)
    sequences = reader.read(range(reader.num_sequences))
    assert [sequence.row_ids for sequence in sequences] == [["a/0", "b/1"], ["b/0", "a/2"]]
    assert sequences[0].input_ids.tolist() == [1, 2, 3, 4, 5, 6, 31, 32]
    assert sequences[1].labels.tolist() == [
        IGNORE_INDEX,
        IGNORE_INDEX,
        13,
        IGNORE_INDEX,
        IGNORE_INDEX,
        IGNORE_INDEX,
        24,
    ]
    assert sequences[1].kinds == ["reasoning", "safety"]
    counts = count_packed(UPath("memory://pack/mixed/train/part-00000.parquet"))
    assert counts == {
        ("sequences", ""): 2,
        ("documents", "safety"): 2,
        ("documents", "reasoning"): 2,
        ("tokens", "safety"): 10,
        ("tokens", "reasoning"): 5,
        ("label_tokens", "safety"): 6,
        ("label_tokens", "reasoning"): 2,
    }


def test_validation_sequences_have_one_kind_each():
    reader = prepared(UPath("memory://pack/kinds"), "validation", [LINES], by_kind=True)
    sequences = reader.read(range(reader.num_sequences))
    assert [(sequence.kind, sequence.row_ids) for sequence in sequences] == [
        ("reasoning", ["b/0", "b/1"]),
        ("safety", ["a/0"]),
        ("safety", ["a/2"]),
    ]


def test_any_sequence_of_any_file_and_row_group_is_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_TOKENS_PER_ROW_GROUP", 3 * 8)
    files = [
        [line(f"{file}/{row}", "safety", [file, row, 0, 0, 0]) for row in range(rows)]
        for file, rows in enumerate((10, 1, 5))
    ]
    reader = prepared(UPath("memory://pack/many"), "train", files, by_kind=False)
    assert reader.num_sequences == 16
    order = np.random.default_rng(0).permutation(16)
    names = [f"{file}/{row}" for file, rows in enumerate((10, 1, 5)) for row in range(rows)]
    assert [sequence.row_ids[0] for sequence in reader.read(order)] == [names[index] for index in order]
    assert reader.read([DUMMY_INDEX]) == [DUMMY_SEQUENCE]
    with pytest.raises(IndexError):
        reader.read([16])


def test_a_file_whose_rows_are_all_dropped_is_empty():
    reader = prepared(UPath("memory://pack/empty"), "train", [LINES[1:2]], by_kind=False)
    assert reader.num_sequences == 0
    assert read_table(UPath("memory://pack/empty/train/part-00000.parquet")).num_rows == 0


def test_a_packing_that_loses_a_document_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "pack", lambda lengths, seq_len: [[0]])
    with pytest.raises(IntegrityError, match="4 documents, 1 packed"):
        prepared(UPath("memory://pack/lost"), "train", [LINES], by_kind=False)


def test_a_folder_without_prepared_data_says_so():
    with pytest.raises(DataError, match=r"no data\.json"):
        PackedReader(UPath("memory://pack/nothing"))


class CharTokenizer:
    """A tokenizer whose tokens are characters."""

    def decode(self, tokens: np.ndarray) -> str:
        return "".join(map(chr, tokens))


CHARS: Any = CharTokenizer()


def text_sequence(*texts: tuple[str, str]) -> PackedSequence:
    tokens = np.array([ord(char) for prompt, completion in texts for char in prompt + completion])
    lengths = [len(prompt + completion) for prompt, completion in texts]
    return PackedSequence(
        tokens,
        lengths,
        [len(prompt) for prompt, _ in texts],
        ["safety"] * len(texts),
        [f"a/{i}" for i in range(len(texts))],
    )


def test_a_batch_is_shown_with_its_mask():
    shown = describe_batch([text_sequence(("问\n", "答\x1b[2J"), ("U", "V\\n"))], CHARS)
    assert shown.splitlines() == [
        "sequence 0: 2 documents, 11 tokens, 8 of them labels",
        "  document 0: a/0 (safety), positions 0 to 6",
        "    问\\n",
        "    【答\\x1b[2J】",
        "  document 1: a/1 (safety), positions 0 to 3",
        "    U【V\\n】",
    ]


def test_a_long_batch_is_shown_in_part():
    shown = describe_batch(
        [text_sequence(("x" * 2_000, "y")), text_sequence(*[("u", "v")] * 9)], CHARS, max_documents=3
    )
    assert "xx … 1,600 characters … xx" in shown
    assert shown.endswith("and 7 more documents")
    assert len(shown) < 1_500
