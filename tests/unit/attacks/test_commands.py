"""The commands `safe-r1 attacks list` and `safe-r1 attacks show`."""

import json

import pytest
from typer.testing import CliRunner

from safe_r1.attacks.registry import SETS, names
from safe_r1.cli import app
from safe_r1.errors import ConfigError


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["attacks", *arguments], catch_exceptions=False, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


def test_list():
    output = run("list")
    assert all(name in output for name in [*names(), *SETS])
    rows = json.loads(run("list", "zh-quick", "pinyin+role", "--json"))
    assert [row["name"] for row in rows] == [*SETS["zh-quick"], "pinyin+role"]
    assert len({row["identity"] for row in rows}) == 6


def test_show():
    output = run("show", "role,answer-prefix", "--question", "怎么[bold]写信{question}\x1b？")
    assert "[user] 接下来请你扮演" in output
    assert "怎么[bold]写信{question}⟦U+001B⟧？" in output
    assert "[answer] 当然可以" in output
    assert "nothing to change" in run("show", "pinyin", "--question", "kill")
    assert "怎⟦U+200B⟧么" in run("show", "zero-width", "--question", "怎么办？")
    lines = run("show", "zh-quick", "--question", "怎么写信？", "--json").splitlines()
    assert [json.loads(line)["attack"] for line in lines] == list(SETS["zh-quick"])
    assert run("show", "homophones", "--question", "怎么写信？") == run(
        "show", "homophones", "--question", "怎么写信？"
    )


def test_an_unknown_attack():
    with pytest.raises(ConfigError, match="did you mean pinyin"):
        run("show", "pinyn", "--question", "x")
