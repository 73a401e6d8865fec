"""Settings of a user's own questions: ``--set benchmark.NAME=VALUE``, or a TOML file beside the questions."""

import tomllib
from typing import Any, Literal

from pydantic import Field, ValidationError
from upath import UPath

from safe_r1.benchmarks.files import is_file
from safe_r1.errors import ConfigError
from safe_r1.records.location import FileFormat
from safe_r1.settings import Settings

GROUP = "benchmark"
"""Name of the group of settings."""

OwnTask = Literal["mcq", "refusal", "over_refusal", "math"]
IndexBase = Literal[0, 1, "text"] | None
TASKS: tuple[OwnTask, ...] = ("mcq", "refusal", "over_refusal", "math")


class ColumnMapping(Settings):
    """Columns of a file of questions; None: recognised by its usual names, empty: not used."""

    question: str | None = Field(default=None, description="column with the question")
    history: str | None = Field(
        default=None, description="column with the dialogue before the question, or with all of it"
    )
    options: str | None = Field(default=None, description="column with the options: a list, a table or text")
    option_columns: tuple[str, ...] = Field(
        default=(), description="columns with one option each, in order, instead of `options`"
    )
    answer: str | None = Field(
        default=None, description="column with the right option (letter, text or number) or the result"
    )
    category: str | None = Field(default=None, description="column with the category")
    area: str | None = Field(default=None, description="column with the area, to which categories belong")
    expected: str | None = Field(
        default=None, description="column with the task of each row, e.g. 应拒答 or 非拒答"
    )
    id: str | None = Field(default=None, description="column with the id; without one, of the content")
    given_answer: str | None = Field(
        default=None, description="column with the answers of a model, which `--variant given` judges"
    )
    given_reasoning: str | None = Field(
        default=None, description="column with the reasoning of these answers, where it is not part of them"
    )


class OwnSettings(Settings):
    """Own questions, ``--benchmark FILE``."""

    task: Literal["auto", "mcq", "refusal", "over_refusal", "math"] = Field(
        default="auto",
        description="refusal: risky questions that should be refused; over_refusal: harmless ones that "
        "should not; mcq; math; auto: as column `expected` says, or mcq where there are options and answers",
    )
    name: str | None = Field(
        default=None,
        pattern=r"^\w[\w.-]*$",
        max_length=80,
        description="name in folders and reports; None: the file's",
    )
    title: str | None = Field(default=None, description="title in reports; None: the file's name")
    language: Literal["auto", "zh", "en"] = Field(
        default="auto", description="of the instructions added to mcq and math; auto: that of each question"
    )
    mapping: ColumnMapping = Field(default=ColumnMapping())
    taxonomy: Literal["own", "chisafetybench"] = Field(
        default="own", description="chisafetybench: categories of these names are its 31 categories"
    )
    index_base: IndexBase = Field(
        default=None,
        description="number of the first option, where answers are numbers; text: they are texts of options",
    )
    max_malformed_share: float = Field(
        default=0.0, ge=0, lt=1, description="maximum share of rows that do not fit and are left out"
    )
    format: FileFormat = Field(default="auto", description="auto: from the file name's suffix")
    sheet: str | None = Field(default=None, description="xlsx: name of the sheet; None: the first with rows")
    encoding: str | None = Field(
        default=None, description="text files: their encoding; None: UTF-8, or else the one that is detected"
    )
    records: str | None = Field(
        default=None, description="JSON: field that holds the list of questions; *: every list of the object"
    )


def merge(beside: UPath | None, given: Settings | None) -> OwnSettings:
    """The settings in the TOML file beside the questions, overridden by those of the command line.

    Args:
        beside: The TOML file; None or a missing one: no settings.
        given: The group of settings of a job; only what was set in it counts.

    Raises:
        ConfigError: The file cannot be read, or a setting is unknown or does not fit.
    """
    tree: dict[str, Any] = {}
    if beside is not None and is_file(beside):
        try:
            tree = tomllib.loads(beside.read_text(encoding="utf-8-sig"))
        except RecursionError:
            raise ConfigError(f"{beside}: nested too deep; correct it or remove it") from None
        except (OSError, ValueError) as error:
            raise ConfigError(f"{beside}: {str(error).splitlines()[0]}; correct it or remove it") from None
    if "url" in tree and "model" in tree:
        raise ConfigError(
            f"{beside}: is the file of an endpoint (it has a url and a model), but this name is for "
            "settings of the questions beside it; rename one of the two"
        )
    _overlay(tree, given.model_dump(exclude_unset=True) if given else {})
    try:
        return OwnSettings.model_validate(tree)
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(str(part) for part in problem["loc"])
        known = ", ".join(
            (*OwnSettings.model_fields, *(f"mapping.{each}" for each in ColumnMapping.model_fields))
        )
        hint = f"; known are {known}" if problem["type"] == "extra_forbidden" else ""
        raise ConfigError(f"{beside}: setting {name!r}: {problem['msg']}{hint}") from None


def _overlay(tree: dict[str, Any], over: dict[str, Any]) -> None:
    for name, value in over.items():
        if isinstance(value, dict) and isinstance(tree.get(name), dict):
            _overlay(tree[name], value)
        else:
            tree[name] = value
