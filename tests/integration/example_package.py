"""What other packages add: a package of the examples of ``safe_r1/README.md``, taken out of it."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
_README = (REPOSITORY / "safe_r1" / "README.md").read_text(encoding="utf-8")
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (?:an entry of \w+ in )?(\S+\.(?:py|toml))\n")


@dataclass(frozen=True)
class ExamplePackage:
    """A temporary package with a benchmark and a judge, and how commands find it.

    Attributes:
        folder: Where it is installed.
        env: Environment of a command that finds it.
    """

    folder: Path
    env: dict[str, str]

    def run(self, *argv: str, code: int = 0) -> str:
        """What a command of this Python prints."""
        done = subprocess.run(
            [sys.executable, *argv],
            cwd=REPOSITORY,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout


def write_package(folder: Path) -> ExamplePackage:
    """Install the examples in a folder."""
    (folder / "my_safety").mkdir()
    (folder / "my_safety" / "__init__.py").touch()
    for name in ("rumours.py", "keywords.py"):
        (folder / "my_safety" / name).write_text(example(f"my_safety/{name}"), encoding="utf-8")
    info = folder / "my_safety-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-safety\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(_entry_points(), encoding="utf-8")
    return ExamplePackage(
        folder, os.environ | {"PYTHONPATH": f"{REPOSITORY}:{folder}", "RAY_ADDRESS": "local"}
    )


def example(name: str) -> str:
    """The block of the README that begins with a comment naming this file."""
    for _, text in _BLOCK.findall(_README):
        if (found := _FILE.match(text)) and found[1] == name:
            return text
    raise AssertionError(f"safe_r1/README.md has no example {name}")


def _entry_points() -> str:
    """The entry points of the README's pyproject.toml, as an installed package has them."""
    text = next(text for kind, text in _BLOCK.findall(_README) if kind == "toml" and "entry-points" in text)
    return re.sub(r'\[project\.entry-points\."(.+)"\]', r"[\1]", text).replace('"', "")
