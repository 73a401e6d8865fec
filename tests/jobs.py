"""Job scripts run in the test's own process: for what ends before anything is started, where imports of a new
process would take ten times as long as the rest.
"""

import pytest
import typer


def run_here(app: typer.Typer, arguments: list[str], capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code of a job, and what it printed on its terminal."""
    capfd.readouterr()
    code = 0
    try:
        app(arguments, standalone_mode=False)
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    printed = capfd.readouterr()
    # Not on the other stream, where a Ray that earlier tests started prints what its workers meet.
    assert "Traceback" not in printed.out
    return code, printed.out
