"""Text preview of a batch, to check its loss mask by eye before a run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from safe_r1.train.pack import Ints
from safe_r1.train.packed import IGNORE_INDEX, PackedSequence

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SHOWN_CHARS = 800
# A line break is shown as `\n` and also breaks the line, so that long texts stay readable.
_LINE_BREAK = "\\n\n    "


def describe_batch(
    sequences: Sequence[PackedSequence], tokenizer: "PreTrainedTokenizerBase", max_documents: int = 6
) -> str:
    """The first documents of a batch as text, label tokens between 【 and 】.

    Control characters are escaped, since a corpus is untrusted; long texts are shortened in the middle.
    """
    lines: list[str] = []
    remaining = max_documents
    for number, sequence in enumerate(sequences):
        if not remaining:
            break
        num_labels = np.count_nonzero(sequence.labels != IGNORE_INDEX)
        head = f"sequence {number}: {len(sequence.lengths)} documents"
        lines.append(f"{head}, {len(sequence.input_ids):,} tokens, {num_labels:,} of them labels")
        shown = min(remaining, len(sequence.lengths))
        lines += _describe_documents(sequence, shown, tokenizer)
        remaining -= shown
    num_documents = sum(len(sequence.lengths) for sequence in sequences)
    hidden = num_documents - (max_documents - remaining)
    if hidden:
        lines.append(f"and {hidden:,} more documents")
    return "\n".join(lines)


def _describe_documents(
    sequence: PackedSequence, count: int, tokenizer: "PreTrainedTokenizerBase"
) -> list[str]:
    """Two entries for each of the first documents: where it comes from, and its text."""
    lines: list[str] = []
    ends = np.cumsum(sequence.lengths)
    for index in range(count):
        span = slice(ends[index] - sequence.lengths[index], ends[index])
        positions = sequence.position_ids[span]
        name = f"{sequence.row_ids[index]} ({sequence.kinds[index]})"
        lines.append(f"  document {index}: {name}, positions {positions[0]} to {positions[-1]}")
        is_label = sequence.labels[span] != IGNORE_INDEX
        lines.append("    " + _mark_labels(sequence.input_ids[span], is_label, tokenizer))
    return lines


def _mark_labels(tokens: Ints, is_label: npt.NDArray[np.bool_], tokenizer: "PreTrainedTokenizerBase") -> str:
    # Runs of equal mask values: prepending the inverse of the first value makes index 0 start a run too.
    starts = np.flatnonzero(np.diff(is_label, prepend=~is_label[:1]))
    parts: list[str] = []
    for start, end in zip(starts, [*starts[1:], len(tokens)], strict=True):
        text = _escape(str(tokenizer.decode(tokens[start:end])))
        parts.append(f"【{text}】" if is_label[start] else text)
    return "".join(parts)


def _escape(text: str) -> str:
    if len(text) > _SHOWN_CHARS:
        # The start and the end are what a reader checks: the prompt's header and the end-of-turn token.
        half = _SHOWN_CHARS // 4
        text = f"{text[:half]} … {len(text) - 2 * half:,} characters … {text[-half:]}"
    return "".join(_escape_char(char) for char in text)


def _escape_char(char: str) -> str:
    if char == "\n":
        return _LINE_BREAK
    # `ascii` quotes what it escapes.
    return char if char.isprintable() else ascii(char)[1:-1]
