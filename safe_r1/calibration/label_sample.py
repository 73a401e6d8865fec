"""The command ``safe-r1 label-sample``: draws texts of a run for people to label."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
from upath import UPath

from safe_r1.calibration.allocation import allocate, draw
from safe_r1.calibration.guesses import Guesses
from safe_r1.calibration.items import SUBJECTS, Item, JudgedRun, Subject, open_run, subjects_of
from safe_r1.calibration.page import PageText, choices_of, render_page
from safe_r1.calibration.record import FOLDER, NAME, DrawnSample
from safe_r1.errors import ConfigError, RunConflictError
from safe_r1.judge.gold_errors import load_gold_errors
from safe_r1.redaction import hide_credentials
from safe_r1.report.export_files import TABLES, new_file
from safe_r1.report.result_rows import dialogue_text
from safe_r1.runs import Row, RunFolder, as_path
from safe_r1.schema import Completion, Sample

DEFAULT_NUM = 120
_COLUMNS = (
    "item",
    "subject",
    "question",
    "options",
    "answer",
    "choices",
    "label",
    "annotator",
    "note",
    "results_sha256",
)
TABLE_SCHEMA = pa.schema([(name, pa.string()) for name in _COLUMNS])
"""Columns of the table.

``label``, ``annotator`` and ``note`` are to be filled in; ``answer`` is the text that is labelled, also where
that is a reasoning, and empty where the question itself is.
"""
_TABLE_FORMATS = ("csv", "xlsx")


@dataclass(frozen=True)
class WrittenSample:
    """What ``write_label_sample`` wrote.

    Attributes:
        folder: Its folder.
        num_by_subject: Drawn texts by subject.
        num_texts: Texts of the run that could have been drawn.
        num_strata: Strata.
    """

    folder: UPath
    num_by_subject: dict[str, int]
    num_texts: int
    num_strata: int

    def to_text(self) -> str:
        """For a terminal."""
        numbers = ", ".join(f"{num} {subject}s" for subject, num in self.num_by_subject.items())
        return hide_credentials(
            f"label-sample: {numbers} of {self.num_texts:,} texts, from {self.num_strata} strata\n"
            f"  {self.folder / 'label.html'}  open it in a browser, offline; keys 1 to 4\n"
            f"  {self.folder / 'label.csv'}, label.xlsx  the same as a table: fill in label and annotator\n"
            f"  {self.folder / NAME}  names the judge's labels: not for annotators\n"
            "  then: safe-r1 calibrate RUN --labels FILE"
        )


def write_label_sample(
    path: str,
    num: int = DEFAULT_NUM,
    seed: int = 0,
    subjects: Sequence[str] = (),
    output: str | None = None,
) -> WrittenSample:
    """Draw texts of a finished run and write page, tables and record.

    The same seed and numbers write the same files again; a larger number draws the same texts and further
    ones, where the allocation to strata grows with it.

    Args:
        path: Folder of the run.
        num: Labels of each subject.
        seed: Of the draw.
        subjects: Of ``SUBJECTS``; none: answers, or the key where no answer was judged.
        output: Folder of the files; None: in the run folder.

    Raises:
        ConfigError: A subject is unknown, the run has no such text, or ``num`` is too small.
        RunConflictError: The folder holds another sample.
        StorageError: There is no finished run, or the folder cannot be written.
    """
    run = open_run(path)
    sample = draw_sample(run, num, seed, _check_subjects(subjects))
    folder = RunFolder(as_path(output) if output else run.folder.path / FOLDER / sample.name)
    known = folder.read_json(NAME)
    if known is None:
        folder.write_json(NAME, sample.to_json(run))
    elif known.get("sample") != sample.sample_hash:
        raise RunConflictError(f"{folder.path} holds another sample; give another --output")
    texts = _load_texts(run, sample)
    _write_tables(folder, sample, texts)
    folder.write_text("label.html", render_page(texts, sample, run.info))
    numbers = Counter(item.stratum.subject for item in sample.items)
    by_subject = {subject: numbers[subject] for subject in SUBJECTS if numbers[subject]}
    return WrittenSample(folder.path, by_subject, sum(sample.sizes.values()), len(sample.sizes))


def _check_subjects(names: Sequence[str]) -> list[Subject]:
    unknown = [name for name in names if name not in SUBJECTS]
    if unknown:
        raise ConfigError(f"--of {', '.join(unknown)}: expected {', '.join(SUBJECTS)}")
    return [subject for subject in SUBJECTS if subject in names]


def draw_sample(run: JudgedRun, num: int, seed: int, subjects: Sequence[Subject]) -> DrawnSample:
    """Draw texts of a run; see ``write_label_sample``.

    Raises:
        ConfigError: The run has no such text, or ``num`` is too small.
    """
    items = list(run.items())
    present = subjects_of(items)
    missing = [subject for subject in subjects if subject not in present]
    if missing or not present:
        raise ConfigError(
            f"{run.folder.path}: no {' and no '.join(missing or SUBJECTS)} of it has a label to be "
            f"checked; it has {', '.join(present) or 'none'}"
        )
    wanted = list(subjects) or present[:1]
    if "key" in wanted and run.rows.num_repeats > 1:
        raise ConfigError(
            f"{run.folder.path}: {run.rows.num_repeats} completions a question; the answer key is "
            "labelled in a run with one (--repeats 1)"
        )
    guesses = Guesses(load_gold_errors(run.judge))
    sizes = Counter(item.stratum for item in items if item.stratum.subject in wanted)
    sizes = {stratum: sizes[stratum] for stratum in sorted(sizes)}
    shares = {stratum: guesses.error_share(stratum) for stratum in sizes}
    numbers = {}
    for subject in wanted:
        mine = [stratum for stratum in sizes if stratum.subject == subject]
        found = allocate([sizes[each] for each in mine], [shares[each] for each in mine], num)
        numbers |= zip(mine, found, strict=True)
    drawn = draw((item for item in items if item.stratum in sizes), numbers, seed)
    return DrawnSample(run.results_sha256, seed, drawn, sizes, shares)


def _load_texts(run: JudgedRun, sample: DrawnSample) -> list[PageText]:
    """The texts of a sample, in its order."""
    questions = np.unique([item.question for item in sample.items])
    samples, completions, _ = run.rows.load(questions)
    by_id = {each.sample_id: each for each in samples}
    completed = {(each.sample_id, each.repeat): each for each in completions}
    return [
        PageText(
            sample.id_of(item),
            item.stratum.subject,
            by_id[item.sample_id],
            _text(item, completed[item.sample_id, item.repeat]),
        )
        for item in sample.items
    ]


def _text(item: Item, completion: Completion) -> str:
    texts = {"answer": completion.answer, "reasoning": completion.reasoning}
    return texts.get(item.stratum.subject) or ""


def _write_tables(folder: RunFolder, sample: DrawnSample, texts: Sequence[PageText]) -> None:
    rows = [_table_row(text, sample.results_sha256) for text in texts]
    for name in _TABLE_FORMATS:
        with new_file(folder.path / f"label.{name}") as path:
            table = TABLES[name](path, TABLE_SCHEMA)
            table.write(rows)
            table.close()


def _table_row(text: PageText, results_sha256: str) -> Row:
    return {
        "item": text.item,
        "subject": text.subject,
        "question": dialogue_text(text.sample.messages),
        "options": _options(text.sample) if text.subject == "key" else "",
        "answer": text.text,
        "choices": " | ".join(chain((value for value, _, _ in choices_of(text)), ("cannot_tell",))),
        "label": "",
        "annotator": "",
        "note": "",
        "results_sha256": results_sha256,
    }


def _options(sample: Sample) -> str:
    return "\n".join(f"{letter}. {text}" for letter, text in sample.options.items())
