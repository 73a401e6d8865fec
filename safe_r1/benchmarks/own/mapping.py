"""Recognises what the columns of a file of questions mean, and says why."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from safe_r1.benchmarks.own.cells import RowError
from safe_r1.benchmarks.own.choices import read_options
from safe_r1.benchmarks.own.profile import Profile
from safe_r1.benchmarks.own.settings import ColumnMapping, OwnSettings
from safe_r1.benchmarks.own.words import ANSWERS, ROLES, fold, option_place, rank, read_task
from safe_r1.errors import ConfigError, DataError
from safe_r1.schema import JUDGED_PARTS

_MIN_OPTIONS = 2
_SET = "set"


@dataclass(frozen=True)
class Columns:
    """The column of each role; None where there is none.

    Attributes:
        options: Column with all options of a question.
        option_columns: Columns with one option each.
        given_answer: Column with the answers of a model.
        given_reasoning: Column with the reasoning of these answers.
        reasons: Role to its column and why it is that one.
        ignored: Columns without a role.
    """

    question: str | None = None
    history: str | None = None
    options: str | None = None
    option_columns: tuple[str, ...] = ()
    answer: str | None = None
    category: str | None = None
    area: str | None = None
    expected: str | None = None
    id: str | None = None
    given_answer: str | None = None
    given_reasoning: str | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    @property
    def has_options(self) -> bool:
        """Whether options have columns of their own."""
        return self.options is not None or bool(self.option_columns)

    def to_json(self) -> dict[str, object]:
        """Role to column, without roles that have none."""
        roles = {role: getattr(self, role) for role in ROLES}
        chosen: dict[str, object] = {role: column for role, column in roles.items() if column is not None}
        return chosen | ({"option_columns": list(self.option_columns)} if self.option_columns else {})


def recognise(profile: Profile, settings: OwnSettings, where: str) -> Columns:
    """The columns of a file: as set, else by their usual names.

    Args:
        profile: What the columns hold.
        settings: The settings of the file.
        where: Name of the file in messages.

    Raises:
        ConfigError: A column that was set does not exist.
        DataError: No column or several could hold the question.
    """
    finder = _Finder(profile, settings.mapping, where)
    # First where it is set, as its column may have the name of another role; otherwise last.
    found: dict[str, str | None] = {
        role: finder.find_set(role) for role in ("given_answer", "given_reasoning")
    }
    # Before answers and categories, whose columns may hold tasks.
    found["expected"] = None if settings.task != "auto" else finder.find_expected()
    for role in ("question", "history", "options", "answer", "area", "category", "id"):
        found[role] = finder.find(role, needs_one=role in ("question", "answer"))
    option_columns = finder.find_option_columns() if found["options"] is None else ()
    if merged := finder.find_merged(found["options"]):
        found["options"], option_columns = None, merged
    if found["question"] is None and found["history"] is None:
        names = ", ".join(map(repr, profile.filled)) or "none"
        raise DataError(
            f"{where}: no column holds the question; there is: {names[:400]}; "
            "--set benchmark.mapping.question=NAME"
        )
    has_options = found["options"] is not None or bool(option_columns)
    finder.add_given(found, settings.task, has_options)
    used = {column for column in found.values() if column} | set(option_columns)
    ignored = tuple(column for column, count in profile.filled.items() if count and column not in used)
    return Columns(**found, option_columns=option_columns, reasons=finder.reasons, ignored=ignored)


class _Finder:
    """Finds the column of one role after the other."""

    def __init__(self, profile: Profile, mapping: ColumnMapping, where: str) -> None:
        self.profile = profile
        self.mapping = mapping
        self.where = where
        self.reasons: dict[str, str] = {}
        self._taken: set[str] = set()

    def find(self, role: str, needs_one: bool) -> str | None:
        """The column of a role; with ``needs_one`` a second candidate is an error."""
        wanted = getattr(self.mapping, role)
        if wanted is not None:
            return self._set(role, wanted) if wanted else None
        candidates = self._candidates(role)
        if not candidates:
            return None
        if needs_one and len(candidates) > 1:
            names = " and ".join(map(repr, candidates))
            raise DataError(
                f"{self.where}: columns {names} could each hold the {role}; "
                f"--set benchmark.mapping.{role}={candidates[0]}"
            )
        others = f", before {', '.join(map(repr, candidates[1:]))}" if len(candidates) > 1 else ""
        return self._take(role, candidates[0], f"a usual name{others}")

    def find_set(self, role: str) -> str | None:
        """The column of a role where one is set."""
        wanted = getattr(self.mapping, role)
        return self._set(role, wanted) if wanted else None

    def add_given(self, found: dict[str, str | None], task: str, has_options: bool) -> None:
        """Add the columns with the answers of a model and their reasoning to those of the other roles."""
        if found["given_answer"] is None:
            found["given_answer"] = self._find_text("given_answer")
        answer = found["answer"]
        # Beside options it may be the right one of them, whatever the task is set to.
        is_open = not has_options and found["given_answer"] is None and self.mapping.given_answer is None
        if (
            is_open
            and self.mapping.answer is None
            and answer
            and self._is_given(answer, found["expected"], task)
        ):
            found["given_answer"], found["answer"] = answer, None
            del self.reasons["answer"]
            self.reasons["given_answer"] = f"{answer!r}: a model's, as a judge labels the answers to all rows"
        if found["given_reasoning"] is None and found["given_answer"] is not None:
            found["given_reasoning"] = self._find_text("given_reasoning")

    def _find_text(self, role: str) -> str | None:
        """The column of a role by its usual names, where its first cell is a text."""
        if getattr(self.mapping, role) is not None:
            return None
        texts = [each for each in self._candidates(role) if isinstance(self.profile.firsts[each], str)]
        if not texts:
            return None
        others = f", before {', '.join(map(repr, texts[1:]))}" if len(texts) > 1 else ""
        return self._take(role, texts[0], f"a usual name{others}")

    def _is_given(self, answer: str, expected: str | None, task: str) -> bool:
        """Whether answers can only be a model's: a judge labels all rows, so that none has a right one."""
        values = self.profile.values.get(expected or "") or ()
        tasks = {task} if task != "auto" else {read_task(value, expected or "") for value in values}
        is_judged = bool(tasks) and tasks <= {*JUDGED_PARTS, None}
        return is_judged and fold(answer) in ANSWERS and isinstance(self.profile.firsts.get(answer), str)

    def find_expected(self) -> str | None:
        """The column that names the task row by row, by its name and its values."""
        wanted = self.mapping.expected
        if wanted is not None:
            return self._set("expected", wanted) if wanted else None
        candidates = self._candidates("expected")
        # A question bank often has it as the type or the label.
        candidates += [*self._candidates("category"), *self._candidates("answer")]
        for column in candidates:
            values = self.profile.values.get(column)
            tasks = [read_task(value, column) for value in values or ()]
            is_by_name = rank("expected", column) is not None
            # By its name alone, some unknown values are rows that do not fit; otherwise all must be tasks.
            if tasks and (all(tasks) or (is_by_name and any(tasks))):
                reason = "a usual name, and its values are tasks" if is_by_name else "its values are tasks"
                return self._take("expected", column, reason)
        return None

    def find_option_columns(self) -> tuple[str, ...]:
        """Columns with one option each."""
        if self.mapping.option_columns:
            chosen = tuple(self._existing("option_columns", name) for name in self.mapping.option_columns)
            self.reasons["option_columns"] = f"{', '.join(map(repr, chosen))}: {_SET}"
            return chosen
        places = {option_place(column): column for column in self.profile.filled if column not in self._taken}
        columns: list[str] = []
        while (place := len(columns)) in places:
            columns.append(places[place])
        if len(columns) < _MIN_OPTIONS:
            return ()
        self.reasons["option_columns"] = f"{', '.join(map(repr, columns))}: usual names"
        return tuple(columns)

    def find_merged(self, options: str | None) -> tuple[str, ...]:
        """The column of options and those without a name behind it, as a merged cell above them all gives."""
        if options is None or self.mapping.options:
            return ()
        names = list(self.profile.filled)
        place = names.index(options) + 1
        columns = [options]
        while self.profile.filled.get(name := f"column {place + len(columns)}"):
            columns.append(name)
        if len(columns) < _MIN_OPTIONS or _holds_options(self.profile.firsts.get(options)):
            return ()
        del self.reasons["options"]
        self.reasons["option_columns"] = f"{', '.join(map(repr, columns))}: a usual name, and those under it"
        return tuple(columns)

    def _candidates(self, role: str) -> list[str]:
        filled = [
            column for column, count in self.profile.filled.items() if count and column not in self._taken
        ]
        ranked = [(place, column) for column in filled if (place := rank(role, column)) is not None]
        return [column for _, column in sorted(ranked)]

    def _set(self, role: str, name: str) -> str:
        return self._take(role, self._existing(role, name), _SET)

    def _take(self, role: str, column: str, reason: str) -> str:
        self._taken.add(column)
        self.reasons[role] = f"{column!r}: {reason}"
        return column

    def _existing(self, role: str, name: str) -> str:
        columns = self.profile.filled
        # A dotted name may be a field of a nested object.
        if name in columns or name.partition(".")[0] in columns:
            return name
        for column in columns:
            if fold(column) == fold(name):
                return column
        raise ConfigError(
            f"{self.where}: benchmark.mapping.{role}: no column {name!r}; there is: "
            f"{', '.join(map(repr, columns))[:400]}"
        )


def _holds_options(cell: object) -> bool:
    """Whether one cell has all options of a question."""
    try:
        return bool(read_options(cell, "options"))
    except RowError:
        return False


def check_task(
    columns: Columns, settings: OwnSettings, has_options: bool, where: str, profile: Profile
) -> str:
    """How the task of a row is told, for the user.

    Args:
        columns: The recognised columns.
        settings: The settings of the file.
        has_options: Whether options stand in columns or in the questions.
        where: Name of the file in messages.
        profile: What the columns hold.

    Raises:
        DataError: It cannot be told.
    """
    if settings.task != "auto":
        return f"{settings.task}: {_SET}"
    if columns.expected is not None:
        return f"of each row, column {columns.expected!r}"
    if has_options and columns.answer is not None:
        return "mcq: there are options and answers"
    for column in columns.ignored:
        values = profile.values.get(column)
        if values and all(read_task(value, column) for value in values):
            raise DataError(
                f"{where}: cannot tell the task of its questions, which column {column!r} seems to say; "
                f"--set benchmark.mapping.expected={column}"
            )
    raise DataError(
        f"{where}: cannot tell the task of its questions; --set benchmark.task=refusal (risky: should be "
        "refused), over_refusal (harmless: should not), mcq or math, or add a column 期望 that says 应拒答 "
        "or 非拒答 row by row"
    )


def field_of(row: Mapping[str, object], column: str | None) -> object:
    """The cell of a column, or the nested field of a dotted name; None where there is none."""
    if column is None:
        return None
    if column in row:
        return row[column]
    value: object = row
    for name in column.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def texts_of(values: Iterable[object]) -> list[str]:
    """The values as trimmed texts."""
    return ["" if value is None else str(value).strip() for value in values]
