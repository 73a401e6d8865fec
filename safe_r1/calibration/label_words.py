"""The words of labels, as people and programs write them."""

from collections.abc import Collection, Mapping
from functools import cache

from safe_r1.calibration.items import CLASSES
from safe_r1.report.labels import LABELS
from safe_r1.schema import Task

CANNOT_TELL = "cannot_tell"
"""A text that a person could not label: it stays unlabelled, and is counted."""
_CANNOT_TELL = ("cannot tell", "can't tell", "can not tell", "unsure", "无法判断", "不能判断", "不确定")


def parse_label(text: str, task: Task, letters: Collection[str] = ()) -> str | None:
    """A label as one of the task's classes, as a letter (multiple choice), or ``CANNOT_TELL``.

    Upper and lower case, spaces and underscores are alike; Chinese and English names of a label are both
    known.

    Args:
        text: What was written.
        task: The task of the labelled text.
        letters: Letters of the question's options, for multiple choice.

    Returns:
        None for a word that is no label.
    """
    word = _normal(text)
    if word in map(_normal, (CANNOT_TELL, *_CANNOT_TELL)):
        return CANNOT_TELL
    if task == "mcq":
        letter = text.strip().upper()
        return letter if letter in letters else None
    return _words(task).get(word)


@cache
def _words(task: Task) -> Mapping[str, str]:
    """Word to label."""
    words: dict[str, str] = {}
    for label in CLASSES[task]:
        name = LABELS[label]
        for word in (label, name.zh, name.en, getattr(label, "name", label)):
            words[_normal(word)] = label
    return words


def _normal(text: str) -> str:
    return " ".join(text.replace("_", " ").split()).casefold()
