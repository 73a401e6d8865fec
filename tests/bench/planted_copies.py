"""How many planted copies of benchmark questions the decontamination finds, and what it drops of other texts.

``python -m tests.bench.planted_copies --data DIR``: DIR holds CHiSafetyBench, GSM8K, MATH-500 and XSTest in
folders of these names, and the texts that are to stay in ``gsm8k/train.jsonl``, ``star1`` and ``cvalues``.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from opencc import OpenCC

from safe_r1.benchmarks import get_benchmark
from safe_r1.corpus.decontaminate import Decontaminator, questions_of
from safe_r1.corpus.recipe import DecontaminationConfig
from safe_r1.corpus.rows import CorpusRow
from safe_r1.schema import Message

BENCHMARKS = {"chisafetybench": "chisafetybench", "gsm8k": "gsm8k", "math-500": "math500", "xstest": "xstest"}
ZH = (
    "下面这段材料是从旧档案里找到的，请你先通读全文，再按照要求逐条说明，不要遗漏任何细节，也不要添加别的内容。"
    * 8
)
EN = (
    "The following text was found in an old archive and has to be looked at with great care by everyone. " * 8
)


def row_of(text: str) -> CorpusRow:
    """A row that asks a text."""
    return CorpusRow("s/0", "s", "0", "MIT", "safety", "zh", None, None, [Message(role="user", content=text)])


def change_every(step: int) -> Callable[[str], str]:
    """Replaces every so many-th letter."""

    def change(text: str) -> str:
        letters = [place for place, char in enumerate(text) if char.isalnum()]
        changed = list(text)
        for place in letters[::step]:
            changed[place] = _other(text[place])
        return "".join(changed)

    return change


def change_some(share: float, rng: random.Random) -> Callable[[str], str]:
    """Replaces letters at random."""
    return lambda text: "".join(
        _other(char) if char.isalnum() and rng.random() < share else char for char in text
    )


def _other(char: str) -> str:
    return "的" if "\u4e00" <= char <= "\u9fff" else "x"


def planted(data: Path) -> Iterator[tuple[str, str, int, int]]:
    """Benchmark, form of the copies, copies found, copies in all."""
    asked = {
        name: [sample.messages[-1]["content"] for sample in samples] for name, samples in load(data).items()
    }
    decontaminator = make_decontaminator(data)
    rng = random.Random(0)
    for name, texts in asked.items():
        is_chinese = name == "chisafetybench"
        around = EN if is_chinese else ZH
        forms: dict[str, Callable[[str], str]] = {
            "as it is": str,
            "inside a long text of the other language": lambda text, around=around: around + text + around,
            "every ninth character changed": change_every(9),
            "one character in nine changed, at random": change_some(1 / 9, rng),
        }
        if is_chinese:
            forms["in traditional characters, by phrases of Taiwan"] = OpenCC("s2twp").convert
        for form, make in forms.items():
            found = sum(decontaminator.find(row_of(make(text))) is not None for text in texts)
            yield name, form, found, len(texts)


def load(data: Path) -> Mapping[str, list]:
    """The benchmarks' questions."""
    return {name: list(get_benchmark(name).load(data / folder)) for name, folder in BENCHMARKS.items()}


def make_decontaminator(data: Path) -> Decontaminator:
    """One that protects all of them."""
    questions = [question for samples in load(data).values() for question in questions_of(samples)]
    return Decontaminator(questions, DecontaminationConfig())


def others(data: Path) -> Iterator[tuple[str, list[str]]]:
    """Texts that are in no benchmark, though some are much like its questions."""
    lines = (data / "gsm8k" / "train.jsonl").read_text("utf-8").splitlines()
    yield "GSM8K train", [json.loads(line)["question"] for line in lines]
    rows = json.loads((data / "star1" / "STAR-1.json").read_text("utf-8"))
    yield "STAR-1", [row["question"] for row in rows]
    lines = (data / "cvalues" / "cvalues_responsibility_prompts.jsonl").read_text("utf-8").splitlines()
    yield "CValues", [json.loads(line)["prompt"] for line in lines]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    for name, form, found, total in planted(data):
        print(f"{name:16} {form:50} {found:5} of {total:5}  {found / total:.3f}", flush=True)
    decontaminator = make_decontaminator(data)
    for name, texts in others(data):
        start = time.monotonic()
        drops = [drop for text in texts if (drop := decontaminator.find(row_of(text)))]
        seconds = time.monotonic() - start
        near = sum(drop.reason == "near_copy" for drop in drops)
        runs = len(drops) - near
        print(f"{name:16} {len(texts):6} rows, {runs} shared runs, {near} near copies; {seconds:.1f} s")


if __name__ == "__main__":
    main()
