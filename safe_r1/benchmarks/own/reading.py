"""Reads a whole file of questions, row by row: once to see what its columns hold, once for its samples."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from upath import UPath

from safe_r1.benchmarks.options import parse_options
from safe_r1.benchmarks.own.cells import RowError
from safe_r1.benchmarks.own.mapping import Columns, Profile, check_task, field_of, is_empty, recognise
from safe_r1.benchmarks.own.place import Place, has_question
from safe_r1.benchmarks.own.rows import Draft, RowReader, settle_numbers
from safe_r1.benchmarks.own.settings import OwnSettings
from safe_r1.errors import DataError
from safe_r1.records.formats import read_head
from safe_r1.records.layout import Layout
from safe_r1.records.location import DataLocation
from safe_r1.records.parsed import Parsed
from safe_r1.records.sources import HUB, read_rows
from safe_r1.schema import Sample

_PLACE_WORDS = {"jsonl": "line", "csv": "line", "tsv": "line", "json": "record", "parquet": "record"}

_MAX_DOUBTS = 5
_HEAD_ROWS = 5


@dataclass(frozen=True)
class Misfit:
    """A row that is no question, with its place and the reason."""

    where: str
    reason: str


@dataclass(frozen=True)
class Reading:
    """Everything that was read from a file of questions.

    Attributes:
        samples: The samples, in the order of the file.
        misfits: The rows that do not fit.
        num_rows: Rows with content: samples and misfits.
        labels: Key of an area or category to its names.
        columns: What the columns mean.
        task_reason: How the task of a row is told.
        notes: What was decided about encoding, sheet and answers.
        unmatched: Categories outside the taxonomy that the file is mapped onto, with their rows.
    """

    samples: list[Sample]
    misfits: list[Misfit]
    num_rows: int
    labels: dict[str, tuple[str, str]]
    columns: Columns
    task_reason: str
    notes: tuple[str, ...]
    unmatched: dict[str, int]

    def count_by(self, field: str) -> dict[str, int]:
        """Samples by task, area or category."""
        return dict(Counter(getattr(sample, field) for sample in self.samples).most_common())

    @property
    def num_misfits_by_reason(self) -> dict[str, int]:
        """Rows that do not fit by their reason, without the values in its brackets."""
        return dict(Counter(misfit.reason.partition(" (")[0] for misfit in self.misfits).most_common())


@dataclass(frozen=True)
class OwnFile:
    """A file of questions with its settings; reads it as often as it is asked."""

    place: Place
    settings: OwnSettings
    name: str

    @property
    def location(self) -> DataLocation:
        """Where its records are."""
        return self.place.location(self.settings)

    def count_rows(self) -> int:
        """Number of its rows with content."""
        location = self.location
        rows = read_rows(location, self.place.files(location, self._column))
        return sum(1 for _, parsed in rows if not _is_blank_row(parsed))

    def profile(self) -> tuple[Profile, list[tuple[UPath, Layout]]]:
        """What its columns hold, and its files.

        Raises:
            DataError: It is missing or damaged, or has no rows.
        """
        location = self.location
        files = self.place.files(location, self._column)
        profile = Profile()
        num_seen = 0
        for _, parsed in read_rows(location, files):
            num_seen += 1
            if isinstance(parsed.value, dict) and not _is_blank_row(parsed):
                profile.add(parsed.value)
        if not profile.num_rows:
            problem = (
                "no rows that can be read; is it the right file and format?"
                if num_seen
                else "no row below its column names; add the questions"
            )
            raise DataError(f"{self.place.file_name}: {problem}{self._hint(files)}")
        return profile, files

    def read(self) -> Reading:
        """All samples, and all rows that do not fit.

        Raises:
            ConfigError, DataError: Its columns or its task cannot be told, or it cannot be read.
        """
        where = self.place.file_name
        profile, files = self.profile()
        try:
            columns = recognise(profile, self.settings, where)
        except DataError as error:
            raise DataError(f"{error}{self._hint(files)}") from None
        has_options = columns.has_options or self._has_options_in_questions(columns, files)
        task_reason = check_task(columns, self.settings, has_options, where, profile)
        reader = RowReader(self.name, columns, self.settings)
        drafts: list[Draft] = []
        misfits: list[Misfit] = []
        notes = [*self.place.notes, *(note for _, layout in files for note in layout.notes)]
        num_rows = 0
        doubts = 0
        for place, parsed in self._rows(files):
            num_rows += 1
            if parsed.note:
                doubts += 1
                notes += [f"{place}: {parsed.note}"] if doubts <= _MAX_DOUBTS else []
            if not isinstance(parsed.value, dict):
                # What follows the colon is the row's text.
                misfits.append(Misfit(place, parsed.error.partition(": ")[0]))
                continue
            try:
                drafts.append(reader.read(parsed.value, place))
            except RowError as error:
                misfits.append(Misfit(place, str(error)))
        note = settle_numbers(drafts, self.settings.index_base, where)
        notes += [f"{doubts - _MAX_DOUBTS} more rows like these"] if doubts > _MAX_DOUBTS else []
        notes += [note] if note else []
        for draft in drafts:
            if draft.number is not None and not draft.sample.metadata["answer"]:
                misfits.append(
                    Misfit(draft.where, f"the answer is the number of no option ({draft.number.number})")
                )
        samples = [draft.sample for draft in drafts if draft.sample.metadata.get("answer") != ""]
        return Reading(
            samples,
            misfits,
            num_rows,
            reader.labels,
            columns,
            task_reason,
            tuple(notes),
            dict(reader.unmatched),
        )

    @property
    def _column(self) -> str | None:
        return self.settings.mapping.question or self.settings.mapping.history

    def _hint(self, files: list[tuple[UPath, Layout]]) -> str:
        """For an error: how the file was read, and a later row that looks like the names of its columns."""
        hints = [note for _, layout in files for note in layout.notes]
        for file, layout in files[:1]:
            header, *later = read_head(file, layout, _HEAD_ROWS) or [(0, [])]
            row = next((number for number, cells in later if has_question(cells, self._column)), None)
            if row and not has_question(header[1], self._column):
                hints.append(f"row {row} looks like the column names: delete the rows above it")
        return "".join(f"; {hint}" for hint in hints)

    def _rows(self, files: list[tuple[UPath, Layout]]) -> Iterator[tuple[str, Parsed]]:
        """Rows with content, each with its place for messages."""
        formats = {file.name: layout.format for file, layout in files}
        for file, parsed in read_rows(self.location, files):
            if not _is_blank_row(parsed):
                word = _PLACE_WORDS.get(formats.get(file, HUB), "row")
                yield f"{file}, {word} {parsed.number}", parsed

    def _has_options_in_questions(self, columns: Columns, files: list[tuple[UPath, Layout]]) -> bool:
        """Whether a question ends with its options; read only where this decides about the task."""
        is_open = self.settings.task == "auto" and columns.expected is None and columns.answer is not None
        if not is_open or columns.question is None:
            return False
        return any(
            isinstance(parsed.value, dict) and _ends_with_options(field_of(parsed.value, columns.question))
            for _, parsed in self._rows(files)
        )


def _ends_with_options(question: object) -> bool:
    try:
        return isinstance(question, str) and bool(parse_options(question))
    except DataError:
        return False


def _is_blank_row(parsed: Parsed) -> bool:
    return isinstance(parsed.value, Mapping) and all(map(is_empty, parsed.value.values()))
