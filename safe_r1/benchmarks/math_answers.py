"""Scores mathematical results with math-verify, which compares values and not texts."""

import logging
import re
from collections.abc import Sequence

from safe_r1.benchmarks.base import Score
from safe_r1.benchmarks.table import TableBenchmark
from safe_r1.schema import Sample

INSTRUCTION = "Reason step by step, and put your final answer within \\boxed{}."
"""Follows every problem: what DeepSeek's model card recommends, in our wording."""

_MAX_CHARS = 20_000
_SHOWN_CHARS = 80
# Not NFKC, which makes x² an x2: only the forms whose sole difference is their width.
_NARROW = {wide: wide - 0xFEE0 for wide in range(0xFF01, 0xFF5F)} | {0x3000: 0x20, 0x2044: ord("/")}
# Other full-width commas separate the items of a list, which must not become one number.
_THOUSANDS = re.compile(r"(?<=[0-9０-９])，(?=[0-9０-９]{3}(?![0-9０-９]))")
_BOX = re.compile(r"\\boxed\s*\{")


class MathBenchmark(TableBenchmark):
    """Problems with one result each, ``metadata['answer']``, in LaTeX without dollar signs."""

    score_limit_s = 30.0

    def score(self, sample: Sample, repeat: int, answer: str) -> Score:
        """Compare the last result in the answer with the known one; see ``is_equal`` for its cost."""
        return score_result(sample, answer)


def score_result(sample: Sample, answer: str) -> Score:
    """Whether the last result in the answer equals ``metadata['answer']``; see ``is_equal`` for its cost."""
    try:
        return is_equal(sample.metadata["answer"], answer)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - the parser of mathematics raises anything on what models write
        return Score(False, None, f"not readable as mathematics: {type(error).__name__}")


def narrow(text: str) -> str:
    """A text with full-width digits, letters and signs in their usual width."""
    return _THOUSANDS.sub(",", text).replace("，", ", ").translate(_NARROW)


def is_equal(result: str, answer: str) -> Score:
    """Whether the last result in ``answer`` equals ``result``; a boxed one goes before any other.

    It may take unbounded time and memory, as ``9^{9^{9}}`` does: give it to a process that can be killed.

    Args:
        result: The known result, in LaTeX without dollar signs.
        answer: The text after the reasoning.
    """
    from math_verify import parse, verify

    # The library warns at every call that there is no time limit.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    # Its time limit needs the main thread of a process, in which a Ray worker does not run tasks.
    gold = parse(f"${narrow(result)}$", parsing_timeout=None)  # pyright: ignore[reportArgumentType]
    # A result is at the end of an answer; parsing all of an endless repetition would only take time.
    found = parse(narrow(answer[-_MAX_CHARS:]), parsing_timeout=None)  # pyright: ignore[reportArgumentType]
    if not found:
        return Score(False, None, "no result")
    return Score(bool(verify(gold, found, timeout_seconds=None)), _shown(answer, found))


def _shown(answer: str, found: Sequence[object]) -> str:
    """The extracted result, as the model wrote it where it is boxed."""
    boxes = list(_BOX.finditer(answer))
    if boxes:
        # Counted, as no regular expression matches nested braces such as those of \frac{1}{2}.
        depth = 1
        start = boxes[-1].end()
        for end, char in enumerate(answer[start:], start):
            depth += (char == "{") - (char == "}")
            if depth == 0:
                return answer[start:end].strip()[:_SHOWN_CHARS]
    return next((text for text in found if isinstance(text, str)), str(found[0]))[:_SHOWN_CHARS]
