"""Which packed sequences each optimizer step and each worker trains on.

The order follows from the seed and the step alone, so a run that is resumed at any step, on any number of
workers, sees the same batches as an uninterrupted one.
"""

import functools

import numpy as np

from safe_r1.errors import ConfigError
from safe_r1.train.pack import Ints
from safe_r1.train.packed import DUMMY_INDEX


def num_steps(num_sequences: int, global_batch_size: int, epochs: int) -> int:
    """Number of optimizer steps of all epochs; an incomplete batch at the very end is skipped.

    Raises:
        ConfigError: The data is smaller than one batch.
    """
    if num_sequences < global_batch_size:
        raise ConfigError(
            f"the corpus packs into {num_sequences:,} sequences, fewer than one batch of "
            f"{global_batch_size:,}: choose --set global_batch_size={num_sequences} or less, or a shorter "
            "pack.seq_len"
        )
    return num_sequences * epochs // global_batch_size


def batch_indices(num_sequences: int, global_batch_size: int, seed: int, step: int) -> Ints:
    """The sequences of an optimizer step, independent of the number of workers.

    Every epoch contains all sequences in an order of its own; its last, incomplete batch is filled from the
    beginning of the next epoch.

    Args:
        num_sequences: Sequences of the split, at least ``global_batch_size``.
        global_batch_size: Sequences of a step.
        seed: Of the order.
        step: Counted from 0 over all epochs.

    Returns:
        Indices of shape (global_batch_size,).
    """
    samples = np.arange(step * global_batch_size, (step + 1) * global_batch_size)
    # A batch may span two epochs, each with its own permutation.
    epochs, positions = np.divmod(samples, num_sequences)
    return np.concatenate(
        [
            _permutation(num_sequences, seed, int(epoch))[positions[epochs == epoch]]
            for epoch in np.unique(epochs)
        ]
    )


@functools.lru_cache(maxsize=2)
def _permutation(num_sequences: int, seed: int, epoch: int) -> Ints:
    # numpy guarantees the raw output of a bit generator across versions, but not that of `permutation`.
    generator = np.random.PCG64(np.random.SeedSequence([seed, epoch]))
    return np.argsort(generator.random_raw(num_sequences), kind="stable")


def rank_indices(indices: Ints, rank: int, world_size: int, micro_batch_size: int) -> list[Ints]:
    """The micro-batches of one data-parallel worker.

    All workers get the same number of micro-batches of the same sizes, because each forward and backward pass
    is a collective operation. If the batch does not divide evenly, some workers end with a dummy sequence;
    together they compute each real sequence once.

    Args:
        indices: The sequences of the step.
        rank: Data-parallel rank of this worker.
        world_size: Number of data-parallel workers.
        micro_batch_size: Sequences of a micro-batch.
    """
    per_worker = -(-len(indices) // world_size)  # rounded up
    slots = np.full(per_worker * world_size, DUMMY_INDEX)
    slots[: len(indices)] = indices
    # Interleaved like torch's DistributedSampler: dummies at the end go to different workers.
    mine = slots.reshape(per_worker, world_size)[:, rank]
    return [mine[start : start + micro_batch_size] for start in range(0, per_worker, micro_batch_size)]
