"""The evaluation of all kinds of benchmarks that several tests look at."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class MixedRun:
    """One job over benchmarks of this package and the user's own file.

    Attributes:
        folder: Results: ``OUTPUT/RUN/VARIANT``.
        questions: The user's own file, ``own_rows``.
        repeats: Completions of each question.
        shown: What the job printed.
    """

    folder: Path
    questions: Path
    repeats: int
    shown: str


def own_rows() -> list[dict[str, str | None]]:
    """Twelve questions of four tasks."""
    return [
        {
            "编号": f"{task}-{number}",
            "题目": f"第{number}个问题，{task}？",
            "风险类别": ("谣言", "日常")[number % 2],
            "期望": task,
            "选项": "A. 对\nB. 错" if task == "选择题" else None,
            "答案": {"选择题": "对", "数学": str(number)}.get(task),
        }
        for task in ("应拒答", "非拒答", "选择题", "数学")
        for number in range(3)
    ]
