"""The command that ends an image's build, on all that training imports, with one library that is broken."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.very_long
def test_the_command_fails_for_a_broken_library(tmp_path: Path):
    library = tmp_path / "torchao" / "__init__.py"
    library.parent.mkdir()
    library.write_text("raise OSError('libcudart.so.13: cannot open shared object file')")
    done = subprocess.run(
        [sys.executable, "-m", "safe_r1.selfcheck", "--role", "training"],
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "FAILED" in line]
    assert "FAILED  torchao." in line
    assert ": OSError: libcudart.so.13: cannot open shared object file; imported by safe_r1.train." in line
