"""GPQA-Diamond: multiple-choice questions of graduate level; the options are in another order in every
repeat.

Gated: its authors ask not to publish questions in plain text, so nothing of it lies here.

Source: Rein et al., arXiv 2311.12022.
"""

import random
from dataclasses import replace
from typing import Any

from safe_r1.benchmarks.fetch import DATA
from safe_r1.benchmarks.files import field_of
from safe_r1.benchmarks.table import TableBenchmark
from safe_r1.schema import Message, Sample

INSTRUCTION = "Reason step by step. End with a line of its own that holds `Answer: ` and the letter of the one right option."

_LETTERS = "ABCD"
_OPTIONS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


class GpqaDiamond(TableBenchmark):
    """198 questions of biology, chemistry and physics."""

    name = "gpqa-diamond"
    title = "GPQA-Diamond"
    folder, file = "gpqa", "gpqa_diamond.csv"
    repeats = 8

    def read_row(self, row: dict[str, Any], where: str) -> Sample:
        """The right option comes first here; ``as_asked`` puts the options into the order of a repeat."""
        question, domain, subdomain = (
            field_of(row, name, str, where).strip() for name in ("Question", "High-level domain", "Subdomain")
        )
        options = [field_of(row, name, str, where).strip() for name in _OPTIONS]
        source_id = field_of(row, "Record ID", str, where)
        area = _key(domain)
        return Sample(
            f"{self.name}/science/{source_id}",
            self.name,
            "mcq",
            area,
            f"{area}/{_key(subdomain)}",
            [Message(role="user", content=question)],
            dict(zip(_LETTERS, options, strict=True)),
            {"answer": "A", "source_id": source_id, "has_history": "false", "shuffle_options": "true"},
        )

    def how_to_get(self) -> str:
        """The way through the gate."""
        return (
            f"it is gated: accept its terms at huggingface.co/datasets/Idavidrein/gpqa, then `hf download Idavidrein/gpqa "
            f"{self.file} --repo-type dataset --local-dir DIR/{self.folder}`, and give --data DIR or set {DATA}=DIR"
        )


def as_asked(sample: Sample, repeat: int) -> Sample:
    """The question with its options in the order of a repeat: the same order wherever and whenever it is
    asked.

    A letter of the asked form stands for the option that ``sample_letter`` says. Samples of other tasks are
    left as they are.
    """
    if not sample.has_shuffled_options:
        return sample
    order = _order(sample, repeat)
    options = {letter: sample.options[source] for letter, source in zip(sample.options, order, strict=True)}
    shown = "\n".join(f"{letter}. {text}" for letter, text in options.items())
    content = f"{sample.messages[-1]['content']}\n\n{shown}\n\n{INSTRUCTION}"
    return replace(
        sample, messages=[*sample.messages[:-1], Message(role="user", content=content)], options=options
    )


def sample_letter(sample: Sample, repeat: int, letter: str | None) -> str | None:
    """The letter in the sample of an option that was chosen by its letter in a repeat."""
    return None if letter is None else dict(zip(sample.options, _order(sample, repeat), strict=True))[letter]


def _order(sample: Sample, repeat: int) -> list[str]:
    letters = list(sample.options)
    random.Random(f"{sample.sample_id}|{repeat}").shuffle(letters)
    return letters


def _key(name: str) -> str:
    return "-".join(name.lower().replace("(", "").replace(")", "").split())


GPQA_DIAMOND = GpqaDiamond()
