"""What errors and help texts of fine-tuning say: settings that exist, and words first."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

import safe_r1.train
from safe_r1.train.config import FinetuneConfig

FILES = sorted(Path(str(safe_r1.train.__file__)).parent.glob("*.py"))
GROUPS = {
    name: field.default
    for name, field in FinetuneConfig.model_fields.items()
    if isinstance(field.default, BaseModel)
}
SETTING = re.compile(rf"\b({'|'.join([*GROUPS, 'lora'])})\.([a-z][a-z0-9_]*)\b(?!\()")


def texts(file: Path) -> Iterator[str]:
    """String literals that users may read: no docstrings, no type annotations."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    documented = [
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node)
        if isinstance(node.body[0], ast.Expr)
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in documented:
            yield node.value


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_settings_that_are_named_exist(file: Path):
    for text in texts(file):
        for group, name in SETTING.findall(text):
            fields = type(GROUPS[group]).model_fields if group in GROUPS else {"rank", "alpha"}
            assert name in fields or name == "py", f"{file.name}: {group}.{name} in {text!r}"


def test_the_check_sees_a_setting_that_does_not_exist():
    assert SETTING.findall("raise optimizer.learning_rate") == [("optimizer", "learning_rate")]
    assert "learning_rate" not in type(GROUPS["optimizer"]).model_fields


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_messages_of_errors_begin_with_a_name_or_a_word(file: Path):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    raised = [
        node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    ]
    for call in raised:
        for argument in call.args[:1]:
            first = argument.values[0] if isinstance(argument, ast.JoinedStr) else argument
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                assert re.match(r"[A-Za-z-]", first.value), f"{file.name}: {first.value!r}"
