"""One pass over the rows of a file of questions: samples, and a bounded record of all that does not fit."""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from safe_r1.benchmarks.own.cells import RowError
from safe_r1.benchmarks.own.ids import Where
from safe_r1.benchmarks.own.profile import Profile, is_empty
from safe_r1.benchmarks.own.rows import RowReader
from safe_r1.records.parsed import Parsed
from safe_r1.schema import Sample

_MAX_DOUBTS = 5
_MAX_MISFITS = 200
_MAX_REASONS = 100
_OTHER_REASONS = "other reasons"


@dataclass(frozen=True)
class Misfit:
    """A row that is no question, with its place and the reason."""

    where: str
    reason: str


class Misfits:
    """The rows that do not fit: how many, and the first of them.

    Attributes:
        first: Those that are kept, in the order of the file.
    """

    def __init__(self) -> None:
        self.first: list[Misfit] = []
        self._by_reason: Counter[str] = Counter()

    def add(self, where: object, reason: str) -> None:
        """Count one."""
        if len(self.first) < _MAX_MISFITS:
            self.first.append(Misfit(str(where), reason))
        # What follows in brackets is the row's own.
        kind = reason.partition(" (")[0]
        is_kept = kind in self._by_reason or len(self._by_reason) < _MAX_REASONS
        self._by_reason[kind if is_kept else _OTHER_REASONS] += 1

    def __len__(self) -> int:
        return self._by_reason.total()

    @property
    def num_by_reason(self) -> dict[str, int]:
        """Rows by their reason, without the values in its brackets."""
        return dict(self._by_reason.most_common())


@dataclass
class Scan:
    """One pass over the rows of a file.

    Attributes:
        reader: Turns a row into a sample.
        profile: What the columns hold.
        num_rows: Rows with content.
        misfits: Rows that do not fit.
    """

    reader: RowReader
    profile: Profile = field(default_factory=Profile)
    num_rows: int = 0
    misfits: Misfits = field(default_factory=Misfits)
    _doubts: list[str] = field(default_factory=list)
    _num_doubts: int = 0
    # Hash of the dialogue of each sample, 8 bytes each.
    _dialogues: "array[int]" = field(default_factory=lambda: array("q"))

    def samples(self, rows: Iterable[tuple[Where, Parsed]]) -> Iterator[Sample]:
        """The samples of rows with content, in their order."""
        for where, parsed in rows:
            self.num_rows += 1
            if parsed.note:
                self._num_doubts += 1
                if self._num_doubts <= _MAX_DOUBTS:
                    self._doubts.append(f"{where}: {parsed.note}")
            if not isinstance(parsed.value, dict):
                # What follows the colon is the row's text.
                self.misfits.add(where, parsed.error.partition(": ")[0])
                continue
            self.profile.add(parsed.value)
            try:
                sample = self.reader.read(parsed.value, where)
            except RowError as error:
                self.misfits.add(where, str(error))
                continue
            self._dialogues.append(hash(tuple(turn["content"] for turn in sample.messages)))
            yield sample

    @property
    def num_repeated(self) -> int:
        """Samples that ask what an earlier one asks."""
        return len(self._dialogues) - len(np.unique(np.frombuffer(self._dialogues, np.int64)))

    @property
    def notes(self) -> list[str]:
        """Rows that can be read and yet look like a mistake."""
        num_more = self._num_doubts - len(self._doubts)
        return [*self._doubts, *([f"{num_more} more rows like these"] if num_more else [])]


def is_blank_row(parsed: Parsed) -> bool:
    """Whether a row has no cell with content."""
    return isinstance(parsed.value, Mapping) and all(map(is_empty, parsed.value.values()))
