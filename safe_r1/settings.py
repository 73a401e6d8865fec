"""Reads settings from a TOML or YAML file and from ``--set a.b=v``, and shows them without secrets.

An unknown name is an error that lists the nearest known ones. The settings of each job are in
``safe_r1.config`` and beside the jobs.
"""

import difflib
import json
import re
import tomllib
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from safe_r1.errors import ConfigError
from safe_r1.redaction import hide_credentials, hide_secrets

__all__ = [
    "Settings",
    "hide_credentials",
    "load_config",
    "public_settings",
    "setting_names",
    "toml_comment",
    "toml_string",
]

_SHOWN_CHARS = 80
_MAX_BYTES = 16 << 20
_MAX_VALUES = 100_000
_MAX_DEPTH = 200
_BRACKET = re.compile(r"[\[\]{}]")
# Settings whose values a message never repeats.
_FREE_VALUES = ("headers", "extra_body", "api_key_env")

Config = TypeVar("Config", bound="Settings")


class Settings(BaseModel):
    """Base of all settings: immutable, and strict about unknown names."""

    # Unknown names are errors, as a misspelled setting would leave its default in force unnoticed. No
    # protected namespaces: pydantic reserves names that begin with "model_".
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def load_config(schema: type[Config], file: str | None, overrides: list[str], **flags: object) -> Config:
    """Settings from a file, then ``a.b=v`` overrides, then flags (None: not given), the later winning.

    Args:
        schema: The settings to fill.
        file: A TOML or YAML file, or None.
        overrides: ``a.b=v`` strings; values are read as YAML.
        flags: Values by dotted name with ``__`` for the dot, e.g. ``judge__kind``.

    Raises:
        ConfigError: The file cannot be read, a name is unknown, or a value does not fit.
    """
    tree = _read_file(file) if file else {}
    for override in overrides:
        _put(tree, *read_override(override))
    for name, value in flags.items():
        if value is not None:
            _put(tree, name.replace("__", "."), value)
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(schema, error)) from None


def read_override(override: str) -> tuple[str, object]:
    """Name and value of ``a.b=v``, the value read as YAML.

    Raises:
        ConfigError: It has another form, or its value cannot be read.
    """
    name, equals, text = override.partition("=")
    name = name.strip()
    if not equals or not name:
        raise ConfigError(f"--set {override!r}: expected NAME=VALUE, e.g. --set generation.temperature=0.6")
    try:
        return name, _load_yaml(text)
    except RecursionError:
        raise ConfigError(f"--set {name}: the value is nested too deep") from None
    except (ValueError, OverflowError, yaml.YAMLError) as error:
        raise ConfigError(f"--set {name}: the value is not readable: {str(error).splitlines()[0]}") from None


def _read_file(file: str) -> dict[str, object]:
    try:
        path = Path(file)
        # A pipe would be waited for.
        if path.exists() and not path.is_file():
            raise ConfigError(f"settings file {file}: no regular file")
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"settings file {file}: larger than {_MAX_BYTES >> 20} MiB")
        text = path.read_text(encoding="utf-8-sig")
        tree = tomllib.loads(text) if file.endswith(".toml") else _load_yaml(text)
    except RecursionError:
        raise ConfigError(f"settings file {file}: nested too deep") from None
    except (OSError, ValueError, OverflowError, yaml.YAMLError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"settings file {file}: {reason}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"settings file {file}: expected a table of settings, got {type(tree).__name__}")
    return tree


def _load_yaml(text: str) -> object:
    """The value of a text of YAML.

    Raises:
        ValueError: It is nested too deep, or its aliases repeat it without bound.
        yaml.YAMLError: It is none.
    """
    depth = 0
    for bracket in _BRACKET.findall(text):
        depth += 1 if bracket in "[{" else -1
        if depth > _MAX_DEPTH:
            # The parser's time grows with the square of the depth.
            raise ValueError("nested too deep")
    tree = yaml.safe_load(text)
    if "*" in text:
        _count_values(tree, {}, set())
    return tree


def _count_values(value: object, counts: dict[int, int], above: set[int]) -> int:
    """The number of values in a tree whose aliases are written out.

    Raises:
        ValueError: There are too many, or one holds itself.
    """
    if not isinstance(value, dict | list):
        return 1
    key = id(value)
    if key in above:
        raise ValueError("an alias stands within what it repeats")
    if key not in counts:
        above.add(key)
        inner = value.values() if isinstance(value, dict) else value
        counts[key] = 1 + sum(_count_values(each, counts, above) for each in inner)
        above.remove(key)
    if counts[key] > _MAX_VALUES:
        raise ValueError(f"its aliases make more than {_MAX_VALUES:,} values")
    return counts[key]


def _put(tree: dict[str, object], name: str, value: object) -> None:
    *parents, last = name.split(".")
    for parent in parents:
        group = tree.setdefault(parent, {})
        if not isinstance(group, dict):
            raise ConfigError(f"setting {name!r}: {parent!r} is a value, not a group of settings")
        tree = group
    tree[last] = value


def _explain(schema: type[BaseModel], error: ValidationError) -> str:
    """The first few problems in one line, each with the name as it is typed after ``--set``."""
    problems = []
    for problem in error.errors()[:3]:
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, setting_names(schema), n=3, cutoff=0.5)
            hint = (
                f"did you mean {', '.join(near)}?" if near else "see --help and the README for the settings"
            )
            problems.append(f"unknown setting {name!r}: {hint}")
        elif problem["type"] == "missing":
            problems.append(f"setting {name!r} is needed")
        else:
            got = repr(problem["input"])
            # The value of a whole group is left out, as it would fill the screen, and whatever may hold a
            # secret: of a provider's fields, and anything like a URL, as a malformed one may hold a password
            # anywhere.
            is_open = not any(group in problem["loc"] for group in _FREE_VALUES)
            is_shown = is_open and len(got) <= _SHOWN_CHARS and not any(mark in got for mark in ("://", "@"))
            got = f", got {got}" if is_shown else ""
            problems.append(f"setting {name!r}: {problem['msg'].removeprefix('Value error, ')}{got}")
    return "; ".join(problems)


def setting_names(schema: type[BaseModel], prefix: str = "") -> list[str]:
    """All dotted names of a schema."""
    names = []
    for name, info in schema.model_fields.items():
        nested = info.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            names += setting_names(nested, f"{prefix}{name}.")
        else:
            names.append(f"{prefix}{name}")
    return names


def public_settings(settings: Settings) -> dict[str, object]:
    """Settings as plain values for files and terminals, without secrets."""
    return hide_secrets(settings.model_dump(mode="json"))


def toml_string(text: str) -> str:
    """A text as a basic string of TOML."""
    # A string of JSON is one of TOML, but for the one character that TOML wants escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_comment(text: str) -> str:
    """A text of somebody else's as one line of a comment."""
    return "".join(char if char.isprintable() else " " for char in text)
