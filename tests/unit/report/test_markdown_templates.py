"""Markdown templates: what a value is escaped to leaves no blank, so that none may stand in a literal."""

import re
from importlib import resources
from pathlib import Path

import pytest

from safe_r1.evaluation.publish import rewrite_report
from tests.unit.compare.runs import refusal_samples, write_run

TEMPLATES = {
    each.name: each.read_text("utf-8")
    for each in (resources.files("safe_r1.report") / "templates").iterdir()
    if each.name.endswith(".md.jinja")
}
# What is between the parts of a value is escaped with it as one text.
_JOIN = re.compile(r'join\("[^"]*"\)')
_EXPRESSION = re.compile(r"{{(.*?)}}", re.DOTALL)
_LITERAL = re.compile(r'"([^"]*)"')


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_literal_of_an_expression_loses_what_it_is_for(name: str):
    for expression in _EXPRESSION.findall(_JOIN.sub("", TEMPLATES[name])):
        for literal in _LITERAL.findall(expression):
            # Escaping strips blanks ("x" + " *" became "x\\*"), and makes markup plain text.
            assert literal == literal.strip(), expression
            assert not re.search(r"[\\`*_\[\]|~<>&$]", literal), expression


def test_an_area_without_an_english_name_is_no_empty_emphasis(tmp_path: Path):
    run = write_run(tmp_path, "m", "asked", samples=refusal_samples(8))
    rewrite_report(str(run))
    markdown = (run / "report.md").read_text("utf-8")
    assert "| **area** | " in markdown
    assert "****" not in markdown
