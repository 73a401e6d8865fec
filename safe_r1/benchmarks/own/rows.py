"""Turns rows of a file of questions into samples."""

from collections import Counter
from collections.abc import Mapping
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
    verbatim,
)
from safe_r1.benchmarks.own.choices import lettered, read_choice, read_options
from safe_r1.benchmarks.own.ids import NAME_CHARS, ItemIds, Where, label_key, short_name
from safe_r1.benchmarks.own.mapping import Columns, field_of
from safe_r1.benchmarks.own.numbers import NumberAnswers, letter_at
from safe_r1.benchmarks.own.profile import is_empty
from safe_r1.benchmarks.own.settings import OwnSettings, OwnTask
from safe_r1.benchmarks.own.words import fold, read_judgement, read_task
from safe_r1.errors import DataError
from safe_r1.language import Language, detect_language
from safe_r1.schema import GIVEN_ANSWER, GIVEN_REASONING, Message, Sample
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
MAX_LABELS = 10_000
"""More areas and categories than these are a column of something else, and none of a report's tables."""


@dataclass
class RowReader:
    """Reads row after row; collects what holds for the whole file.

    Attributes:
        name: Name of the benchmark.
        columns: What the columns mean.
        settings: The settings of the file.
        labels: Key of an area or category to its Chinese and English name, in order of appearance; no more
            than ``MAX_LABELS`` are kept.
        unmatched: Categories outside the taxonomy that the file is mapped onto, with their rows; as many.
        numbers: Answers that are numbers and wait for the end of the file.
        num_given: Rows with an answer of a model.
    """

    name: str
    columns: Columns
    settings: OwnSettings
    labels: dict[str, tuple[str, str]] = field(default_factory=dict)
    unmatched: Counter[str] = field(default_factory=Counter)
    numbers: NumberAnswers = field(default_factory=NumberAnswers)
    num_given: int = 0
    _ids: ItemIds = field(default_factory=ItemIds)

    @property
    def has_too_many_labels(self) -> bool:
        """Whether there are more areas and categories than a report can show."""
        return max(len(self.labels), len(self.unmatched)) > MAX_LABELS

    def read(self, row: Mapping[str, object], where: Where) -> Sample:
        """The sample of a row.

        Raises:
            RowError: The row does not fit.
        """
        task = self._task(row)
        history, question, recorded = self._dialogue(row)
        answer = field_of(row, self.columns.answer)
        if task in ("mcq", "math") and is_empty(answer):
            column = (
                f"column {self.columns.answer!r}" if self.columns.answer else "there is no column of answers"
            )
            raise RowError(f"no answer ({column})")
        options: dict[str, str] = {}
        metadata: dict[str, str] = {"has_history": "true" if history else "false"}
        asked = question
        if task == "mcq":
            stem, options = self._options(row, question)
            metadata |= self._choice(answer, options, where)
            metadata["stem_chars"] = str(len(stem))
            asked = prompt_with_options(stem, options, _INSTRUCTIONS["mcq", self._language(question)])
        elif task == "math":
            metadata["answer"] = read_result(answer, "the answer")
            asked = f"{question}\n\n{_INSTRUCTIONS['math', self._language(question)]}"
        metadata |= self._given(row, recorded)
        area, category = self._place(row)
        # Without a given answer: the same question to another model has the same id.
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
        self.num_given += GIVEN_ANSWER in metadata
        return Sample(sample_id, self.name, task, area, category, messages, dict(options), metadata)

    def _language(self, question: str) -> Language:
        return detect_language(question) if self.settings.language == "auto" else self.settings.language

    def _choice(self, answer: object, options: dict[str, str], where: Where) -> dict[str, str]:
        """The letter of the right option, or what is needed to tell it at the end of the file."""
        if options == _JUDGEMENT and (judged := read_judgement(answer)):
            answer = judged
        base = self.settings.index_base
        choice = read_choice(answer, options, "the answer", base)
        if isinstance(choice, str):
            return {"answer": choice}
        if base is None:
            return {"answer": "", **self.numbers.add(choice, len(options), where)}
        self.numbers.count += 1
        return {"answer": letter_at(choice.number, base, list(options))}

    def _given(self, row: Mapping[str, object], recorded: str | None) -> dict[str, str]:
        """The answer of a model and its reasoning, where the file has them."""
        columns = self.columns
        if columns.given_answer is None:
            return {} if recorded is None else {GIVEN_ANSWER: recorded}
        given = {GIVEN_ANSWER: verbatim(field_of(row, columns.given_answer), "the model's answer")}
        if columns.given_reasoning is not None:
            reasoning = field_of(row, columns.given_reasoning)
            given[GIVEN_REASONING] = verbatim(reasoning, "the model's reasoning")
        return given

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

    def _dialogue(self, row: Mapping[str, object]) -> tuple[list[Message], str, str | None]:
        """The turns before the question, the question, and the recorded answer to it."""
        cell = field_of(row, self.columns.history)
        history = [] if is_empty(cell) else read_history(cell, f"column {self.columns.history!r}")
        value = field_of(row, self.columns.question)
        question = "" if is_empty(value) else text_of(value, f"column {self.columns.question!r}")
        recorded = None
        if not question:
            # The dialogue is all there is; an assistant's last turn is the recorded answer to the question.
            if history and history[-1]["role"] == "assistant":
                recorded = history[-1]["content"]
                history = history[:-1]
            if not history:
                raise RowError(
                    f"no question (column {self.columns.question or self.columns.history!r} is empty)"
                )
        elif not history or history[-1] != Message(role="user", content=question):
            history = [*history, Message(role="user", content=question)]
        check_dialogue(history)
        return history[:-1], history[-1]["content"], recorded

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
        area = short_name(field_of(row, self.columns.area))
        category = short_name(field_of(row, self.columns.category))
        if self.has_too_many_labels:
            # The file is refused when it is read: no more names are kept.
            return _ALL, _ALL
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
        area_key = label_key(area or category)
        self.labels.setdefault(area_key, (area or category, ""))
        if not area or not category:
            return area_key, area_key
        category_key = f"{area_key}/{label_key(category)}"
        self.labels.setdefault(category_key, (category, ""))
        return area_key, category_key

    def _sample_id(
        self, row: Mapping[str, object], task: str, content: object, metadata: dict[str, str], where: Where
    ) -> str:
        value = field_of(row, self.columns.id)
        if is_empty(value):
            return f"{self.name}/{task}/{self._ids.of_content(content)}"
        source_id = text_of(value, f"column {self.columns.id!r}")
        metadata["source_id"] = source_id[:NAME_CHARS]
        return f"{self.name}/{task}/{self._ids.of_source(source_id, where)}"
