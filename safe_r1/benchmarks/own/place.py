"""Where a user's own questions are: a file, a URI, or a dataset of the hub, by one name."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from upath import UPath

from safe_r1.benchmarks.files import as_path
from safe_r1.benchmarks.own.content import check_content
from safe_r1.benchmarks.own.settings import GROUP, OwnSettings
from safe_r1.benchmarks.own.words import fold, rank
from safe_r1.errors import ConfigError, DataError
from safe_r1.records.files import split_name
from safe_r1.records.find import find_files
from safe_r1.records.layout import Layout, find_format, find_layout
from safe_r1.records.location import HUB_NAME, HUB_PREFIX, DataLocation, HubDataset, parse_hub
from safe_r1.records.sources import read_rows
from safe_r1.settings import hide_credentials

_SPLIT = "test"
_NAME_CHARS = 64


def is_own_name(name: str) -> bool:
    """Whether a ``--benchmark`` is a file, a URI or a dataset of the hub, by its looks."""
    if name.startswith(HUB_PREFIX) or "://" in name or "/" in name:
        return True
    return split_name(name)[1] is not None or (bool(Path(name).suffix) and Path(name).is_file())


class _OwnLocation(DataLocation):
    """A location whose settings are those of the group ``benchmark``."""

    @property
    def label(self) -> str:
        return ""

    def remedy(self, setting: str, value: str) -> str:
        return f"--set {GROUP}.{setting}={value}"


@dataclass(frozen=True)
class Place:
    """A place with questions.

    Attributes:
        given: As it was typed.
    """

    given: str

    @property
    def is_hub(self) -> bool:
        """Whether it is a dataset of the hub."""
        return self.given.startswith(HUB_PREFIX)

    @property
    def file_name(self) -> str:
        """Name of the file without its folder; a dataset's whole name. It holds no credentials."""
        return self.given if self.is_hub else hide_credentials(self.given).rstrip("/").rpartition("/")[2]

    @property
    def stem(self) -> str:
        """Name without folder and suffixes."""
        if self.is_hub:
            return self._hub().hub.rpartition("/")[2]
        return split_name(self.file_name)[0]

    @property
    def notes(self) -> list[str]:
        """What was decided about a dataset of the hub and its user should know."""
        if not self.is_hub or self._hub().has_parts:
            return []
        return [f"split {_SPLIT!r} is read (another one: {self.given}:SPLIT or {self.given}:CONFIG:SPLIT)"]

    @property
    def beside(self) -> UPath | None:
        """The TOML file beside the questions; None for a dataset of the hub."""
        if self.is_hub:
            return None
        return as_path(self.given).parent / f"{self.stem}.toml"

    def benchmark_name(self, settings: OwnSettings, taken: Collection[str]) -> str:
        """A name for folders and ids: as set, else from the file's name, unlike those in ``taken``.

        Raises:
            ConfigError: The name that was set is one of ``taken``.
        """
        if settings.name:
            if settings.name in taken:
                raise ConfigError(
                    f"{self.given}: benchmark.name={settings.name} is the name of another benchmark; choose "
                    "another one"
                )
            return settings.name
        name = re.sub(r"[^\w.-]+", "-", unicodedata.normalize("NFKC", self.stem))[:_NAME_CHARS].strip("-.")
        name = name or f"file-{hashlib.sha256(self.stem.encode()).hexdigest()[:8]}"
        return f"{name}-own" if name in taken else name

    def location(self, settings: OwnSettings) -> DataLocation:
        """The place as records are read from it.

        Raises:
            ConfigError: The name of a dataset is malformed.
        """
        if not self.is_hub:
            return _OwnLocation(
                name="questions",
                path=self.given,
                format=settings.format,
                records=settings.records,
                sheet=settings.sheet,
                encoding=settings.encoding,
            )
        found = self._hub()
        return _OwnLocation(
            name="questions",
            hub=found.hub,
            subset=found.subset,
            split=found.split,
            revision=found.revision,
        )

    def files(self, location: DataLocation, column: str | None = None) -> list[tuple[UPath, Layout]]:
        """The files with how each is read; empty for a dataset of the hub.

        Args:
            location: See ``location``.
            column: Name of the column with the question, where it is set; a sheet with it is preferred.

        Raises:
            DataError: There is no file, or none that can be read.
        """
        # Relative to the working directory, as any file on the command line.
        found = [] if self.is_hub else self._find(location)
        for file in found:
            check_content(file, *find_format(location, file))
        return [
            (file, find_layout(location, file, lambda names: has_question(names, column))) for file in found
        ]

    def sha256(self, location: DataLocation) -> str:
        """SHA-256 of the file; of several, over theirs in order; of a dataset, over its rows."""
        if self.is_hub:
            digest = hashlib.sha256()
            for _, parsed in read_rows(location, []):
                row = json.dumps(parsed.value, ensure_ascii=False, sort_keys=True, default=str)
                digest.update(row.encode() + b"\n")
            return digest.hexdigest()
        hashes = [_hash_file(file) for file in self._find(location)]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()

    def _find(self, location: DataLocation) -> list[UPath]:
        try:
            return find_files(location, ".")
        except DataError as error:
            hub = f"{HUB_PREFIX}{self.given}"
            hint = f"; a dataset of the hub is {hub}" if HUB_NAME.fullmatch(hub) else ""
            raise DataError(f"{error}{hint}") from None

    def _hub(self) -> HubDataset:
        return parse_hub(self.given, _SPLIT)


def has_question(names: Sequence[str], column: str | None = None) -> bool:
    """Whether one of the names is that of a column with questions: the one that is set, or a usual one."""
    if column:
        return fold(column) in map(fold, names)
    return any(rank(role, name) is not None for name in names for role in ("question", "history"))


def _hash_file(file: UPath) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(1 << 20):
            digest.update(chunk)  # pyright: ignore[reportArgumentType]
    return digest.hexdigest()
