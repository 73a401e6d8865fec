"""Results of models that cost more to compare than any answer is worth."""

import time

import pytest

from safe_r1.benchmarks.base import Score
from safe_r1.benchmarks.math_worker import MathWorker

COSTLY = [
    "9^{9^{9^{9}}}",
    "10^{10^{10}}!",
    r"\int_0^1 " + r"\sin(\cos(" * 40 + "x" + "))" * 40 + " dx",
    "(" * 5000 + "1" + ")" * 5000,
    r"\frac{1}{" * 2000 + "2" + "}" * 2000,
    "9" * 5000 + "^{" + "9" * 500 + "}",
]


@pytest.fixture(scope="module")
def worker():
    worker = MathWorker(limit_s=8.0)
    yield worker
    worker.close()


@pytest.mark.slow
@pytest.mark.parametrize("result", COSTLY, ids=range(len(COSTLY)))
def test_a_costly_result_is_decided_or_given_up(worker: MathWorker, result: str):
    begin = time.monotonic()
    found = worker.is_equal("2", rf"So it is \boxed{{{result}}}.")
    assert found is None or not found.is_correct
    # The limit, and a new process where the last one was killed.
    assert time.monotonic() - begin < 300
    # The next question is answered whatever became of the last one.
    assert worker.is_equal("7", r"So it is \boxed{\frac{14}{2}}.") == Score(True, r"\frac{14}{2}", "")


@pytest.mark.slow
def test_a_process_that_was_killed_is_replaced():
    worker = MathWorker()
    assert worker.is_equal("7", r"\boxed{8}") == Score(False, "8", "")
    assert worker._process is not None
    worker._process.kill()
    worker._process.wait()
    assert worker.is_equal("7", r"\boxed{7}") is None
    assert worker.is_equal("7", r"\boxed{7}") == Score(True, "7", "")
    worker.close()
