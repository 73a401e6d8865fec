"""One unit of ``--margin``: percentage points, and the fraction of earlier versions is told from them."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from safe_r1.cli import app
from safe_r1.compare.margin import read_margin
from safe_r1.errors import ConfigError
from tests.unit.compare.runs import write_run


@pytest.mark.parametrize(
    ("text", "points"),
    [("3", 3), ("3pp", 3), (" 2.5 ", 2.5), ("0.5pp", 0.5), ("0", 0), ("1", 1), ("0pp", 0), ("99.9", 99.9)],
)
def test_points(text: str, points: float):
    assert read_margin(text) == points


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0.03", "give 3; if it is less than one point, give 0.03pp"),
        ("0.5", "give 50; if it is less than one point, give 0.5pp"),
        ("-1", "expected percentage points"),
        ("100", "expected percentage points"),
        ("nan", "expected percentage points"),
        ("inf", "expected percentage points"),
        ("3%", "expected percentage points"),
        ("three", "expected percentage points"),
        ("", "expected percentage points"),
    ],
)
def test_what_is_no_number_of_points_or_could_be_a_fraction(text: str, told: str):
    with pytest.raises(ConfigError, match=told):
        read_margin(text)


@pytest.mark.slow
def test_both_commands_take_the_same_unit(tmp_path: Path):
    for variant in ("a", "b"):
        write_run(tmp_path / "runs", variant, "math-500")
    main = tmp_path / "runs" / "main"
    commands = (
        ["compare", str(main), "--baseline", "a", "--output", str(tmp_path / "report")],
        ["gate", str(main / "b"), "--no-regression", str(main / "a")],
    )
    for command in commands:
        done = CliRunner().invoke(app, [*command, "--margin", "4"])
        assert not isinstance(done.exception, ConfigError), done.exception
        old = CliRunner().invoke(app, [*command, "--margin", "0.04"])
        assert "give 4;" in str(old.exception)
    assert "with a margin of 4 points" in (tmp_path / "report" / "report.md").read_text("utf-8")
    gated = CliRunner().invoke(app, [*commands[1], "--margin", "0.5pp"])
    assert "0.5" in gated.output
