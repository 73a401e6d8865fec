"""Evaluates a file of given answers, and measures time and memory from outside.

    python -m tests.scale.million_rows answers.csv --rows 200000

Writes the file where it is missing (see ``given_answers``), runs the job, and prints a row of the table in
``tests/bench/README.md``. Memory is sampled every second: the driver's resident size, and the proportional
set size of all processes of the job together.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.scale.given_answers import write_rows

REPOSITORY = Path(__file__).parents[2]
_INTERVAL_S = 1.0


@dataclass
class Peak:
    """The most memory seen, in GiB."""

    driver: float = 0.0
    together: float = 0.0

    def look(self, pid: int) -> None:
        """Sample a process and its descendants."""
        try:
            root = psutil.Process(pid)
            self.driver = max(self.driver, root.memory_info().rss / 2**30)
            family = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        self.together = max(self.together, sum(map(_pss_gib, family)))


def _pss_gib(process: psutil.Process) -> float:
    try:
        return process.memory_full_info().pss / 2**30
    except psutil.Error:
        return 0.0


def run(file: Path, output: Path) -> tuple[float, Peak]:
    """Evaluate a file; gives seconds and memory."""
    command = [sys.executable, "ray_jobs/evaluate.py", "--variant=given:other"]
    command += [f"--benchmark={file.resolve()}", f"--output={output.resolve()}"]
    peak = Peak()
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=REPOSITORY)
    while process.poll() is None:
        peak.look(process.pid)
        time.sleep(_INTERVAL_S)
    if process.returncode:
        raise SystemExit(process.returncode)
    return time.monotonic() - began, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, help="file of questions and answers, written where it is missing")
    parser.add_argument("--rows", type=int, default=100_000, help="number of rows (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="folder of the results (default: a temporary one)")
    given = parser.parse_args()
    if not given.file.exists():
        write_rows(given.file, given.rows, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        output = given.output or Path(folder)
        seconds, peak = run(given.file, output)
        num_files = sum(1 for path in output.rglob("*.parquet"))
    figures = f"{seconds:.0f} | {given.rows / seconds:,.0f} | {peak.driver:.2f} | {peak.together:.2f}"
    sys.stdout.write(f"| {given.rows:,} | {given.file.suffix[1:]} | {figures} | {num_files:,} |\n")


if __name__ == "__main__":
    main()
