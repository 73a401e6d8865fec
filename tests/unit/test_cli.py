"""The command `safe-r1`: quick to start, jobs with the options of their scripts, old flags with a warning."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from safe_r1 import __version__
from safe_r1.cli import JOBS, app
from tests.unit.compare.runs import write_run

HEAVY = {"ray", "torch", "vllm", "transformers", "pyarrow", "pydantic", "numpy"}


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), prog_name="safe-r1")
    assert result.exit_code == 0, result.output
    return result.output


def test_version():
    assert run("--version") == f"safe-r1 {__version__}\n"


def test_help_lists_all_commands_and_imports_no_heavy_library():
    code = (
        "import contextlib, sys\n"
        "from safe_r1.cli import main\n"
        "sys.argv = ['safe-r1', '--help']\n"
        "with contextlib.suppress(SystemExit):\n"
        "    main()\n"
        f"print(sorted({HEAVY} & set(sys.modules)), 'ray_jobs' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[] False"
    assert all(name in output for name in (*JOBS, "models", "fetch", "plan", "report", "compare", "status"))


@pytest.mark.parametrize("name", JOBS)
def test_a_job_has_the_help_of_its_script(name: str):
    module, summary = JOBS[name]
    script = importlib.import_module(module)
    of_script = CliRunner().invoke(script.app, ["--help"], prog_name="script.py").output.splitlines()
    of_command = run(name, "--help").splitlines()
    assert f"Usage: safe-r1 {name}" in "\n".join(of_command)
    assert [line for line in of_command if "Usage:" not in line] == [
        line for line in of_script if "Usage:" not in line
    ]
    assert script.main.__doc__.splitlines()[0] == summary


@pytest.mark.slow
def test_a_job_has_the_exit_codes_of_its_script(tmp_path: Path):
    script = Path(__file__).parents[2] / "ray_jobs" / "evaluate.py"
    refused = ["--variant", "demo", "--set", "no.such=1", "--dry-run"]
    for arguments, code in ((refused, 2), (["--no-such-flag"], 2)):
        for command in ([str(script)], ["-m", "safe_r1.cli", "evaluate"]):
            result = subprocess.run(
                [sys.executable, *command, *arguments], capture_output=True, text=True, check=False
            )
            assert result.returncode == code, result
            assert ("unknown setting" in result.stdout) == (arguments is refused)


def test_fetch_names_the_benchmarks_that_can_be_downloaded():
    result = CliRunner().invoke(app, ["fetch", "no-such"])
    assert "cannot fetch 'no-such': known are chisafetybench, " in str(result.exception)
    assert "gsm8k" in str(result.exception)
    assert "sample" not in str(result.exception)
    assert not result.output


@pytest.mark.slow
def test_allow_works_with_a_warning(tmp_path: Path):
    write_run(tmp_path / "runs", "a", "math-500")
    write_run(tmp_path / "runs", "b", "math-500", temperature=0.0)
    arguments = ["compare", str(tmp_path / "runs"), "--baseline", "a", "--output", str(tmp_path / "report")]
    result = CliRunner().invoke(app, [*arguments, "--allow"])
    assert result.exit_code == 0, result.output
    assert "--allow is now --allow-mismatch" in result.stderr
    assert "mismatch: math-500: generation of b is [temperature 0.0" in result.stdout
    assert not CliRunner().invoke(app, [*arguments, "--allow-mismatch"]).stderr
    assert "--allow " not in run("compare", "--help")
