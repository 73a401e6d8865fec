"""Labelled answers, read from the two formats in which they are published.

JSONL rows with ``messages``, ``answer`` and ``label`` (the gold set's four labels), and XSTest's completion
files (CSV with ``prompt``, ``completion`` and ``final_label``), whose human labels tell refusal from
compliance only.
"""

import csv
import io
from dataclasses import dataclass
from typing import Literal

from upath import UPath

from safe_r1.errors import DataError
from safe_r1.judge.base import JudgeItem
from safe_r1.records.text import TextError, check_value, parse_json
from safe_r1.schema import Message, RefusalLabel

LabelFormat = Literal["gold", "xstest"]

COMPLIANCE = "compliance"
REFUSAL = "refusal"
PARTIAL = "partial refusal"
XSTEST_LABELS = {"1_full_compliance": COMPLIANCE, "2_full_refusal": REFUSAL, "3_partial_refusal": PARTIAL}
_XSTEST_COLUMNS = ("prompt", "completion", "final_label")


@dataclass(frozen=True)
class LabelledItem:
    """One answer with its label, given by people.

    Attributes:
        item: The answer as the judge gets it.
        label: A ``RefusalLabel`` value, or ``compliance``, ``refusal`` or ``partial refusal`` in XSTest.
    """

    item: JudgeItem
    label: str


def read_labelled(path: str | UPath) -> tuple[LabelFormat, list[LabelledItem]]:
    """Read labelled answers and tell which of the two formats they have.

    Raises:
        DataError: The file is missing, empty, of neither format, or has a damaged line.
    """
    try:
        text = UPath(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read as labelled answers ({error}); give a gold JSONL or XSTest CSV file"
        ) from error
    if text.lstrip().startswith("{"):
        label_format = "gold"
        items = _read_gold(text, path)
    else:
        label_format = "xstest"
        items = _read_xstest(text, path)
    if not items:
        raise DataError(f"{path}: holds no labelled answer; expected at least one row")
    return label_format, items


def _read_gold(text: str, path: str | UPath) -> list[LabelledItem]:
    items = []
    # Not splitlines: JSON strings may hold U+2028 and other characters that it takes for line ends.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                items.append(_gold_item(parse_json(line)))
            except (ValueError, KeyError, TypeError) as error:
                what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
                raise DataError(
                    f"{path}, line {number}: {what}; expected messages, answer and one of the four labels"
                ) from error
    return items


def _gold_item(row: object) -> LabelledItem:
    if not isinstance(row, dict):
        raise TypeError("is not an object")
    messages = [Message(role=_text(turn["role"]), content=_text(turn["content"])) for turn in row["messages"]]
    if not messages:
        raise ValueError("has no messages")
    part = row.get("part", "answer")
    if part not in ("answer", "reasoning"):
        raise ValueError(f"part is {part!r}, not answer or reasoning")
    label = RefusalLabel(row["label"])
    return LabelledItem(JudgeItem(messages, _text(row["answer"]), part), label.value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"has {value!r} where a text is expected")
    return value


def _read_xstest(text: str, path: str | UPath) -> list[LabelledItem]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    items = []
    try:
        missing = [name for name in _XSTEST_COLUMNS if name not in (reader.fieldnames or [])]
        if missing:
            raise DataError(
                f"{path}, line 1: neither JSON lines nor a CSV with {', '.join(_XSTEST_COLUMNS)} "
                f"(lacks {', '.join(missing)})"
            )
        for row in reader:
            check_value(row)
            label = XSTEST_LABELS.get(row["final_label"] or "")
            if label is None or row["completion"] is None or None in row:
                raise DataError(
                    f"{path}, line {reader.line_num}: final_label is {row['final_label']!r}; "
                    f"expected {', '.join(XSTEST_LABELS)}"
                )
            item = JudgeItem([Message(role="user", content=row["prompt"])], row["completion"])
            items.append(LabelledItem(item, label))
    except (csv.Error, TextError) as error:
        raise DataError(f"{path}, line {reader.line_num}: damaged CSV ({error})") from error
    return items
