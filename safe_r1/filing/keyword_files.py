"""Reads a team's list of keywords.

The list is a table (CSV, TSV, XLSX and the other formats of questions) with a column of words and one of
risks, or a text file with a word a line, its risk behind a tab.
"""

import functools
import io
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from upath import UPath

from safe_r1.errors import DataError
from safe_r1.filing.keywords import Keyword, KeywordList, fold
from safe_r1.judge.disguise import plain
from safe_r1.records.encodings import detect_encoding
from safe_r1.records.files import lines_of, open_bytes
from safe_r1.records.find import find_files
from safe_r1.records.formats import is_blank, read_all
from safe_r1.records.layout import Layout, find_layout
from safe_r1.records.location import DataLocation
from safe_r1.records.parsed import shorten
from safe_r1.records.text import clean, fault_in
from safe_r1.report.cells import text_of_csv
from safe_r1.taxonomy import CATEGORIES, find_category

MAX_WORD_CHARS = 200
"""Characters of the longest keyword; a longer one is a row of several, or a sentence."""
_WORD_NAMES = ("关键词", "拦截关键词", "敏感词", "词", "词语", "keyword", "keywords", "word", "term")
_RISK_NAMES = ("风险", "风险类别", "风险类型", "安全风险", "对应风险", "类别", "分类", "risk", "category")
_TEXT_SUFFIX = ".txt"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def read_keywords(path: str) -> KeywordList:
    """Read a list.

    Args:
        path: File or URI.

    Raises:
        DataError: The file is missing or damaged, has no column of words or no word, or rows of it do not
            fit: the first one with its reason, and how many there are.
    """
    location = _ListLocation(name="keywords", path=path)
    files = find_files(location, None)
    if len(files) != 1:
        raise DataError(f"{path}: {len(files)} files; a list of keywords is one file")
    file = files[0]
    if file.name.lower().endswith(_TEXT_SUFFIX):
        with open_bytes(file) as opened:
            encoding, note = detect_encoding(opened, location.remedy("encoding", ""))
        return _collect(file.name, _text_rows(file, encoding), (f"{file.name}: {note}",) if note else ())
    layout = find_layout(location, file, lambda names: _column(names, _WORD_NAMES) is not None)
    return _collect(file.name, _table_rows(file, layout, location), layout.notes)


class _ListLocation(DataLocation):
    """A file of keywords."""

    @property
    def label(self) -> str:
        return ""

    def remedy(self, setting: str, value: str) -> str:
        return "save the list as CSV in UTF-8, as XLSX with one sheet, or as .txt with a word a line"


_Row = tuple[int, str, str, str]
"""Line or row, word, risk as it is written, and the fault (empty for none)."""


def _collect(name: str, rows: Iterator[_Row], notes: tuple[str, ...]) -> KeywordList:
    spelled: dict[str, str] = {}
    risks: dict[str, dict[str, None]] = defaultdict(dict)
    num_repeated = 0
    num_rows = 0
    faults: list[str] = []
    for number, word, risk, fault in rows:
        num_rows += 1
        key, reason = _risk_key(risk)
        if fault := fault or _fault(word) or reason:
            faults.append(f"row {number}: {fault}")
            continue
        folded = fold(word)
        num_repeated += folded in spelled and (not key or key in risks[folded])
        spelled.setdefault(folded, word)
        if key:
            risks[folded][key] = None
    if faults:
        more = f" ({len(faults):,} of {num_rows:,} rows do not fit)" if len(faults) > 1 else ""
        raise DataError(f"{name}, {faults[0]}{more}")
    if not spelled:
        raise DataError(f"{name}: no keyword; expected one a row, with its risk")
    words = tuple(Keyword(word, tuple(risks[folded])) for folded, word in spelled.items())
    return KeywordList(name, words, num_repeated, notes)


def _fault(word: str) -> str:
    """Why a word cannot be one; empty for nothing."""
    if not word:
        return "no word; remove the row, or write the keyword"
    if fault := fault_in(word):
        return f"{'no text in its encoding' if 'surrogate' in fault else fault}: {shorten(clean(word))}"
    if _CONTROL.search(word):
        shown = shorten(_CONTROL.sub(" ", word))
        return f"a line break, tab or control character in {shown!r}; write one keyword a row"
    if len(word) > MAX_WORD_CHARS:
        return (
            f"{len(word):,} characters, more than {MAX_WORD_CHARS}: {shorten(word)}; write one keyword a row"
        )
    if not plain(word).strip():
        return f"{shorten(word)!r} has invisible characters alone"
    return ""


def _risk_key(risk: str) -> tuple[str, str]:
    """Key of a risk, which may be empty, and why there is none."""
    if not risk:
        return "", ""
    found = find_category(risk)
    key = found.key if found else _english().get(risk.lower())
    if key is None:
        return "", (
            f"{shorten(clean(risk))!r} is none of the {len(CATEGORIES)} risks; write its name, such as "
            "民族歧视, or its key, such as ethnic"
        )
    return key, ""


@functools.cache
def _english() -> Mapping[str, str]:
    return {category.name_en.lower(): key for key, category in CATEGORIES.items()}


def _table_rows(file: UPath, layout: Layout, location: DataLocation) -> Iterator[_Row]:
    is_marked = layout.format in ("csv", "tsv")
    for parsed in read_all(file, layout, location):
        if is_blank(parsed):
            continue
        if not isinstance(parsed.value, dict):
            yield (
                parsed.number,
                "",
                "",
                parsed.error or f"expected a row with columns, got {parsed.value!r:.80}",
            )
            continue
        names = [str(name) for name in parsed.value]
        column = _column(names, _WORD_NAMES)
        if column is None:
            raise DataError(
                f"{file.name}, row {parsed.number}: no column of keywords among {shorten(', '.join(names))}; "
                f"call it {_WORD_NAMES[0]} or keyword, and that of risks {_RISK_NAMES[0]} or risk"
            )
        values = {str(name): value for name, value in parsed.value.items()}
        cells = [_cell(values.get(each or "")) for each in (column, _column(names, _RISK_NAMES))]
        # In a spreadsheet's CSV a text that looks like a formula is marked.
        word, risk = (text_of_csv(cell).strip() if is_marked else cell for cell in cells)
        if word or risk:
            yield parsed.number, word, risk, ""


def _column(names: Sequence[str], known: Sequence[str]) -> str | None:
    folded = {name.strip().lower(): name for name in names}
    return next((folded[each] for each in known if each in folded), None)


def _cell(value: object) -> str:
    return "" if value is None else str(value).strip()


def _text_rows(file: UPath, encoding: str) -> Iterator[_Row]:
    with open_bytes(file) as opened:
        text = io.TextIOWrapper(opened, encoding=encoding, errors="surrogateescape")
        for number, line in enumerate(lines_of(text, file), start=1):
            word, _, risk = (each.strip() for each in line.partition("\t"))
            if word or risk:
                yield number, word, risk, ""
