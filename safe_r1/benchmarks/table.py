"""What benchmarks of one file share: a table of questions that holds the right results."""

import csv
import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from safe_r1.benchmarks.base import BaseBenchmark, KeyIdentity, Location
from safe_r1.benchmarks.fetch import data_folder
from safe_r1.benchmarks.files import as_path, folder_with, parse_json, read_bytes
from safe_r1.errors import DataError
from safe_r1.schema import Sample


class TableBenchmark(BaseBenchmark, ABC):
    """A benchmark of one JSONL or CSV file.

    Attributes:
        folder: Folder of the file where several benchmarks lie beside each other.
        file: Name of the file.
    """

    folder: str
    file: str

    def load(self, data: Location | None = None, answer_key: Location | None = None) -> list[Sample]:
        """All samples in the order of the file; ``answer_key`` is not looked at, the results lie in the data.

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
        """The results are part of the data, whose hash stands beside."""
        return KeyIdentity(f"{self.name}/in the data", "")

    def data_hash(self, data: Location | None = None) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self._read(data)).hexdigest()

    @abstractmethod
    def read_row(self, row: dict[str, Any], where: str) -> Sample:
        """One row of the file; ``where`` names it in messages."""

    def how_to_get(self) -> str:
        """What to do where the file is missing."""
        return f"run `safe-r1 fetch {self.name}`, or give --data the folder that holds {self.file}"

    def _read(self, data: Location | None) -> bytes:
        # A fetched benchmark has a folder of its own; any other has been put into the data folder by hand.
        own = self.source.default_target if self.source else data_folder()
        root = as_path(data if data is not None else str(own))
        folder = folder_with(root, self.folder, [self.file]) or root / self.folder
        return read_bytes(folder / self.file, self.how_to_get())

    def _rows(self, content: bytes) -> Iterator[tuple[dict[str, Any], str]]:
        if self.file.endswith(".csv"):
            try:
                text = content.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{self.file}: is damaged, byte {error.start} is no UTF-8; fetch the file again"
                ) from None
            for number, row in enumerate(csv.DictReader(io.StringIO(text, newline="")), start=1):
                yield row, f"{self.file}, row {number}"
            return
        for number, line in enumerate(content.splitlines(), start=1):
            if line.strip():
                yield parse_json(line, f"{self.file}, line {number}"), f"{self.file}, line {number}"
