"""Every command of the first page, typed by a stranger: a fresh shell, a fresh home, the repository's files
alone.

Not run: `make demo` and `make test`, which this test is part of (`make --dry-run` says that they are there),
and commands whose comment says what they need (the network, the runs of `make demo`): their flags are held
against the help text.
"""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from safe_r1.models.checkpoints import cache_folder

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINES = [
    line
    for block in BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip()
]
COPIED = ("Makefile", "pyproject.toml", "cluster", "ray_jobs", "safe_r1", "tests", ".venv", ".cache")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as a new user sees it; what commands write stays here."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in COPIED:
        if (ROOT / name).exists():
            (folder / name).symlink_to(ROOT / name)
    return folder


def run(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    env = {
        "HOME": str(folder),
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "SAFE_R1_CACHE": str(cache_folder()),
        # Nothing here may reach another Ray of this machine, or the network.
        **{name: os.environ[name] for name in ("RAY_ADDRESS", "HF_HUB_OFFLINE") if name in os.environ},
    }
    script = f"source .venv/bin/activate && {command}"
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, env=env, capture_output=True, text=True, timeout=900
    )


@pytest.mark.very_long
def test_commands_run_in_a_fresh_shell(folder: Path):
    """In the order of the page: later ones use what earlier ones wrote."""
    executed = []
    for line in LINES:
        command, _, comment = line.partition(" #")
        command = command.strip()
        if "needs" in comment or command.startswith(("make ", "source ")):
            continue
        done = run(folder, command)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        executed.append(command)
    assert len(executed) >= 10
    assert (folder / "runs/quick/main/demo/chisafetybench-sample/_SUCCESS").is_file()
    assert (folder / "runs/corpus/_SUCCESS").is_file()


@pytest.mark.parametrize("line", [line for line in LINES if "needs" in line.partition(" #")[2]])
def test_commands_that_need_more_have_their_flags(folder: Path, line: str):
    command = shlex.split(line, comments=True)
    words = [word for word in command if not word.startswith("-")]
    base = command[:2] if words[0] in ("safe-r1", "python") else command[:1]
    help_text = run(folder, f"COLUMNS=200 {shlex.join(base)} --help").stdout
    for flag in [word for word in command if word.startswith("--")]:
        assert flag in help_text, flag


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("make ")])
def test_make_has_its_targets(line: str):
    target = shlex.split(line, comments=True)[1]
    done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
