"""A judged run for the tests of labels and corrections."""

from pathlib import Path

import pytest

from tests.unit.calibration.judged_runs import refusal_rows, write_judged_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Folder of a finished run with 200 judged answers."""
    return write_judged_run(tmp_path / "runs", refusal_rows())
