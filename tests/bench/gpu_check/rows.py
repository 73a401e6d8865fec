"""Rows of the table, and the part of the check that writes them."""

import argparse
import contextlib
import gc
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from safe_r1.errors import SafeR1Error

Verdict = Literal["ok", "off", "failed", "skipped"]
"""``off``: measured, but not what was aimed at. ``failed``: could not be measured, or is wrong."""

# What torch, transformers and the kernels raise; a GPU that is out of memory is a RuntimeError.
_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    SafeR1Error,
    TypeError,
    ValueError,
)
# Columns of the table; longer reasons are whole in the JSON file.
_MAX_REASON = 200


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        part: Name of the part.
        what: What was measured.
        value: The result, with its unit.
        aim: What was expected; empty where nothing was.
        verdict: See ``Verdict``.
        reason: Of a verdict other than ``ok``.
        figures: The same as numbers, for the JSON file.
    """

    part: str
    what: str
    value: str = ""
    aim: str = ""
    verdict: Verdict = "ok"
    reason: str = ""
    figures: Mapping[str, object] = field(default_factory=dict)

    @property
    def cells(self) -> tuple[str, ...]:
        """The columns of the table."""
        verdict = f"{self.verdict}: {self.reason}" if self.reason else self.verdict
        cells = (self.part, self.what, self.value, self.aim, verdict)
        return tuple(" ".join(cell.split()).replace("|", "/") for cell in cells)


@dataclass(frozen=True)
class Part:
    """A running part. A row is written when it is measured: a part that is stopped has lost none.

    Attributes:
        name: Of the part.
        device: ``cpu`` or ``cuda``.
        small: Smallest sizes: on CPU, or to test the check itself.
        folder: For files; all parts of a check have the same.
    """

    name: str
    device: str
    small: bool
    folder: Path

    def measured(
        self,
        what: str,
        value: str,
        aim: str = "",
        verdict: Verdict = "ok",
        reason: str = "",
        **figures: object,
    ) -> None:
        """Write a row with a result."""
        self._write(Row(self.name, what, value, aim, verdict, reason, figures))

    def skipped(self, what: str, reason: str) -> None:
        """Write a row for what cannot be measured here."""
        self._write(Row(self.name, what, verdict="skipped", reason=reason))

    @contextlib.contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Make an error inside the block a failed row, free the GPU, and go on behind it."""
        try:
            yield
        except _ERRORS as error:
            lines = (str(error).strip() or "no message").splitlines()
            # Of a message that quotes a log, the last line is the cause.
            cause = f"{lines[0]} {lines[-1]}" if lines[0].endswith(":") else lines[0]
            reason = f"{type(error).__name__}: {cause}"
            self._write(Row(self.name, what, verdict="failed", reason=reason))
        # What was measured, and the frames of an error, hold the model in cycles.
        gc.collect()
        if self.device == "cuda":
            import torch

            torch.cuda.empty_cache()

    def _write(self, row: Row) -> None:
        with rows_file(self.folder, self.name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
        print(json.dumps(asdict(row), ensure_ascii=False), flush=True)


def rows_file(folder: Path, part: str) -> Path:
    """File of the rows of a part, one JSON object a line."""
    return folder / f"{part}.rows.jsonl"


def read_rows(folder: Path, part: str) -> list[Row]:
    """The rows that a part has written; the last line of one that was stopped may be incomplete."""
    path = rows_file(folder, part)
    rows: list[Row] = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(Row(**json.loads(line)))
    return rows


def missing(*modules: str) -> str:
    """Why something is skipped that needs these modules; empty if all are installed."""
    absent = [name for name in modules if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


def run(name: str, measure: Callable[[Part], None]) -> None:
    """Command line of a part, which the check starts.

    Args:
        name: Of the part.
        measure: Writes its rows.
    """
    parser = argparse.ArgumentParser(description=f"part {name} of python -m tests.bench.gpu_check")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args()
    device = _find_device() if args.device == "auto" else args.device
    measure(Part(name, device, args.smoke or device == "cpu", args.folder))


def _find_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, aligned to be read in a terminal too."""
    lines = [("part", "measured", "value", "aim", "verdict"), *(_shortened(row.cells) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |"
        for line in lines
    )


def _shortened(cells: tuple[str, ...]) -> tuple[str, ...]:
    *others, verdict = cells
    return (*others, verdict if len(verdict) <= _MAX_REASON else f"{verdict[: _MAX_REASON - 1]}…")


def exit_code(rows: Sequence[Row]) -> int:
    """1 if something failed, else 0."""
    return int(any(row.verdict == "failed" for row in rows))
