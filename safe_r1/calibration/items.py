"""The texts of a finished run that a judge or the answer key has labelled, and their strata.

A text is an answer, a reasoning, or the key's answer to a question. All three are calibrated alike: the
verdict and its confidence make the stratum, and people's labels say how often verdicts of that stratum are
right.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple

from safe_r1.errors import StorageError
from safe_r1.evaluation.run_rows import RunRows, read_run
from safe_r1.evaluation.sample_index import index_samples
from safe_r1.evaluation.workers import Workers
from safe_r1.judge.gold_errors import CONFIDENT
from safe_r1.metrics.rows import CORRECT, INCORRECT, ScoredRow, check_rows
from safe_r1.runs import JsonObject, RunFolder, as_path
from safe_r1.schema import ComplianceLabel, RefusalLabel, Task, Verdict

Subject = Literal["answer", "reasoning", "key"]
SUBJECTS: tuple[Subject, ...] = ("answer", "reasoning", "key")
"""What is labelled: an answer, a reasoning, or the answer key's letter for a question."""

CLASSES: dict[Task, tuple[str, ...]] = {
    "refusal": tuple(RefusalLabel),
    "over_refusal": tuple(ComplianceLabel),
    "mcq": (CORRECT, INCORRECT),
}
"""The labels of each task that can be calibrated, in order. Of multiple choice, people give the letter."""


class Stratum(NamedTuple):
    """Texts that a judge has labelled alike.

    Attributes:
        subject: What of the row is labelled.
        task: The task, which has the classes.
        label: The judge's label, one of the classes.
        level: ``high`` or ``low`` confidence of the judge, ``high``, ``medium`` or ``low`` of the answer key;
            empty where there is none.
    """

    subject: Subject
    task: Task
    label: str
    level: str

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels that people can give."""
        return CLASSES[self.task]

    @property
    def position(self) -> int:
        """Position of the judge's label among the classes."""
        return self.classes.index(self.label)

    def __str__(self) -> str:
        return "/".join(filter(None, self))


@dataclass(frozen=True)
class Item:
    """A judged text.

    Attributes:
        sample_id, repeat: Its completion.
        stratum: Its stratum.
        question: Number of its question in the order of ``JudgedRun.questions``.
        choice: Letter that the answer chose; of the subject ``key``.
    """

    sample_id: str
    repeat: int
    stratum: Stratum
    question: int
    choice: str | None = None

    @property
    def key(self) -> tuple[str, int, Subject]:
        """Identity inside a run."""
        return self.sample_id, self.repeat, self.stratum.subject


@dataclass(frozen=True)
class JudgedRun:
    """A finished run without its texts.

    Attributes:
        folder: The run.
        rows: Its rows.
        info: Content of ``run.json``.
        results_sha256: Hash of its rows as they are now.
    """

    folder: RunFolder
    rows: RunRows
    info: JsonObject
    results_sha256: str

    @property
    def judge(self) -> str:
        """The judge as reports print it; empty for a run without one."""
        return str(self.info.get("judge", {}).get("name", ""))

    def questions(self) -> Iterator[list[ScoredRow]]:
        """The rows of one question after the other.

        Raises:
            IntegrityError: A verdict contradicts its completion.
        """
        for chunk in self.rows.chunks():
            check_rows(chunk)
            for _, rows in groupby(chunk, lambda row: row.question_id):
                yield list(rows)

    def items(self) -> Iterator[Item]:
        """Every text that has a label."""
        for number, rows in enumerate(self.questions()):
            for row in rows:
                for subject in SUBJECTS:
                    stratum = stratum_of(row, subject)
                    if stratum is not None:
                        choice = row.answer.choice if subject == "key" else None
                        yield Item(row.sample.sample_id, row.completion.repeat, stratum, number, choice)


def open_run(path: str) -> JudgedRun:
    """Read a finished run.

    Raises:
        StorageError: The folder holds no finished run.
        IntegrityError: Its rows do not add up.
    """
    folder = RunFolder(as_path(path))
    if not folder.is_complete or not folder.shards("samples"):
        raise StorageError(
            f"{path}: no finished evaluation here (no _SUCCESS); expected OUTPUT/RUN/VARIANT/BENCHMARK"
        )
    # Without Ray, as a report is made again: labels are few, and what is read of the rows is small.
    rows = read_run(folder, index_samples(folder), Workers(0), parts=None, count_tokens=None)
    return JudgedRun(folder, rows, folder.read_json("run.json") or {}, rows.results_hash())


def stratum_of(row: ScoredRow, subject: Subject) -> Stratum | None:
    """The stratum of a text; None where it has no label, or is none that people can label."""
    if subject == "key":
        level = row.sample.metadata.get("key_confidence", "")
        has_key = row.sample.group == "mcq" and bool(row.sample.metadata.get("answer"))
        return Stratum("key", "mcq", row.answer.label, level) if has_key and row.answer.label else None
    verdict = row.verdict(subject)
    if row.sample.group not in ("refusal", "over_refusal") or verdict is None or verdict.label is None:
        return None
    return Stratum(subject, row.sample.task, verdict.label, _level(verdict))


def _level(verdict: Verdict) -> str:
    # Judges that give no confidence, and runs that are older than the column, have one stratum a label.
    if verdict.confidence is None:
        return ""
    return "high" if verdict.confidence >= CONFIDENT else "low"


def item_id(results_sha256: str, sample_id: str, repeat: int, subject: Subject) -> str:
    """Id of a text in label files, other in every run; begins with a letter, so that no program reads a
    number.
    """
    return f"r{digest(results_sha256, sample_id, str(repeat), subject)[:12]}"


def digest(*parts: str) -> str:
    """SHA-256 of several texts in hexadecimal."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def subjects_of(items: Sequence[Item]) -> list[Subject]:
    """The subjects among some items, in the order of ``SUBJECTS``."""
    present = {item.stratum.subject for item in items}
    return [subject for subject in SUBJECTS if subject in present]
