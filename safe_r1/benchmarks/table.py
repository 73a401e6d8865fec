"""Base class of benchmarks in one JSONL or CSV file of questions with their results."""

import csv
import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping

from safe_r1.benchmarks.base import BaseBenchmark, KeyIdentity, Location
from safe_r1.benchmarks.fetch import data_folder
from safe_r1.benchmarks.files import as_path, folder_with, object_of, parse_json, read_bytes
from safe_r1.errors import DataError
from safe_r1.schema import Sample


class TableBenchmark(BaseBenchmark, ABC):
    """A benchmark of one JSONL or CSV file.

    Attributes:
        folder: Name of the file's folder inside a folder of several benchmarks.
        file: Name of the file.
    """

    folder: str
    file: str

    def load(self, data: Location | None = None, answer_key: Location | None = None) -> list[Sample]:
        """All samples in the order of the file; ``answer_key`` is ignored, as the data contain the results.

        Raises:
            DataError: The file is missing or damaged, or a row cannot be read; the message names it.
        """
        samples = [self.read_row(row, where) for row, where in self._rows(self._read(data))]
        ids = [sample.sample_id for sample in samples]
        if not samples or len(set(ids)) < len(ids):
            raise DataError(
                f"{self.file}: {'an id occurs twice' if samples else 'no rows'}; fetch the file again"
            )
        return samples

    def key_identity(self, answer_key: Location | None = None) -> KeyIdentity:
        """The results are part of the data, which have their own hash."""
        return KeyIdentity(f"{self.name}/in the data", "")

    def data_hash(self, data: Location | None = None) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self._read(data)).hexdigest()

    @abstractmethod
    def read_row(self, row: Mapping[str, object], where: str) -> Sample:
        """One row of the file; ``where`` names it in messages."""

    def how_to_get(self) -> str:
        """What to do where the file is missing."""
        return f"run `safe-r1 fetch {self.name}`, or give --data the folder that holds {self.file}"

    def _read(self, data: Location | None) -> bytes:
        # `fetch` gives each benchmark its own folder; any other is put into the data folder by hand.
        own = self.source.default_target if self.source else data_folder()
        root = as_path(data if data is not None else str(own))
        folder = folder_with(root, self.folder, [self.file]) or root / self.folder
        return read_bytes(folder / self.file, self.how_to_get())

    def _rows(self, content: bytes) -> Iterator[tuple[Mapping[str, object], str]]:
        if self.file.endswith(".csv"):
            # A byte order mark, as spreadsheets write it, would become part of the first column's name.
            try:
                text = content.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{self.file}: is damaged, byte {error.start} is no UTF-8; fetch the file again"
                ) from None
            # newline="": line breaks inside a quoted prompt are part of it.
            for number, row in enumerate(csv.DictReader(io.StringIO(text, newline="")), start=1):
                yield row, f"{self.file}, row {number}"
            return
        for number, line in enumerate(content.splitlines(), start=1):
            if line.strip():
                where = f"{self.file}, line {number}"
                yield object_of(parse_json(line, where), where), where
