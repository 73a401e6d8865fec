"""The question in another language, by a table that the user gives.

A table is a TSV file with a question and its translation in each line, or a JSONL file with objects of
``zh`` and ``other``, or of questions as names and translations as values.
"""

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

from safe_r1.attacks.base import Attack, clean
from safe_r1.attacks.words import Lookup
from safe_r1.errors import ConfigError, DataError

PREFIX = "translation:"
_NAME = re.compile(r"[^a-z0-9]+")
_MAX_BYTES = 256 << 20


def translation(place: str, name: str | None = None) -> Attack:
    """The attack of a table.

    Args:
        place: A file whose name ends in ``.tsv`` or ``.jsonl``.
        name: The attack is called ``translation-NAME``; None: after the file.

    Raises:
        ConfigError: The file's name has another ending.
        DataError: It cannot be read, holds no line, or gives two translations of one question.
    """
    path = Path(place)
    read = {".tsv": _read_tsv, ".jsonl": _read_jsonl}.get(path.suffix.lower())
    if read is None:
        raise ConfigError(f"{place}: a table of translations is a .tsv or .jsonl file")
    table: dict[str, str] = {}
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{place}: larger than {_MAX_BYTES >> 20} MiB")
        for question, other in read(path.read_text(encoding="utf-8-sig")):
            if table.setdefault(clean(question), clean(other)) != clean(other):
                raise DataError(f"{place}: two translations of {question[:40]!r}; keep one")
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise DataError(f"{place}: {str(error).splitlines()[0]}") from None
    if not table:
        raise DataError(f"{place}: no line holds a question and its translation")
    title = _NAME.sub("-", (name or path.stem).lower()).strip("-") or "table"
    is_unique = len(set(table.values())) == len(table)
    return Attack(
        f"translation-{title}",
        "writing",
        "arXiv 2310.02446",
        f"By the table {path.name}.",
        (Lookup(place, table),),
        is_recoverable=is_unique,
    )


def _read_tsv(text: str) -> Iterator[tuple[str, str]]:
    for number, cells in enumerate(csv.reader(io.StringIO(text), delimiter="\t"), 1):
        if not cells:
            continue
        if len(cells) != 2 or not all(cell.strip() for cell in cells):
            raise ValueError(f"line {number}: expected a question, a tab and its translation")
        yield cells[0], cells[1]


def _read_jsonl(text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        row = json.loads(line)
        if not isinstance(row, dict) or not row or not all(isinstance(each, str) for each in row.values()):
            raise ValueError(f"line {number}: expected an object of texts")
        if set(row) == {"zh", "other"}:
            yield row["zh"], row["other"]
        else:
            yield from row.items()
