"""Progress of a job's stages: what a terminal prints, and a campaign and its status page read again."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

STARTUP_LOGGER = "safe_r1.startup"
"""Logger of what is done before the first row; a job shows its messages."""
NOTICES = "safe_r1.notices"
"""Logger of what a job shows on the terminal between its results, such as that it waits and for what."""

_DEFAULT_UNIT = "row"
_UNITS: dict[str, str] = {"training": "step", "exporting": "file"}

_DEFAULT_FAILURE = "without a result"
# A corpus and its preparation reject rows on purpose, which is no failure of the job.
_FAILURES: dict[str, str] = {
    "reading": "dropped",
    "synthesizing": "dropped",
    "tokenizing": "dropped",
    "packing": "dropped",
}

# The line of `Progress.format`, whatever the unit and the name of a failure: a job may be of another version.
# `[0-9]` and not `\d`, which also matches digits of other scripts.
_LINE = re.compile(
    r"(?P<stage>[a-z]+(?: [a-z]+)*): (?P<done>[0-9]+)/(?P<total>[0-9]+) [a-z]+"
    r"(?:, (?P<tokens>[0-9,]+) tokens)?"
    r"(?:, (?P<failed>[0-9,]+) (?!tokens)[a-z ]+)?"
)


@dataclass(frozen=True)
class Progress:
    """How far one stage of a job is.

    Attributes:
        stage: Lower-case words, for example ``completions``.
        done: Rows, steps or files that are finished, of earlier sessions too.
        total: Of the whole stage.
        failed: Those of this session without a result; of a corpus, those that were dropped.
        tokens: Read or generated in this session.
    """

    stage: str
    done: int
    total: int
    failed: int = 0
    tokens: int = 0

    @property
    def unit(self) -> str:
        """What is counted, in the singular."""
        return _UNITS.get(self.stage, _DEFAULT_UNIT)

    @property
    def percent(self) -> int:
        """Share that is done, rounded down."""
        return 100 * self.done // max(1, self.total)

    @property
    def notes(self) -> str:
        """Tokens and failures, as far as there are any."""
        notes = []
        if self.tokens:
            notes.append(f"{self.tokens:,} tokens")
        if self.failed:
            notes.append(f"{self.failed:,} {_FAILURES.get(self.stage, _DEFAULT_FAILURE)}")
        return ", ".join(notes)

    def format(self) -> str:
        """One line, for example ``completions: 16/118 rows, 494 tokens, 2 without a result``."""
        line = f"{self.stage}: {self.done}/{self.total} {self.unit}s"
        return f"{line}, {self.notes}" if self.notes else line

    @classmethod
    def parse(cls, line: str) -> Self | None:
        """The progress that ``format`` wrote; None for any other line."""
        found = _LINE.fullmatch(line)
        if found is None:
            return None
        return cls(
            stage=found["stage"],
            done=int(found["done"]),
            total=int(found["total"]),
            failed=_count(found["failed"]),
            tokens=_count(found["tokens"]),
        )


ProgressCallback = Callable[[Progress], None]
"""Called with the progress of a stage, each time it has changed."""


def _count(text: str | None) -> int:
    return int(text.replace(",", "")) if text else 0
