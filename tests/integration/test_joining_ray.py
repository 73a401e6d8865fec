"""Jobs beside a Ray that runs on this machine, and beside the address of one that died without `ray stop`.

Each Ray has a folder of its own (`RAY_TMPDIR`), which holds its address: others on this machine neither join
it nor are joined.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.serving import ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
REPOSITORY = Path(__file__).parents[2]
RAY = Path(sys.executable).parent / "ray"
JOB_TIMEOUT_S = 900
# More than any machine has: the job ends as soon as it has connected and looks at the memory.
TOO_LARGE = ("--benchmark", "chisafetybench-sample", "--set", "engine.cpu_kv_cache_gib=100000")

RECIPE = """
name = "one-corpus"
[groups.local]
max_nodes = 1
[stages.corpus]
job = "corpus"
group = "local"
flags = { recipe = "seeds" }
"""


@dataclass(frozen=True)
class Head:
    """A Ray of `ray start --head`.

    Attributes:
        folder: Its `RAY_TMPDIR`.
        num_cpus: Its logical CPUs.
    """

    folder: Path
    num_cpus: int

    @property
    def address(self) -> str:
        return (self.folder / "ray" / "ray_current_cluster").read_text("utf-8")

    def environment(self, **changes: str) -> dict[str, str]:
        """That of a user on this machine who has set nothing, and `changes`."""
        inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        return inherited | {"RAY_TMPDIR": str(self.folder)} | changes

    def start(self) -> None:
        dashboard, metrics, client = ports(3)
        flags = {
            "port": 0,
            "num-cpus": self.num_cpus,
            "dashboard-port": dashboard,
            "dashboard-agent-listen-port": 0,
            "metrics-export-port": metrics,
            "ray-client-server-port": client,
        }
        command = [RAY, "start", "--head", *(f"--{name}={value}" for name, value in flags.items())]
        done = subprocess.run(
            command, env=self.environment(), cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def kill(self) -> None:
        """Kill each of its processes as the kernel does where memory runs out; its address stays behind."""
        own = [
            process
            for process in psutil.process_iter(["cmdline"])
            if any(str(self.folder) in word for word in process.info["cmdline"] or ())
        ]
        for process in own:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(own, timeout=30)


@contextlib.contextmanager
def running_head(num_cpus: int) -> Iterator[Head]:
    # Below /tmp, as the path of a socket has at most 107 bytes.
    head = Head(Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp")), num_cpus)
    try:
        head.start()
        yield head
    finally:
        head.kill()
        shutil.rmtree(head.folder, ignore_errors=True)


def run(head: Head, job: str, *flags: object, **environment: str) -> tuple[int, list[str]]:
    """Exit code and lines of a job."""
    done = subprocess.run(
        [sys.executable, f"ray_jobs/{job}.py", *map(str, flags)],
        env=head.environment(**environment),
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        timeout=JOB_TIMEOUT_S,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()


def serve(head: Head) -> list[str]:
    """Lines of a service that is stopped as soon as it is ready."""
    [port] = ports(1)
    command = [sys.executable, "ray_jobs/serve.py", "--judge", "lexicon", "--port", str(port)]
    process = subprocess.Popen(
        command, env=head.environment(), cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if "ready on" in line:
                process.send_signal(signal.SIGINT)
        assert process.wait(JOB_TIMEOUT_S) == 0, lines
        return lines
    finally:
        process.kill()


def side_by_side(*jobs: Callable[[], None]) -> None:
    """Run the jobs at the same time: each spends most of its time on imports, on one core."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        for running in [pool.submit(job) for job in jobs]:
            running.result()


def check_jobs(head: Head, model: Path, folder: Path, corpus: Path, first_line: str) -> None:
    """Evaluation, corpus, fine-tuning and serving start, and their first line is this one."""

    def evaluation() -> None:
        code, lines = run(head, "evaluate", "--variant", model, *TOO_LARGE, "--output", folder / "runs")
        assert (code, lines[0]) == (2, first_line), lines
        assert "GiB of memory on CPU" in lines[-1]

    def build() -> None:
        code, lines = run(head, "build_corpus", "--recipe", "seeds", "--output", corpus)
        assert (code, lines[0]) == (0, first_line), lines

    def fine_tuning() -> None:
        flags = ("--corpus", corpus, "--output", folder / "finetuned", "--set", "pack.seq_len=512")
        code, lines = run(head, "finetune", "--variant", model, *flags, "--dry-run")
        assert (code, lines[0]) == (0, first_line), lines

    def service() -> None:
        assert serve(head)[0] == first_line

    side_by_side(evaluation, build)
    side_by_side(fine_tuning, service)


@pytest.mark.very_long
def test_jobs_beside_a_ray_that_runs_and_then_dies(tiny_qwen2: Path, tmp_path: Path):
    with running_head(16) as head:
        address = head.address
        joined = f"ray: joined the Ray at {address}: 1 node, 0 GPUs, 16 CPUs"
        check_jobs(head, tiny_qwen2, tmp_path, tmp_path / "campaign" / "corpus", joined)
        recipe = tmp_path / "one.toml"
        recipe.write_text(RECIPE, "utf-8")

        def campaign() -> None:
            code, lines = run(head, "campaign", "--recipe", recipe, "--output", tmp_path / "campaign")
            assert (code, lines[0]) == (0, joined), lines
            assert "campaign: corpus: done" in lines

        def build_in_its_own_ray() -> None:
            """The same command starts a Ray of its own where the user says so."""
            corpus = ("--recipe", "seeds", "--output", tmp_path / "another-corpus")
            code, lines = run(head, "build_corpus", *corpus, RAY_ADDRESS="local")
            assert code == 0
            assert not any("joined" in line or address in line for line in lines), lines

        side_by_side(campaign, build_in_its_own_ray)

        head.kill()
        assert head.address == address
        dead = f"ray: the Ray at {address} died without `ray stop`; a local one is started"
        check_jobs(head, tiny_qwen2, tmp_path, tmp_path / "third-corpus", dead)


def test_a_ray_with_too_few_cpus_is_refused_in_one_line(tiny_qwen2: Path, tmp_path: Path):
    with running_head(2) as head:
        code, lines = run(
            head, "evaluate", "--variant", tiny_qwen2, *TOO_LARGE, "--output", tmp_path / "runs"
        )
        assert code == 2
        assert "has 2 logical CPUs and this job needs 8 at the same time" in lines[-1], lines
        assert "--num-cpus=8" in lines[-1]
