"""Lengths of completions in tokens, which show whether training for safety shortens the reasoning."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from safe_r1.schema import Completion

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH = 256


def token_lengths(
    completions: Sequence[Completion], tokenizer: "PreTrainedTokenizerBase"
) -> dict[str, dict[str, float]]:
    """Lengths by part: ``completion`` of all rows that did not fail, ``reasoning`` of those that have one.

    Args:
        completions: The rows of one benchmark.
        tokenizer: The variant's; it counts the tokens of the reasoning, which is a part of the completion.

    Returns:
        For each part with rows ``num_rows``, ``mean``, ``median`` and ``p90``.
    """
    texts = [row.reasoning for row in completions if row.reasoning]
    reasoning: list[int] = []
    # In batches: all at once, the encodings of a large run would take gigabytes.
    for start in range(0, len(texts), _BATCH):
        encoded = tokenizer(texts[start : start + _BATCH], add_special_tokens=False)["input_ids"]
        reasoning += [len(ids) for ids in encoded]
    return completion_lengths(completions) | ({"reasoning": _summary(reasoning)} if reasoning else {})


def completion_lengths(completions: Sequence[Completion]) -> dict[str, dict[str, float]]:
    """Lengths of all completions that neither failed nor were blocked, as engine or endpoint counted them."""
    whole = [row.completion_tokens for row in completions if row.error is None and row.blocked is None]
    return {"completion": _summary(whole)} if whole else {}


def _summary(lengths: Sequence[int]) -> dict[str, float]:
    median, p90 = np.percentile(lengths, [50, 90])
    return {
        "num_rows": len(lengths),
        "mean": float(np.mean(lengths)),
        "median": float(median),
        "p90": float(p90),
    }
