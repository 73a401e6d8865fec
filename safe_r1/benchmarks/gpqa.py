"""GPQA-Diamond: multiple-choice questions of graduate level, with the options shuffled anew in every repeat.

Gated: its authors request not to publish questions in plain text, so the package does not include them.

Source: Rein et al., arXiv 2311.12022.
"""

from collections.abc import Mapping

from safe_r1.benchmarks.base import Score, Workload
from safe_r1.benchmarks.fetch import DATA
from safe_r1.benchmarks.files import field_of
from safe_r1.benchmarks.options import score_shuffled, shuffle_options
from safe_r1.benchmarks.table import TableBenchmark
from safe_r1.schema import Message, Sample

INSTRUCTION = (
    "Reason step by step. End with a line of its own that holds `Answer: ` and the letter of the one right "
    "option."
)

_LETTERS = "ABCD"
# Columns of the published file. The right option is always first there, which is why options are shuffled.
_OPTIONS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


class GpqaDiamond(TableBenchmark):
    """198 questions of biology, chemistry and physics."""

    name = "gpqa-diamond"
    title = "GPQA-Diamond"
    folder = "gpqa"
    file = "gpqa_diamond.csv"
    repeats = 8
    workload = Workload(num_questions=198, completion_tokens=8000, is_long=True)

    def read_row(self, row: Mapping[str, object], where: str) -> Sample:
        """The right option comes first; ``as_asked`` puts the options into the order of a repeat."""
        question, domain, subdomain = (
            field_of(row, name, str, where).strip() for name in ("Question", "High-level domain", "Subdomain")
        )
        options = [field_of(row, name, str, where).strip() for name in _OPTIONS]
        source_id = field_of(row, "Record ID", str, where)
        area = _key(domain)
        return Sample(
            # "science" is a former name of the task; ids are stable across versions, so it stays.
            f"{self.name}/science/{source_id}",
            self.name,
            "mcq",
            area,
            f"{area}/{_key(subdomain)}",
            [Message(role="user", content=question)],
            dict(zip(_LETTERS, options, strict=True)),
            {"answer": "A", "source_id": source_id, "has_history": "false", "shuffle_options": "true"},
        )

    def as_asked(self, sample: Sample, repeat: int) -> Sample:
        """The question with its options in the order of the repeat."""
        return shuffle_options(sample, repeat, INSTRUCTION)

    def score(self, sample: Sample, repeat: int, answer: str) -> Score:
        """Whether the option that was chosen by its letter is the right one."""
        return score_shuffled(sample, repeat, answer)

    def how_to_get(self) -> str:
        """How to accept the terms and download the file."""
        return (
            "it is gated: accept its terms at huggingface.co/datasets/Idavidrein/gpqa, then `hf download "
            f"Idavidrein/gpqa {self.file} --repo-type dataset --local-dir DIR/{self.folder}`, and give "
            f"--data DIR or set {DATA}=DIR"
        )


def _key(name: str) -> str:
    return "-".join(name.lower().replace("(", "").replace(")", "").split())


GPQA_DIAMOND = GpqaDiamond()
