"""Scoring of mathematical results by math-verify: equal as mathematics, not as text."""

import logging
import re
from typing import Any

from safe_r1.benchmarks.base import Score
from safe_r1.benchmarks.table import TableBenchmark
from safe_r1.schema import Sample

INSTRUCTION = "Reason step by step, and put your final answer within \\boxed{}."
"""Put after every problem: what DeepSeek's model card recommends, in our words."""

_MAX_CHARS = 20_000
_SHOWN_CHARS = 80
_BOX = re.compile(r"\\boxed\s*\{")


class MathBenchmark(TableBenchmark):
    """Problems with one result each, ``metadata['answer']``, in LaTeX without dollar signs."""

    score_limit_s = 30.0

    def score(self, sample: Sample, repeat: int, answer: str) -> Score:
        """Compare the last result in the answer with the known one; see ``is_equal`` for its cost."""
        try:
            return is_equal(sample.metadata["answer"], answer)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - the parser of mathematics raises anything on what models write
            return Score(False, None, f"not readable as mathematics: {type(error).__name__}")


def is_equal(result: str, answer: str) -> Score:
    """Whether the last result in ``answer`` equals ``result``; a boxed one goes before any other.

    It may take unbounded time and memory, as ``9^{9^{9}}`` does: give it to a process that can be killed.

    Args:
        result: The known result, in LaTeX without dollar signs.
        answer: The text after the reasoning.
    """
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns at every call that there is no limit
    # The library's own time limit needs the main thread of a process, which a worker of Ray does not give.
    no_limit: Any = None
    gold = parse(f"${result}$", parsing_timeout=no_limit)
    # A result stands at the end; more than that is a model that babbles.
    said = parse(answer[-_MAX_CHARS:], parsing_timeout=no_limit)
    if not said:
        return Score(False, None, "no result")
    return Score(bool(verify(gold, said, timeout_seconds=no_limit)), _shown(answer, said))


def _shown(answer: str, said: list[Any]) -> str:
    """What was read, as the model wrote it where it is boxed."""
    boxes = list(_BOX.finditer(answer))
    if boxes:
        depth, start = 1, boxes[-1].end()
        for end, char in enumerate(answer[start:], start):
            depth += (char == "{") - (char == "}")
            if depth == 0:
                return answer[start:end].strip()[:_SHOWN_CHARS]
    return next((text for text in said if isinstance(text, str)), str(said[0]))[:_SHOWN_CHARS]
