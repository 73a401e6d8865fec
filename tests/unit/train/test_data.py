from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from upath import UPath

from safe_r1.errors import ConfigError, DataError
from safe_r1.models.registry import get_variant
from safe_r1.train.config import PackConfig
from safe_r1.train.data import check_context, prepare_data
from safe_r1.train.packed import DUMMY_INDEX
from safe_r1.train.sampler import batch_indices, num_steps, rank_indices


def flat(parts: list[np.ndarray]) -> list[int]:
    return [int(index) for part in parts for index in part]


def test_an_epoch_has_every_sequence_once_and_the_next_another_order():
    stream = flat([batch_indices(10, 5, 0, step) for step in range(4)])
    first, second = stream[:10], stream[10:]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert stream != flat([batch_indices(10, 5, 1, step) for step in range(4)])


def test_a_batch_goes_on_with_the_next_epoch():
    assert num_steps(10, 4, 3) == 7
    stream = flat([batch_indices(10, 4, 7, step) for step in range(7)])
    assert sorted(stream[:10]) == sorted(stream[10:20]) == list(range(10))
    assert len(set(stream[20:])) == 8


def test_the_order_is_written_down():
    # A run that is resumed with another numpy must go on with the same order.
    assert batch_indices(8, 8, 0, 0).tolist() == [3, 2, 1, 6, 0, 7, 4, 5]


@given(st.integers(1, 40), st.integers(0, 30), st.integers(0, 5))
def test_a_resumed_run_goes_on_as_if_undisturbed(num_sequences: int, step: int, seed: int):
    batch = max(1, num_sequences // 3)
    undisturbed = [batch_indices(num_sequences, batch, seed, number).tolist() for number in range(step + 1)]
    assert batch_indices(num_sequences, batch, seed, step).tolist() == undisturbed[step]
    assert all(len(indices) == batch for indices in undisturbed)


@given(st.integers(1, 70), st.integers(1, 9), st.integers(1, 9))
def test_all_workers_together_compute_the_batch_once(batch: int, world: int, micro: int):
    indices = batch_indices(100, batch, 0, 3)
    parts = [rank_indices(indices, rank, world, micro) for rank in range(world)]
    assert len({tuple(map(len, part)) for part in parts}) == 1
    assert all(0 < len(piece) <= micro for piece in parts[0])
    seen = Counter(index for part in parts for index in flat(part))
    assert seen.pop(DUMMY_INDEX, 0) == -batch % world
    assert seen == Counter(indices.tolist())


def test_each_of_four_workers_has_a_quarter():
    parts = [rank_indices(np.arange(8), rank, 4, 1) for rank in range(4)]
    assert [flat(part) for part in parts] == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert [piece.tolist() for piece in rank_indices(np.arange(8), 0, 2, 3)] == [[0, 2, 4], [6]]


def test_less_than_one_batch_is_refused_with_the_numbers():
    with pytest.raises(ConfigError, match=r"7 sequences, fewer than one batch of 64.*global_batch_size=7"):
        num_steps(7, 64, 2)


def test_a_sequence_beyond_the_context_is_refused(tiny_llama: Path):
    check_context(PackConfig(seq_len=131072), get_variant("r1-distill-qwen-7b"))
    with pytest.raises(ConfigError, match=r"8,193 is beyond the context of demo, 8,192 tokens.*seq_len=8192"):
        check_context(PackConfig(seq_len=8193), get_variant("demo"))
    with pytest.raises(ConfigError, match="4,096 tokens"):
        check_context(PackConfig(seq_len=5000), get_variant(str(tiny_llama)))


def prepare(corpus: Path, model: Path) -> None:
    prepare_data(
        str(corpus),
        UPath(corpus / "packed"),
        get_variant(str(model)),
        PackConfig(seq_len=64),
        lambda *args: None,
    )


def test_what_is_not_a_finished_corpus_is_refused(tiny_llama: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"nowhere: not a corpus .*build_corpus wrote"):
        prepare(tmp_path / "nowhere", tiny_llama)
    (tmp_path / "corpus.json").write_text("{}")
    with pytest.raises(DataError, match="not finished"):
        prepare(tmp_path, tiny_llama)
    (tmp_path / "_SUCCESS").touch()
    with pytest.raises(DataError, match="not a corpus"):
        prepare(tmp_path, tiny_llama)
