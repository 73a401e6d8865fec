"""MATH-500: competition problems with one boxed result each.

Source: Lightman et al., arXiv 2305.20050 (the split); Hendrycks et al., arXiv 2103.03874 (the problems).
"""

from collections.abc import Mapping

from safe_r1.benchmarks.base import Workload
from safe_r1.benchmarks.fetch import GITHUB, Source
from safe_r1.benchmarks.files import field_of
from safe_r1.benchmarks.math_answers import INSTRUCTION, MathBenchmark
from safe_r1.schema import Message, Sample


class Math500(MathBenchmark):
    """500 problems of seven subjects and five levels."""

    name = "math-500"
    title = "MATH-500"
    folder = "math500"
    file = "test.jsonl"
    repeats = 4
    workload = Workload(num_questions=500, completion_tokens=4000, is_long=True)
    source = Source(
        "math-500",
        f"{GITHUB}/UCSC-VLAA/STAR-1/b49333598887845f148ed1b4d2576dc2bff7581a"
        "/benchmark/reasoning_benchmark/datasets/MATH",
        {"test.jsonl": "a239272930e5202bf1d5275f7fa475a56687c775a61f1354a6d3371bf9dd7a94"},
        "math500",
    )

    def read_row(self, row: Mapping[str, object], where: str) -> Sample:
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
