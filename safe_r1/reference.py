"""Writes ``ray_jobs/README.md``: every flag of every job and every setting, from their definitions.

``python -m safe_r1.reference`` writes the page; a test compares it with the definitions.
"""

import importlib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Union, get_args, get_origin

import typer
import typer.main
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from safe_r1.benchmarks import evaluate_schema
from safe_r1.campaign.recipe import CampaignRecipe
from safe_r1.cli import JOBS
from safe_r1.corpus.recipe import CorpusRecipe
from safe_r1.evaluation.rejudge import RejudgeConfig
from safe_r1.serve.config import ServeConfig
from safe_r1.train.config import FinetuneConfig

PAGE = Path(__file__).parents[1] / "ray_jobs" / "README.md"

_INTRODUCTION = """# The jobs: every flag and every setting

<!-- Written by `python -m safe_r1.reference` from the definitions; do not edit. -->

Each script is an entry point of `ray job submit` and, as `safe-r1 NAME`, a command. `--set NAME=VALUE`
changes any setting below (values are read as YAML), except that a campaign takes its settings from its recipe
alone. `--config FILE` of evaluate, finetune and serve reads a TOML or YAML file of settings; build-corpus and
campaign take such a file as `--recipe`. A flag takes precedence over `--set`, and `--set` over the file.
Unknown names are refused with the nearest known ones.

Exit codes: 0 done, 1 unexpected error, 2 something a user can correct (one line says what), 3 a machine was
lost or never came and the same command resumes, or too few rows have a label for a result (one line says what
helps; all rows are kept), 130 and 143 stopped.
"""


def render() -> str:
    """The whole page as Markdown."""
    schemas: dict[str, tuple[str, type[BaseModel]]] = {
        "evaluate": ("Settings", evaluate_schema()),
        "rejudge": ("Settings", RejudgeConfig),
        "build-corpus": ("Fields of a recipe, and settings", CorpusRecipe),
        "finetune": ("Settings", FinetuneConfig),
        "serve": ("Settings", ServeConfig),
        "campaign": ("Fields of a recipe", CampaignRecipe),
    }
    parts = [_INTRODUCTION]
    for command, (module, summary) in JOBS.items():
        title, schema = schemas[command]
        script = f"{module.replace('.', '/')}.py"
        parts.append(f"## {command}\n\n`python {script}` or `safe-r1 {command}`: {summary}\n")
        parts.append(_table(("flag", "meaning"), _flags(module)))
        parts.append(f"### {title} of {command}\n")
        parts.append(_table(("name", "type", "default", "meaning"), _settings(schema)))
    return "\n".join(parts)


def _flags(module: str) -> Iterator[tuple[str, ...]]:
    command = typer.main.get_command(importlib.import_module(module).app)
    for parameter in command.params:
        if parameter.name != "help":
            names = ", ".join(f"`{name}`" for name in parameter.opts)
            needed = " Required." if parameter.required else ""
            yield names, f"{getattr(parameter, 'help', '') or ''}{needed}"


def _settings(schema: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, ...]]:
    """Name, type, default and description of every field; fields of lists and tables under ``NAME[]``."""
    for name, info in schema.model_fields.items():
        nested, mark = _nested(info.annotation)
        if nested is not None and mark == "":
            yield from _settings(nested, f"{prefix}{name}.")
            continue
        yield f"`{prefix}{name}`", _type(info.annotation), _default(info), info.description or ""
        if nested is not None:
            yield from _settings(nested, f"{prefix}{name}{mark.rstrip('.')}.")


def _nested(annotation: object) -> tuple[type[BaseModel] | None, str]:
    """The group of settings in an annotation, and how its members are reached."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    origin = get_origin(annotation)
    for argument in get_args(annotation):
        if isinstance(argument, type) and issubclass(argument, BaseModel):
            return argument, ".NAME" if origin is dict else "[]" if origin is tuple else "."
    return None, ""


def _type(annotation: object) -> str:
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(each) for each in arguments if each is not type(None))
    if origin is dict:
        return "table"
    if origin in (tuple, list):
        inner = [each for each in arguments if each is not Ellipsis]
        return f"list of {_type(inner[0])}" if inner else "list"
    names = {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}
    name = getattr(annotation, "__name__", str(annotation))
    return names.get(name, "table" if isinstance(annotation, type) else name)


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined:
        return ""
    if isinstance(value, (tuple, list)):
        value = list(value)
    return f"`{value}`" if value not in ("", [], {}) else "empty"


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    escaped = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in escaped)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
