"""Programs of models against their clocks, their memory and their verdict; needs a machine with a sandbox."""

from dataclasses import replace

import pytest

from safe_r1.errors import SandboxError
from safe_r1.sandbox.container import Limits, check_sandbox, run_calls, run_program
from tests.attacks.programs import ATTACKS, CLOCKS, MEMORY

# Wall time is far above what the tests take, since other work may run beside them.
LIMITS = Limits(wall_s=600.0, cpu_s=1, memory_mib=256, output_kib=64, file_mib=4)
FORGERIES = ("fake errors", "every exit code", "a pair of sockets")


@pytest.fixture(autouse=True)
def _contained() -> None:
    try:
        check_sandbox()
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", CLOCKS)
def test_no_clock_is_switched_off(name: str) -> None:
    limits = replace(LIMITS, wall_s=1.0) if name == "stopped" else LIMITS
    outcome = run_program(CLOCKS[name], "", limits)
    assert (outcome.status, outcome.stdout) == ("timeout", "")
    assert outcome.wall_s < LIMITS.wall_s


@pytest.mark.parametrize("name", MEMORY)
def test_memory_counts_in_all(name: str) -> None:
    assert run_program(MEMORY[name], "", LIMITS).status == "memory"


def test_memory_that_children_share_counts_once() -> None:
    source = """
import os, time
held = b"x" * (100 << 20)
for _ in range(3):
    if os.fork() == 0:
        time.sleep(0.5)
        os._exit(0)
for _ in range(3):
    os.wait()
"""
    assert run_program(source, "", LIMITS).status == "ok"


@pytest.mark.parametrize("name", FORGERIES)
def test_no_verdict_is_forged(name: str) -> None:
    outcome = run_program(ATTACKS[name], "", LIMITS)
    assert outcome.status == "failed"
    assert "escaped" not in outcome.stdout


ANSWER_CALLS = """
import json, sys, time
print(flush=True)
for number, line in enumerate(sys.stdin):
    text = json.loads(line)
    if text == "burn":
        while True: pass
    if text == "sleep":
        time.sleep(60)
    print(number, len(text), flush=True)
"""


@pytest.mark.parametrize("stop", ["burn", "sleep"])
def test_each_call_has_its_own_clock(stop: str) -> None:
    whole = replace(LIMITS, cpu_s=60)
    one = replace(LIMITS, wall_s=5.0) if stop == "sleep" else LIMITS
    outcome = run_calls(ANSWER_CALLS, ["a" * 200_000, "b", stop, "c"], whole, one)
    assert (outcome.status, outcome.stdout) == ("timeout", "\n0 200000\n1 1\n")
    assert outcome.wall_s < LIMITS.wall_s


def test_lines_before_a_call_buy_no_time() -> None:
    source = "print('x\\n' * 9, flush=True)\nwhile True: pass"
    outcome = run_calls(source, ["a", "b"], replace(LIMITS, cpu_s=60), LIMITS)
    assert outcome.status == "timeout"
    assert outcome.wall_s < LIMITS.wall_s
