"""Ids of questions and keys of their categories: short, ASCII, and the same for the same content."""

import functools
import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from typing import NamedTuple

from safe_r1.benchmarks.own.cells import RowError, shown
from safe_r1.benchmarks.own.profile import is_empty

NAME_CHARS = 80
"""Longest name of an area or category, and longest id that is kept beside a question."""

_PLAIN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ROW_BITS = 40
_encode_json = json.JSONEncoder(ensure_ascii=False).encode


class Where(NamedTuple):
    """A row of a file, for messages.

    Attributes:
        file: Name of the file.
        unit: What is counted: line, record or row.
        number: From 1.
    """

    file: str
    unit: str
    number: int

    def __str__(self) -> str:
        return f"{self.file}, {self.unit} {self.number}"


class ItemIds:
    """The last parts of the ids of a file's samples; each takes about 100 bytes, however long it is."""

    def __init__(self) -> None:
        # Hash of an id to its row.
        self._rows: dict[int, int] = {}
        self._files: dict[tuple[str, str], int] = {}
        # Hash of a content to the number of its rows.
        self._copies: dict[int, int] = {}

    def of_source(self, source_id: str, where: Where) -> str:
        """From an id of the file.

        Raises:
            RowError: An earlier row has it.
        """
        file = self._files.setdefault((where.file, where.unit), len(self._files))
        row = file << _ROW_BITS | where.number
        # An id may be any text, and a sample's is part of keys and addresses.
        item = source_id if _PLAIN_ID.fullmatch(source_id) else _id_key(source_id)
        # By what it becomes, as a plain id may be what another one becomes. Of 64 bits: among a million ids
        # two have one hash with a probability of 3e-8.
        first = self._rows.setdefault(hash(item), row)
        if first != row:
            before = Where(*list(self._files)[first >> _ROW_BITS], first & ((1 << _ROW_BITS) - 1))
            raise RowError(f"an id occurs twice ({shown(source_id)}, first in {before})")
        return item

    def of_content(self, content: object) -> str:
        """From all that makes a question; the second of equal ones ends in ``-2``."""
        digest = hashlib.sha256(_encode_json(content).encode()).hexdigest()[:16]
        key = int(digest, 16)
        # Rows of equal content are the same question: which of them is the second does not matter.
        copies = self._copies[key] = self._copies.get(key, 0) + 1
        return digest + (f"-{copies}" if copies > 1 else "")


def short_name(value: object) -> str:
    """The name of an area or category; of several the first."""
    if isinstance(value, list):
        value = value[0] if value else None
    if is_empty(value) or isinstance(value, Mapping):
        return ""
    return " ".join(str(value).split())[:NAME_CHARS]


@functools.lru_cache(maxsize=4096)
def label_key(name: str) -> str:
    """A short ASCII key for any name of up to ``NAME_CHARS``; equal names give equal keys."""
    folded = _folded(name)
    return f"{_slug(folded)}-{hashlib.sha256(folded.encode()).hexdigest()[:8]}"


def _id_key(source_id: str) -> str:
    """A short ASCII key for an id; unlike a name's, it differs where ids differ in case, width or spaces."""
    return f"{_slug(_folded(source_id))}-{hashlib.sha256(source_id.encode()).hexdigest()[:16]}"


def _folded(name: str) -> str:
    return "".join(unicodedata.normalize("NFKC", name).split()).casefold()


def _slug(folded: str) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", folded[:48]))[:24].strip("-") or "x"
