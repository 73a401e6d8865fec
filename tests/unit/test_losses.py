"""A machine that was lost is told from what a user has to repair, by the error's kind and the job's exit
code.
"""

import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import (
    ActorDiedError,
    GetTimeoutError,
    RayTaskError,
    UserCodeException,
    WorkerCrashedError,
)
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError
from torch import OutOfMemoryError

from safe_r1 import errors
from safe_r1.config import EngineConfig
from safe_r1.errors import (
    DataError,
    IntegrityError,
    ModelError,
    ResourceError,
    SafeR1Error,
    TrainingError,
    TransientError,
)
from safe_r1.evaluation.sample_index import store_samples
from safe_r1.evaluation.stage_index import index_completions
from safe_r1.evaluation.verdicts import check_finished
from safe_r1.inference.batch import generate
from safe_r1.inference.requests import Request, Sampling, in_batches
from safe_r1.models.registry import VARIANTS
from safe_r1.resources import init_ray
from safe_r1.train.workers import run_workers
from tests.unit.evaluation.published import NAME, make_plan, scored_rows


def code_of(error: SafeR1Error) -> int:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), str(error))
    return again.exit_code


def test_every_other_error_is_the_users():
    kinds = [
        each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, SafeR1Error)
    ]
    assert {each.exit_code for each in kinds if not issubclass(each, TransientError)} == {2}
    assert {each.exit_code for each in kinds if issubclass(each, TransientError)} == {3}


def raised(cause: Exception) -> Exception:
    return RayTaskError("f", "Traceback", cause)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ActorDiedError(), 3),
        (WorkerCrashedError(), 3),
        (raised(WorkerCrashedError()), 3),
        (GetTimeoutError("no node"), 3),
        (ActorDiedError(RayTaskError("f", "Traceback", ValueError("no such quantization"))), 2),
        (raised(UserCodeException("no space left")), 2),
        (raised(DataError("a row without text")), 2),
    ],
)
def test_an_engine_that_was_lost(monkeypatch: pytest.MonkeyPatch, error: Exception, code: int):
    def iter_batches(**_: Any) -> Any:
        raise error

    monkeypatch.setattr(
        "safe_r1.inference.batch.make_stream", lambda *_: SimpleNamespace(iter_batches=iter_batches)
    )
    batches = in_batches([Request("k", [{"role": "user", "content": "问"}], 8, 0)])
    sampling = Sampling(0.0, 1.0)
    with pytest.raises(ModelError, match="demo: the engine could not start") as caught:
        list(
            generate(
                batches,
                VARIANTS["demo"],
                EngineConfig(),
                "cpu",
                sampling,
                lambda row: row,
                lambda _: None,
            )
        )
    assert code_of(caught.value) == code


def workers_failed(*failures: Exception) -> WorkerGroupError:
    return WorkerGroupError("[Rank 0] ...", dict(enumerate(failures)))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (workers_failed(ActorDiedError(), RuntimeError("Connection closed by peer")), 3),
        (
            workers_failed(RuntimeError("Connection closed by peer")),
            3,
        ),  # seen before the death of the one that it spoke to
        (workers_failed(ActorDiedError(), ValueError("half a message")), 3),
        (ControllerError(WorkerGroupStartupTimeoutError(8)), 3),
        (workers_failed(ModelError("no such weights"), RuntimeError("Connection closed by peer")), 2),
        (workers_failed(OutOfMemoryError("CUDA out of memory")), 2),
        (
            workers_failed(
                RuntimeError("size mismatch for lm_head.weight"), RuntimeError("Connection closed by peer")
            ),
            2,
        ),
    ],
)
def test_training_whose_workers_were_lost(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, error: Exception, code: int
):
    def fit(_: Any) -> None:
        raise error

    monkeypatch.setattr("ray.train.torch.TorchTrainer.__init__", lambda *_, **__: None)
    monkeypatch.setattr("ray.train.torch.TorchTrainer.fit", fit)
    spec: Any = SimpleNamespace(
        folder=str(tmp_path), device="cpu", num_steps=1, config=SimpleNamespace(max_failures=0)
    )
    with pytest.raises(TrainingError, match="training stopped: ") as caught:
        run_workers(spec, (1, 1), lambda *_: None)
    assert code_of(caught.value) == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConnectionError("Failed to connect"), 3),
        (Exception("timed out during startup"), 3),
        (ValueError("port"), 2),
    ],
)
def test_a_head_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, error: Exception, code: int):
    def init(**_: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ResourceError, match="cannot connect to Ray") as caught:
        init_ray()
    assert code_of(caught.value) == code


def test_rows_that_failed_are_tried_again(tmp_path: Path):
    samples, completions, verdicts = scored_rows(4, 0)
    lost = [replace(row, answer=None, error="EngineDeadError") for row in completions[1:]]
    plan = make_plan(tmp_path, {NAME: (samples, [completions[0], *lost], verdicts)})
    index = store_samples(plan.folders[NAME], samples)
    with pytest.raises(IntegrityError, match=r"3 of 4 rows failed.*EngineDeadError") as caught:
        check_finished(plan, NAME, index, index_completions(plan.folders[NAME], index))
    assert code_of(caught.value) == 3
