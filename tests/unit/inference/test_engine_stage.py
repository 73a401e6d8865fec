"""How an engine's process ends whose core process ends while it starts."""

import subprocess
import sys
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

pytest.importorskip("vllm")

from safe_r1.inference.engine_stage import was_killed

pytestmark = pytest.mark.slow


def failed_start(codes: Sequence[int | None]) -> BaseException:
    """The error of a start, raised as vLLM does, beside core processes with these exit codes."""

    def wait_for_engine_startup(launch: SimpleNamespace) -> None:
        raise RuntimeError(
            f"Engine core initialization failed. Failed core proc(s): {{}} {len(vars(launch))}"
        )

    processes = [SimpleNamespace(exitcode=code) for code in codes]
    try:
        wait_for_engine_startup(SimpleNamespace(engine_manager=SimpleNamespace(processes=processes)))
    except RuntimeError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("codes", "killed"),
    [
        ([-9], True),
        ([1], False),
        ([-15], False),
        ([-9, None], True),
        ([1, -9], False),
        ([None], False),
        ([], False),
    ],
)
def test_a_core_process_that_was_killed_is_no_error_of_the_settings(codes: list[int | None], killed: bool):
    assert was_killed(failed_start(codes)) is killed


def test_the_start_of_vllm_has_what_is_looked_for():
    # Its own source, as the names are no interface.
    code = (
        "import inspect; from vllm.v1.engine import utils; "
        "found = inspect.signature(utils.wait_for_engine_startup).parameters; "
        "assert 'launch' in found, found; "
        "assert 'engine_manager' in utils.CoreEngineLaunch.__dataclass_fields__; "
        "assert 'self.processes' in inspect.getsource(utils.CoreEngineProcManager)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, timeout=300)
