"""What a run recorded of a user's own questions."""

from collections.abc import Mapping
from dataclasses import dataclass

from safe_r1.report.text import one_line


@dataclass(frozen=True)
class RecordedQuestions:
    """What a run recorded of a user's own questions, whose file may be gone.

    Attributes:
        file: Name of the file.
        title: Title of the questions.
        sha256: Of the file.
        num_rows: Rows in it.
        num_left_out: Rows that did not fit and were left out.
        labels: Key of an area or category to its Chinese and English name.
    """

    file: str
    title: str
    sha256: str
    num_rows: int
    num_left_out: int
    labels: dict[str, tuple[str, str]]


def recorded_questions(run_info: Mapping[str, object]) -> RecordedQuestions | None:
    """The user's own questions of a run; None for the questions of a benchmark.

    Args:
        run_info: Content of ``run.json``.
    """
    found = run_info.get("questions")
    if not isinstance(found, Mapping):
        return None
    labels = found.get("labels")
    pairs = labels.items() if isinstance(labels, Mapping) else ()
    # Names from a file are no safer than its questions.
    names = {str(key): (one_line(names[0]), one_line(names[1])) for key, names in pairs if len(names) == 2}
    return RecordedQuestions(
        file=one_line(found.get("file") or ""),
        title=one_line(found.get("title") or ""),
        sha256=one_line(found.get("sha256") or ""),
        num_rows=_number(found.get("num_rows")),
        num_left_out=_number(found.get("num_left_out")),
        labels=names,
    )


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
