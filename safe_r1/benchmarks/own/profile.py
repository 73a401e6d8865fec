"""What the columns of a file of questions hold, counted row by row."""

from collections.abc import Mapping
from dataclasses import dataclass, field

_MAX_VALUES = 64
_MAX_VALUE_CHARS = 40


@dataclass
class Profile:
    """What the columns of a file hold.

    Attributes:
        num_rows: Rows with content.
        filled: Column to the number of its cells with content, in the order of the file.
        values: Column to its different short values; None where there are many, or long ones.
        firsts: Column to its first cell with content.
    """

    num_rows: int = 0
    filled: dict[str, int] = field(default_factory=dict)
    values: dict[str, set[str] | None] = field(default_factory=dict)
    firsts: dict[str, object] = field(default_factory=dict)

    def add(self, row: Mapping[str, object]) -> None:
        """Count one row."""
        self.num_rows += 1
        filled = self.filled
        for column, value in row.items():
            if is_empty(value):
                filled.setdefault(column, 0)
                continue
            filled[column] = filled.get(column, 0) + 1
            if column not in self.firsts:
                self.firsts[column] = value
                self.values[column] = set()
            known = self.values[column]
            if known is None:
                continue
            if not isinstance(value, str | int | float) or len(text := str(value)) > _MAX_VALUE_CHARS:
                self.values[column] = None
                continue
            known.add(text)
            if len(known) > _MAX_VALUES:
                self.values[column] = None


def is_empty(value: object) -> bool:
    """Whether a cell holds nothing."""
    if isinstance(value, str):
        return not value or value.isspace()
    return value is None or value == []
