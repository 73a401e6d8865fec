"""The first rows of a model show whether it works; one that has worked may leave rows that fail."""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import pyarrow as pa
import pytest

from safe_r1.config import EngineConfig
from safe_r1.errors import ModelError
from safe_r1.inference.batch import generate
from safe_r1.inference.requests import BatchCounts, EngineResult, Request, Sampling, in_batches
from safe_r1.models.registry import VARIANTS


def block(number: int, error: str) -> pa.Table:
    row = {
        "key": str(number),
        "prompt_tokens": 3,
        "prefix": "",
        "max_tokens": 8,
        "num_generated_tokens": 0 if error else 2,
        "generated_text": "" if error else "好",
        "__inference_error__": error,
    }
    return pa.table({"__data": pa.array([row])})


def run(
    monkeypatch: pytest.MonkeyPatch, errors: Sequence[str], has_worked: bool = False
) -> tuple[int, list[EngineResult]]:
    """Generate a row for each error, empty where it succeeds; gives the failed ones and what was written."""

    def iter_batches(**_: object) -> Iterator[pa.Table]:
        return (block(number, error) for number, error in enumerate(errors))

    monkeypatch.setattr(
        "safe_r1.inference.batch.make_stream", lambda *_: SimpleNamespace(iter_batches=iter_batches)
    )
    written: list[EngineResult] = []
    requests = [Request(str(number), [], 8, 0) for number in range(len(errors))]
    stream = generate(
        in_batches(requests),
        VARIANTS["demo"],
        EngineConfig(),
        "cpu",
        Sampling(0.0, 1.0),
        lambda result: result,
        written.extend,
        has_worked,
    )
    counts: list[BatchCounts] = list(stream)
    return sum(each.failed for each in counts), written


@pytest.mark.parametrize("num_rows", [1, 5, 16, 40])
def test_a_model_that_fails_all_first_rows_ends_the_job(monkeypatch: pytest.MonkeyPatch, num_rows: int):
    with pytest.raises(ModelError, match=f"every one of the first {min(num_rows, 16)} rows failed: too long"):
        run(monkeypatch, ["too long"] * num_rows)


def test_one_row_among_the_first_shows_that_it_works(monkeypatch: pytest.MonkeyPatch):
    failed, written = run(monkeypatch, ["too long"] * 15 + [""] + ["too long"] * 30)
    assert (failed, len(written)) == (45, 46)


@pytest.mark.parametrize("num_rows", [3, 40])
def test_rows_that_fail_again_do_not_end_a_run_that_has_others(
    monkeypatch: pytest.MonkeyPatch, num_rows: int
):
    # Else a run that was interrupted could never use its `max_failed_share`.
    failed, written = run(monkeypatch, ["too long"] * num_rows, has_worked=True)
    assert failed == len(written) == num_rows
