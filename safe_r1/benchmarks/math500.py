"""MATH-500: competition problems with one boxed result each.

Source: Lightman et al., arXiv 2305.20050 (the split); Hendrycks et al., arXiv 2103.03874 (the problems).
"""

from typing import Any

from safe_r1.benchmarks.files import field_of
from safe_r1.benchmarks.math_answers import INSTRUCTION
from safe_r1.benchmarks.table import TableBenchmark
from safe_r1.schema import Message, Sample


class Math500(TableBenchmark):
    """500 problems of seven subjects and five levels."""

    name = "math-500"
    title = "MATH-500"
    folder, file = "math500", "test.jsonl"
    repeats = 4

    def read_row(self, row: dict[str, Any], where: str) -> Sample:
        """Area: the subject; category: the subject and the level."""
        problem, answer, source_id = (
            field_of(row, name, str, where) for name in ("problem", "answer", "unique_id")
        )
        area = field_of(row, "subject", str, where).lower().replace(" ", "-").replace("&", "and")
        return Sample(
            f"{self.name}/math/{source_id.removesuffix('.json').replace('/', '-')}",
            self.name,
            "math",
            area,
            f"{area}/level-{field_of(row, 'level', int, where)}",
            [Message(role="user", content=f"{problem}\n\n{INSTRUCTION}")],
            metadata={"answer": answer, "source_id": source_id},
        )


MATH_500 = Math500()
