"""Turns rows of a file of questions into samples."""

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from safe_r1.benchmarks import math_answers
from safe_r1.benchmarks.options import MCQ_INSTRUCTION, parse_options, prompt_with_options
from safe_r1.benchmarks.own.cells import (
    RowError,
    check_dialogue,
    read_history,
    read_result,
    shown,
    text_of,
)
from safe_r1.benchmarks.own.choices import NumberAnswer, lettered, read_choice, read_options
from safe_r1.benchmarks.own.mapping import Columns, field_of, is_empty
from safe_r1.benchmarks.own.settings import IndexBase, OwnSettings, OwnTask
from safe_r1.benchmarks.own.words import fold, read_judgement, read_task
from safe_r1.errors import DataError
from safe_r1.language import detect_language
from safe_r1.schema import Message, Sample
from safe_r1.taxonomy import AREAS, find_category

_INSTRUCTIONS = {
    ("mcq", "zh"): MCQ_INSTRUCTION,
    ("mcq", "en"): "Choose the one best answer from the options above. Reply with its letter only.",
    ("math", "zh"): "请逐步推理，并将最终答案放在 \\boxed{} 中。",
    ("math", "en"): math_answers.INSTRUCTION,
}
_JUDGEMENT = {"A": "正确", "B": "错误"}
_JUDGEMENT_TYPES = ("判断题", "判断")
_ALL = "all-questions"
_NAME_CHARS = 80
_PLAIN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass
class Draft:
    """A sample whose answer may still be a number that waits for what the file counts from.

    Attributes:
        where: Row of the file, for messages.
        number: The answer where it is the number of an option.
    """

    where: str
    sample: Sample
    number: NumberAnswer | None = None


@dataclass
class RowReader:
    """Reads row after row; collects what holds for the whole file.

    Attributes:
        name: Name of the benchmark.
        columns: What the columns mean.
        settings: The settings of the file.
        labels: Key of an area or category to its Chinese and English name, in order of appearance.
        unmatched: Categories outside the taxonomy that the file is mapped onto, with their rows.
    """

    name: str
    columns: Columns
    settings: OwnSettings
    labels: dict[str, tuple[str, str]] = field(default_factory=dict)
    unmatched: Counter[str] = field(default_factory=Counter)
    _ids: dict[str, str] = field(default_factory=dict)
    _contents: Counter[str] = field(default_factory=Counter)

    def read(self, row: Mapping[str, object], where: str) -> Draft:
        """The sample of a row.

        Raises:
            RowError: The row does not fit.
        """
        task = self._task(row)
        history, question = self._dialogue(row)
        answer = field_of(row, self.columns.answer)
        if task in ("mcq", "math") and is_empty(answer):
            column = (
                f"column {self.columns.answer!r}" if self.columns.answer else "there is no column of answers"
            )
            raise RowError(f"no answer ({column})")
        options: dict[str, str] = {}
        metadata: dict[str, str] = {"has_history": "true" if history else "false"}
        number = None
        asked = question
        language = detect_language(question) if self.settings.language == "auto" else self.settings.language
        if task == "mcq":
            stem, options = self._options(row, question)
            if options == _JUDGEMENT and (judged := read_judgement(answer)):
                answer = judged
            choice = read_choice(answer, options, "the answer", self.settings.index_base)
            number = choice if isinstance(choice, NumberAnswer) else None
            metadata["answer"] = choice if isinstance(choice, str) else ""
            metadata["stem_chars"] = str(len(stem))
            asked = prompt_with_options(stem, options, _INSTRUCTIONS["mcq", language])
        elif task == "math":
            metadata["answer"] = read_result(answer, "the answer")
            asked = f"{question}\n\n{_INSTRUCTIONS['math', language]}"
        area, category = self._place(row)
        content = [
            task,
            history,
            question,
            options,
            None if is_empty(answer) else str(answer),
            area,
            category,
        ]
        sample_id = self._sample_id(row, task, content, metadata, where)
        messages = [*history, Message(role="user", content=asked)]
        sample = Sample(sample_id, self.name, task, area, category, messages, dict(options), metadata)
        return Draft(where, sample, number)

    def _task(self, row: Mapping[str, object]) -> OwnTask:
        if self.settings.task != "auto":
            return self.settings.task
        column = self.columns.expected
        if column is None:
            return "mcq"
        value = field_of(row, column)
        if is_empty(value):
            raise RowError(f"no task (column {column!r} is empty)")
        if isinstance(value, bool):
            value = str(value)
        task = read_task(value, column)
        if task is None:
            raise RowError(f"no known task (column {column!r} is {shown(value)}, not e.g. 应拒答 or 非拒答)")
        return task

    def _dialogue(self, row: Mapping[str, object]) -> tuple[list[Message], str]:
        """The turns before the question, and the question."""
        cell = field_of(row, self.columns.history)
        history = [] if is_empty(cell) else read_history(cell, f"column {self.columns.history!r}")
        value = field_of(row, self.columns.question)
        question = "" if is_empty(value) else text_of(value, f"column {self.columns.question!r}")
        if not question:
            # The dialogue is all there is; an assistant's last turn is the recorded answer to the question.
            if history and history[-1]["role"] == "assistant":
                history = history[:-1]
            if not history:
                raise RowError(
                    f"no question (column {self.columns.question or self.columns.history!r} is empty)"
                )
        elif not history or history[-1] != Message(role="user", content=question):
            history = [*history, Message(role="user", content=question)]
        check_dialogue(history)
        return history[:-1], history[-1]["content"]

    def _options(self, row: Mapping[str, object], question: str) -> tuple[str, dict[str, str]]:
        """The question without its options, and these."""
        columns = self.columns
        if columns.options is not None:
            cell = field_of(row, columns.options)
            if not is_empty(cell):
                return question, read_options(cell, f"column {columns.options!r}")
        elif columns.option_columns:
            cells = [field_of(row, column) for column in columns.option_columns]
            while cells and is_empty(cells[-1]):
                cells.pop()
            if cells:
                return question, lettered(cells, "the options")
        try:
            stem, options = parse_options(question)
        except DataError:
            if self._is_judgement(row):
                return question, dict(_JUDGEMENT)
            raise RowError("no options, neither in a column nor in the question as A. … B. …") from None
        return stem, options

    def _is_judgement(self, row: Mapping[str, object]) -> bool:
        """Whether a row without options is to be judged true or false, by its type and its answer."""
        kind = fold(field_of(row, self.columns.expected))
        return kind in _JUDGEMENT_TYPES and read_judgement(field_of(row, self.columns.answer)) is not None

    def _place(self, row: Mapping[str, object]) -> tuple[str, str]:
        """Keys of the row's area and category; their names become labels."""
        area = _name(field_of(row, self.columns.area))
        category = _name(field_of(row, self.columns.category))
        if self.settings.taxonomy == "chisafetybench" and category:
            known = find_category(category)
            if known:
                of_area = AREAS[known.area]
                self.labels.setdefault(known.area, (of_area.name_zh, of_area.name_en))
                self.labels.setdefault(known.key, (known.name_zh, known.name_en))
                return known.area, known.key
            self.unmatched[category] += 1
        if not area and not category:
            self.labels.setdefault(_ALL, ("全部题目", "All questions"))
            return _ALL, _ALL
        area_key = _key(area or category)
        self.labels.setdefault(area_key, (area or category, ""))
        if not area or not category:
            return area_key, area_key
        category_key = f"{area_key}/{_key(category)}"
        self.labels.setdefault(category_key, (category, ""))
        return area_key, category_key

    def _sample_id(
        self, row: Mapping[str, object], task: str, content: object, metadata: dict[str, str], where: str
    ) -> str:
        value = field_of(row, self.columns.id)
        if not is_empty(value):
            source_id = text_of(value, f"column {self.columns.id!r}")
            metadata["source_id"] = source_id[:_NAME_CHARS]
            if source_id in self._ids:
                raise RowError(f"an id occurs twice ({shown(source_id)}, first in {self._ids[source_id]})")
            self._ids[source_id] = where
            # An id may be any text, and a sample's is part of file names and keys.
            plain = source_id if _PLAIN_ID.fullmatch(source_id) else _id_key(source_id)
            return f"{self.name}/{task}/{plain}"
        digest = hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()[:16]
        self._contents[digest] += 1
        copies = self._contents[digest]
        # Rows of equal content are the same question: which of them is the second does not matter.
        return f"{self.name}/{task}/{digest}" + (f"-{copies}" if copies > 1 else "")


def _name(value: object) -> str:
    """The name of an area or category; of several the first."""
    if isinstance(value, list):
        value = value[0] if value else None
    if is_empty(value) or isinstance(value, Mapping):
        return ""
    return " ".join(str(value).split())[:_NAME_CHARS]


def _key(name: str) -> str:
    """A short ASCII key for any name; equal names give equal keys."""
    folded = "".join(unicodedata.normalize("NFKC", name).split()).casefold()
    slug = "-".join(re.findall(r"[a-z0-9]+", folded[:48]))[:24].strip("-")
    return f"{slug or 'x'}-{hashlib.sha256(folded.encode()).hexdigest()[:8]}"


def _id_key(source_id: str) -> str:
    """A short ASCII key for an id; unlike a name's, it differs where ids differ in case, width or spaces."""
    slug = _key(source_id).rpartition("-")[0]
    return f"{slug}-{hashlib.sha256(source_id.encode()).hexdigest()[:16]}"


def settle_numbers(drafts: Sequence[Draft], base: IndexBase, where: str) -> str:
    """Give drafts whose answer is a number its letter; the note says what numbers count from.

    Args:
        drafts: All drafts of a file.
        base: Number of the first option; None: told from all answers together.
        where: Name of the file in messages.

    Raises:
        DataError: It cannot be told.
    """
    numbered = [(draft, draft.number) for draft in drafts if draft.number is not None]
    if base is None:
        _check_texts(numbered, where)
        for draft, answer in numbered:
            # Its text is that of the option that it would count to, or it counts to none.
            draft.sample.metadata["answer"] = answer.same
        numbered = [(draft, answer) for draft, answer in numbered if not answer.same]
    if not numbered:
        return ""
    reason = "set"
    if base is None:
        has_zero = any(answer.number == 0 for _, answer in numbered)
        has_last = any(answer.number == len(draft.sample.options) for draft, answer in numbered)
        if has_zero == has_last:
            raise DataError(
                f"{where}: cannot tell whether the answers that are numbers count from 0 or from 1; "
                "--set benchmark.index_base=0 or --set benchmark.index_base=1 says it"
            )
        base = 0 if has_zero else 1
        reason = "one answer is 0" if has_zero else "one answer is the number of options"
    for draft, answer in numbered:
        place = answer.number - (1 if base == 1 else 0)
        letters = list(draft.sample.options)
        # Empty for a number beyond the options, which is a row that does not fit.
        draft.sample.metadata["answer"] = letters[place] if 0 <= place < len(letters) else ""
    return f"answers that are numbers count from {base}: {reason}"


def _check_texts(numbered: Sequence[tuple[Draft, NumberAnswer]], where: str) -> None:
    """Check that no number is the text of one option and may count to another."""
    unclear = [
        (draft, answer) for draft, answer in numbered if answer.could_be_another(len(draft.sample.options))
    ]
    # Where every number is the text of an option, and one is too large to count, all are texts.
    are_texts = all(answer.same for _, answer in numbered) and any(
        answer.number > len(draft.sample.options) for draft, answer in numbered
    )
    if unclear and not are_texts:
        draft, answer = unclear[0]
        raise DataError(
            f"{where}: in {len(unclear)} rows the answer is the text of one option and may be the number of "
            f"another (first {draft.where}: {answer.number}); --set benchmark.index_base=0 or =1 says what "
            "numbers count from, --set benchmark.index_base=text that they are texts of options"
        )
