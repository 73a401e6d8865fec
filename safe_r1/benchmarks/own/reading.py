"""Reads a whole file of questions, row by row; see ``OwnFile.read``."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from upath import UPath

from safe_r1.benchmarks.options import parse_options
from safe_r1.benchmarks.own.ids import Where
from safe_r1.benchmarks.own.mapping import Columns, check_task, field_of, recognise
from safe_r1.benchmarks.own.numbers import base_note, settled
from safe_r1.benchmarks.own.place import Place, has_question
from safe_r1.benchmarks.own.profile import Profile
from safe_r1.benchmarks.own.rows import MAX_LABELS, RowReader
from safe_r1.benchmarks.own.scan import Misfits, Scan, is_blank_row
from safe_r1.benchmarks.own.settings import OwnSettings
from safe_r1.benchmarks.sample_table import SampleTable
from safe_r1.errors import DataError, SafeR1Error
from safe_r1.records.formats import read_head
from safe_r1.records.layout import Layout
from safe_r1.records.location import DataLocation
from safe_r1.records.parsed import Parsed
from safe_r1.records.sources import read_rows

Files = list[tuple[UPath, Layout]]
"""Files with how each is read; empty for a dataset of the hub."""

_UNITS = {"jsonl": "line", "csv": "line", "tsv": "line", "json": "record", "parquet": "record"}

_GUESS_ROWS = 1000
_HEAD_ROWS = 5


@dataclass(frozen=True)
class Reading:
    """Everything that was read from a file of questions; its texts are on the disk.

    Attributes:
        samples: The samples, in the order of the file.
        misfits: The rows that do not fit.
        num_rows: Rows with content: samples and misfits.
        num_repeated: Samples that ask what an earlier one asks.
        num_given: Samples with the answer of a model.
        labels: Key of an area or category to its names.
        columns: What the columns mean.
        task_reason: How the task of a row is told.
        notes: What was decided about encoding, sheet and answers.
        unmatched: Categories outside the taxonomy that the file is mapped onto, with their rows.
    """

    samples: SampleTable
    misfits: Misfits
    num_rows: int
    num_repeated: int
    num_given: int
    labels: dict[str, tuple[str, str]]
    columns: Columns
    task_reason: str
    notes: tuple[str, ...]
    unmatched: dict[str, int]

    def count_by(self, field: str) -> dict[str, int]:
        """Samples by task, area or category."""
        counts = self.samples.column(field).value_counts()
        return dict(Counter({each["values"]: each["counts"] for each in counts.to_pylist()}).most_common())


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
        rows = read_rows(self.location, self.files())
        return sum(1 for _, parsed in rows if not is_blank_row(parsed))

    def files(self) -> Files:
        """Its files, and how each is read.

        Raises:
            DataError: There is none, or none that can be read.
        """
        return self.place.files(self.location, self._column)

    def profile(self, files: Files, max_rows: int | None = None) -> Profile:
        """What its columns hold.

        Args:
            files: See ``files``.
            max_rows: Rows that are looked at, from the first on; None: all.

        Raises:
            DataError: It is damaged, or has no rows.
        """
        profile = Profile()
        num_seen = 0
        for _, parsed in islice(read_rows(self.location, files), max_rows):
            num_seen += 1
            if isinstance(parsed.value, dict) and not is_blank_row(parsed):
                profile.add(parsed.value)
        if not profile.num_rows:
            problem = (
                "no rows that can be read; is it the right file and format?"
                if num_seen
                else "no row below its column names; add the questions"
            )
            raise DataError(f"{self.place.file_name}: {problem}{self._hint(files)}")
        return profile

    def read(self) -> Reading:
        """All samples, and all rows that do not fit.

        What the columns mean is told from all rows. The first ones mostly tell it too: with what they say the
        file is read at once, and a second time only where all rows say something else.

        Raises:
            ConfigError, DataError: Its columns or its task cannot be told, or it cannot be read.
            StorageError: There is no room for it in the temporary folder.
        """
        files = self.files()
        guess = self._guess(files) or self._recognise(self.profile(files), files)
        scan, samples = self._scan(guess, files)
        columns = self._recognise(scan.profile, files)
        has_options = columns.has_options or self._has_options_in_questions(columns, files)
        task_reason = check_task(columns, self.settings, has_options, self.place.file_name, scan.profile)
        if columns.to_json() != guess.to_json():
            scan, samples = self._scan(columns, files)
        return self._finish(scan, samples, columns, task_reason, files)

    def _scan(self, columns: Columns, files: Files) -> tuple[Scan, SampleTable]:
        scan = Scan(RowReader(self.name, columns, self.settings))
        return scan, SampleTable.spool(scan.samples(self._rows(files)))

    def _finish(
        self,
        scan: Scan,
        samples: SampleTable,
        columns: Columns,
        task_reason: str,
        files: Files,
    ) -> Reading:
        """What is told from all rows together."""
        reader = scan.reader
        where = self.place.file_name
        if reader.has_too_many_labels:
            names = " and ".join(repr(name) for name in (columns.area, columns.category) if name)
            role = "category" if columns.category else "area"
            raise DataError(
                f"{where}: more than {MAX_LABELS} areas and categories in column {names}, too many for a "
                f"report; name another column with --set benchmark.mapping.{role}=NAME, or none with "
                f'{role} = "" under [mapping] in the TOML file that `safe-r1 benchmark init` writes'
            )
        notes = [*self.place.notes, *(note for _, layout in files for note in layout.notes), *scan.notes]
        base = self.settings.index_base
        if reader.numbers.count and base is None:
            base, note = reader.numbers.find_base(where)
            samples = SampleTable.spool(settled(samples, base, scan.misfits.add))
            notes += [note] if note else []
        elif reader.numbers.count:
            notes.append(base_note(base, "set"))
        return Reading(
            samples,
            scan.misfits,
            scan.num_rows,
            scan.num_repeated,
            reader.num_given,
            reader.labels,
            columns,
            task_reason,
            tuple(notes),
            dict(reader.unmatched),
        )

    def _guess(self, files: Files) -> Columns | None:
        """What the first rows say about the columns; None where they do not say it."""
        try:
            return self._recognise(self.profile(files, _GUESS_ROWS), files)
        except SafeR1Error:
            # All rows together may still say it, or are reported.
            return None

    def _recognise(self, profile: Profile, files: Files) -> Columns:
        try:
            return recognise(profile, self.settings, self.place.file_name)
        except DataError as error:
            raise DataError(f"{error}{self._hint(files)}") from None

    @property
    def _column(self) -> str | None:
        return self.settings.mapping.question or self.settings.mapping.history

    def _hint(self, files: Files) -> str:
        """For an error: how the file was read, and a later row that looks like the names of its columns."""
        hints = [note for _, layout in files for note in layout.notes]
        for file, layout in files[:1]:
            header, *later = read_head(file, layout, _HEAD_ROWS) or [(0, [])]
            row = next((number for number, cells in later if has_question(cells, self._column)), None)
            if row and not has_question(header[1], self._column):
                hints.append(f"row {row} looks like the column names: delete the rows above it")
        return "".join(f"; {hint}" for hint in hints)

    def _rows(self, files: Files) -> Iterator[tuple[Where, Parsed]]:
        """Rows with content, each with its place for messages."""
        units = {file.name: _UNITS.get(layout.format, "row") for file, layout in files}
        for file, parsed in read_rows(self.location, files):
            if not is_blank_row(parsed):
                yield Where(file, units.get(file, "row"), parsed.number), parsed

    def _has_options_in_questions(self, columns: Columns, files: Files) -> bool:
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
