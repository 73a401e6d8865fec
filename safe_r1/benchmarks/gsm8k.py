"""GSM8K's test split: grade-school word problems whose result is a number.

Source: Cobbe et al., arXiv 2110.14168.
"""

from collections.abc import Mapping

from safe_r1.benchmarks.base import Workload
from safe_r1.benchmarks.fetch import GITHUB, Source
from safe_r1.benchmarks.files import field_of
from safe_r1.benchmarks.math_answers import INSTRUCTION, MathBenchmark
from safe_r1.errors import DataError
from safe_r1.schema import Message, Sample

_MARK = "####"


class Gsm8k(MathBenchmark):
    """1,319 problems; their place in the file is their id, as the data set has no other."""

    name = "gsm8k"
    title = "GSM8K"
    folder = "gsm8k"
    file = "test.jsonl"
    workload = Workload(num_questions=1319, completion_tokens=1000, is_long=True)
    source = Source(
        "gsm8k",
        f"{GITHUB}/openai/grade-school-math/3101c7d5072418e28b9008a6636bde82a006892c/grade_school_math/data",
        {"test.jsonl": "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14"},
        "gsm8k",
    )

    def read_row(self, row: Mapping[str, object], where: str) -> Sample:
        """The result follows ``####`` at the end of the published solution."""
        question, solution = (field_of(row, name, str, where) for name in ("question", "answer"))
        # The last mark: a solution may contain the same characters in its text.
        _, mark, result = solution.rpartition(_MARK)
        if not mark or not result.strip():
            raise DataError(f"{where}: no result after {_MARK!r}; fetch the file again")
        # The line in the file is the only identity that a problem has.
        number = int(where.rsplit(" ", 1)[1])
        return Sample(
            f"{self.name}/math/{number:04d}",
            self.name,
            "math",
            "word-problems",
            "word-problems",
            [Message(role="user", content=f"{question}\n\n{INSTRUCTION}")],
            metadata={"answer": result.strip().replace(",", ""), "source_id": str(number)},
        )


GSM8K = Gsm8k()
