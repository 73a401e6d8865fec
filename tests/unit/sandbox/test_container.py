"""Attacks, each really run; what must not happen is looked for outside of the sandbox as well."""

import os
import platform
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from safe_r1.errors import SandboxError
from safe_r1.sandbox import child
from safe_r1.sandbox import container as sandbox
from safe_r1.sandbox.container import Limits, check_sandbox, run_program
from tests.attacks import programs as attacks

pytestmark = pytest.mark.slow

SMALL = Limits(wall_s=3.0, cpu_s=1, memory_mib=256, output_kib=64, file_mib=4)
BOUND_S = 12.0  # far above the limits, since other work may run beside the tests


@pytest.fixture(autouse=True)
def _contained() -> None:
    try:
        check_sandbox()
    except SandboxError as error:
        pytest.skip(str(error))


def marked_processes(marker: str) -> list[int]:
    """Processes of this machine with the marker among their arguments."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and marker.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def test_a_program_reads_its_input_and_prints() -> None:
    outcome = run_program("import sys\nfor line in sys.stdin: print(line.strip()[::-1])", "abc\n中文\n")
    assert (outcome.status, outcome.stdout, outcome.stderr_tail) == ("ok", "cba\n文中\n", "")
    assert 0 < outcome.wall_s < BOUND_S


def test_a_program_runs_as_main_with_a_folder_to_write_to() -> None:
    source = """
import os, tempfile, threading
with tempfile.TemporaryFile() as file:
    file.write(b"x")
thread = threading.Thread(target=lambda: print("thread"))
thread.start()
thread.join()
open("mine", "w").close()
print(__name__, os.getcwd(), "mine" in os.listdir())
"""
    # Something else lies in the folder where the interpreter itself is below /tmp.
    assert run_program(source, "").stdout == "thread\n__main__ /tmp True\n"


def test_installed_packages_can_be_used() -> None:
    assert run_program("import numpy; print(numpy.arange(4).sum())", "").stdout == "6\n"


@pytest.mark.parametrize("name", attacks.ATTACKS)
def test_an_attack_is_contained(name: str) -> None:
    start = time.monotonic()
    outcome = run_program(attacks.ATTACKS[name], "", SMALL)
    assert time.monotonic() - start < BOUND_S
    assert outcome.status != "ok"
    assert "escaped" not in outcome.stdout
    assert len(outcome.stdout) <= SMALL.output_kib * 1024


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("endless loop", "timeout"),
        ("sleep", "timeout"),
        ("sleep without pipes", "timeout"),
        ("huge output", "output"),
        ("huge errors", "output"),
        ("memory hog", "memory"),
        ("huge file", "failed"),
    ],
)
def test_the_limit_that_was_met_is_named(name: str, status: str) -> None:
    limits = Limits(wall_s=2.0, cpu_s=1, memory_mib=256, output_kib=64, file_mib=4)
    assert run_program(attacks.ATTACKS[name], "", limits).status == status


def test_a_crash_is_told_with_its_error() -> None:
    outcome = run_program("print('before')\nraise ValueError('MemoryError')", "")
    assert (outcome.status, outcome.stdout) == ("failed", "before\n")
    assert outcome.stderr_tail.endswith("ValueError: MemoryError\n")


def test_no_process_outlives_the_program() -> None:
    marker = f"marker-{os.getpid()}-{time.monotonic_ns()}"
    source = f"""
import os, sys
for _ in range(2):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 64)
            os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(10000)", {marker!r}])
        os._exit(0)
import time
time.sleep(0.5)
"""
    assert run_program(source, "", Limits(num_processes=8)).status == "ok"
    assert marked_processes(marker) == []


def test_nothing_outlives_a_killed_runner() -> None:
    marker = f"marker-{os.getpid()}-{time.monotonic_ns()}"
    sleep = "import time; time.sleep(99)"
    inner = f"import os, sys; os.execv(sys.executable, [sys.executable, '-c', {sleep!r}, {marker!r}])"
    runner = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"from safe_r1.sandbox.container import *; run_program({inner!r}, '', Limits(wall_s=99))",
            "--",
            marker,
        ],
        env={**os.environ, "PYTHONPATH": str(Path(sandbox.__file__).parents[2])},
    )
    try:
        deadline = time.monotonic() + BOUND_S
        while len(marked_processes(marker)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(marked_processes(marker)) == 2
    finally:
        runner.kill()
        runner.wait()
    deadline = time.monotonic() + BOUND_S
    while marked_processes(marker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert marked_processes(marker) == []


def test_nothing_can_be_written_outside(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    places = [
        tmp_path / "written",
        Path("/tmp") / f"written-{os.getpid()}",
        Path("/usr/written"),
        Path(sys.prefix, "written"),
    ]
    source = f"""
import os
for place in {[str(place) for place in places] + ["/program.py", "/dev/null2", sandbox.__file__]}:
    try:
        with open(place, "w") as file:
            file.write("x")
        print("written", place)
    except OSError:
        pass
for folder in ("/", "/usr", {sys.prefix!r}):
    try:
        os.chmod(folder, 0o777)
        print("changed", folder)
    except OSError:
        pass
"""
    # Its own /tmp is the one place, and it is not the machine's.
    assert run_program(source, "").stdout == f"written {places[1]}\n"
    assert [place for place in places if place.exists()] == []


def test_files_of_the_runner_cannot_be_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret", "utf-8")
    tmp_path.chmod(0o777)
    secret.chmod(0o666)
    source = (
        attacks.TRY
        + f"""
import glob, os
system = ("/etc/passwd", "/etc/shadow", "/proc/self/environ", "/sys/kernel")
for place in ({str(secret)!r}, {sandbox.__file__!r}, *system):
    attempt(lambda: open(place).read())
    os.path.lexists("/tmp/link") and os.unlink("/tmp/link")
    os.symlink("../" * 20 + place, "/tmp/link")
    attempt(lambda: open("/tmp/link").read())
    attempt(lambda: os.link(place, "/tmp/hard"))
attempt(lambda: os.listdir({str(tmp_path)!r}))
attempt(lambda: open("/dev/stdin").read())
for number in range(3, 64):
    attempt(lambda: os.fstat(number))
print(sorted(os.listdir("/")))
"""
    )
    outcome = run_program(source, "")
    assert outcome.status == "ok", outcome.stderr_tail
    assert "escaped" not in outcome.stdout
    assert "home" not in outcome.stdout


def test_the_environment_of_the_runner_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFE_R1_TEST_MARKER", "the-marker")
    source = """
import ctypes, glob, os
print(os.environ, os.environb)
processes = (1, os.getpid(), os.getppid(), "self")
for place in glob.glob("/proc/*/environ") + [f"/proc/{pid}/environ" for pid in processes]:
    try:
        print(open(place).read())
    except OSError:
        pass
print(os.getpid() < 10, os.getppid())
libc = ctypes.CDLL(None, use_errno=True)
print(libc.ptrace(16, 1, 0, 0))
"""
    outcome = run_program(source, "")
    assert outcome.status == "ok", outcome.stderr_tail
    assert "the-marker" not in outcome.stdout
    assert "MARKER" not in outcome.stdout
    assert outcome.stdout.endswith("True 1\n-1\n")


def test_no_socket_reaches_anything() -> None:
    accepted = []
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        name = f"\0safe-r1-{os.getpid()}"
        local.bind(name)
        local.listen()
        for listening in (server, local):
            listening.settimeout(4.0)
            threading.Thread(target=lambda s=listening: accepted.append(_accept(s)), daemon=True).start()
        source = (
            attacks.TRY
            + f"""
import socket
def reach(family, address):
    with socket.socket(family) as client:
        client.settimeout(1)
        client.connect(address)
    return address
attempt(lambda: reach(socket.AF_INET, ("127.0.0.1", {server.getsockname()[1]})))
attempt(lambda: reach(socket.AF_UNIX, {name!r}))
attempt(lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM))
attempt(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
attempt(lambda: socket.getaddrinfo("localhost.localdomain", 80))
"""
        )
        outcome = run_program(source, "")
        assert (outcome.status, outcome.stdout) == ("ok", ""), outcome.stderr_tail
        assert accepted == []


def _accept(listening: socket.socket) -> bool:
    try:
        listening.accept()
    except OSError:
        return False
    return True


def test_the_namespace_alone_cuts_the_network_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The filter of system calls is a second wall: without it, the first still stands."""
    outcome = _run_without_filter(
        monkeypatch,
        """
import socket
try:
    socket.create_connection(("127.0.0.1", 1), 1)
except OSError as error:
    print(error.errno)
import ctypes
print(ctypes.CDLL(None).unshare(0x10000000))
""",
    )
    assert outcome.stdout == "101\n-1\n", (
        outcome.stderr_tail
    )  # ENETUNREACH; no user namespace in a changed root


def _run_without_filter(monkeypatch: pytest.MonkeyPatch, source: str) -> sandbox.Outcome:
    text = Path(child.__file__).read_text("utf-8")
    assert text.count("        _refuse_calls(plan)\n") == 1
    with monkeypatch.context() as patch:
        number = os.memfd_create("child")
        os.write(number, text.replace("        _refuse_calls(plan)\n", "").encode())
        patch.setattr(child, "__file__", f"/proc/{os.getpid()}/fd/{number}")
        try:
            return run_program(source, "")
        finally:
            os.close(number)


def test_input_that_is_never_read_does_not_block() -> None:
    outcome = run_program("print('done')", "x" * (8 << 20), SMALL)
    assert (outcome.status, outcome.stdout) == ("ok", "done\n")


def test_input_cannot_be_changed() -> None:
    assert run_program("import os\nos.write(0, b'x')", "abc").status == "failed"


def test_output_that_is_no_text_is_replaced() -> None:
    outcome = run_program("import os\nos.write(1, b'a\\xff\\xfeb\\x00')", "")
    assert (outcome.status, outcome.stdout) == ("ok", "a\ufffd\ufffdb\x00")


def test_a_source_that_is_no_program_fails() -> None:
    assert run_program("def", "").status == "failed"
    assert run_program("\ud800 = '\x00'", "\ud800").status == "failed"


def test_a_machine_without_the_means_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(
        SandboxError, match=r"cannot be contained on linux riscv64; run on Linux 5\.14"
    ) as caught:
        check_sandbox.__wrapped__()
    assert "\n" not in str(caught.value)


def test_a_kernel_that_refuses_is_told_and_nothing_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refusing = tmp_path / "child.py"
    refusing.write_text(
        Path(child.__file__)
        .read_text("utf-8")
        .replace('_call("unshare", _NEW_NAMESPACES)', '_call("unshare", -1)'),
        "utf-8",
    )
    monkeypatch.setattr(child, "__file__", str(refusing))
    with pytest.raises(SandboxError, match=r"Invalid argument.*; run on Linux"):
        sandbox._run("print('run')", "", Limits())


def test_an_ordinary_user_contains_programs_too() -> None:
    if os.getuid() != 0:
        pytest.skip("the other tests run as an ordinary user already")
    root = str(Path(sandbox.__file__).parents[2])
    program = "import os; print(os.listdir('/tmp'))"
    script = f"from safe_r1.sandbox.container import *; print(run_program({program!r}, ''))"
    command = [sys.executable, "-c", script]
    settings: dict[str, Any] = {
        "user": 65534,
        "group": 65534,
        "extra_groups": [],
        "cwd": "/",
        "env": {"PYTHONPATH": root},
    }
    for interpreter in (sys.executable, "/usr/bin/python3"):
        command[0] = interpreter
        try:
            subprocess.run(
                [interpreter, "-c", "import safe_r1, sys; assert sys.version_info > (3, 11)"],
                check=True,
                **settings,
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        done = subprocess.run(command, capture_output=True, text=True, check=True, **settings)
        assert "status='ok', stdout='[]\\n'" in done.stdout
        return
    pytest.skip("no interpreter, or not this package, can be read by another user")
