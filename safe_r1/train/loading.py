"""Checks of a model's weights after they were read.

transformers starts what is missing at random, and says so in a log alone.
"""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from safe_r1.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SHOWN = 3
# What `from_pretrained` reports with `output_loading_info`, and what it means.
_PROBLEMS = {
    "missing_keys": "weights of the model are not in its files, and would be random",
    "mismatched_keys": "weights have another shape than the configuration says",
    "unexpected_keys": "weights in the files belong to no part of the model",
    "error_msgs": "weights could not be read",
}


def check_loaded(source: str, model: "PreTrainedModel", report: Mapping[str, Collection[object]]) -> None:
    """Check that every weight of a model came from its files, and that each is a number.

    Args:
        source: Folder or hub id, for the message.
        model: The model; of a sharded one this worker's shards are checked.
        report: The second result of ``from_pretrained`` with ``output_loading_info``.

    Raises:
        ModelError: Weights are missing, surplus, of another shape, or not finite; the message names some.
    """
    for key, problem in _PROBLEMS.items():
        names = sorted({_name(entry) for entry in report.get(key, ())})
        if names:
            raise _unusable(source, f"{len(names)} {problem}: {', '.join(names[:_SHOWN])}")
    broken = [name for name, weight in model.state_dict().items() if not _is_finite(weight)]
    if broken:
        raise _unusable(source, f"{len(broken)} weights hold NaN or infinity: {', '.join(broken[:_SHOWN])}")


def check_vocabulary(source: str, tokenizer: "PreTrainedTokenizerBase", vocabulary: int) -> None:
    """Check that every token of a tokenizer has a row of the embedding.

    Args:
        source: Folder or hub id, for the message.
        tokenizer: Its tokenizer.
        vocabulary: Rows of the embedding.

    Raises:
        ModelError: It has more tokens.
    """
    last = max(tokenizer.get_vocab().values())
    if last >= vocabulary:
        raise ModelError(
            f"{source}: its tokenizer has tokens up to number {last:,}, its embedding {vocabulary:,} rows; "
            "take the tokenizer that the weights were published with, or resize the embedding"
        )


def _name(entry: object) -> str:
    # Of a mismatch both shapes are given with the name.
    return str(entry[0]) if isinstance(entry, tuple) else str(entry).splitlines()[0]


def _is_finite(weight: Tensor) -> bool:
    if isinstance(weight, DTensor):
        weight = weight.to_local()
    # One number that is not finite makes the sum so, without a copy of the weight as large as itself.
    return not weight.is_floating_point() or bool(torch.isfinite(weight.sum(dtype=torch.float64)))


def _unusable(source: str, problem: str) -> ModelError:
    return ModelError(f"{source} cannot be trained: {problem}; copy or download the model again")
