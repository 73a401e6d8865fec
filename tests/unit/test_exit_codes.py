"""One table from what happened to a job's exit code, over all errors of Ray's and their nesting."""

import inspect
from typing import Any

import pytest
import ray.exceptions
from hypothesis import given
from hypothesis import strategies as st
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from safe_r1 import errors
from safe_r1.errors import (
    ConfigError,
    EngineLostError,
    ExitCode,
    ModelError,
    SafeR1Error,
    TransientError,
    decide_exit,
    is_retried,
)

# Worked out by hand from what Ray documents of each, apart from the table.
LOST = [
    "ActorDiedError",
    "ActorPlacementGroupRemoved",
    "ActorUnavailableError",
    "ActorUnschedulableError",
    "GetTimeoutError",
    "LocalRayletDiedError",
    "NodeDiedError",
    "ObjectFetchTimedOutError",
    "ObjectLostError",
    "ObjectReconstructionFailedError",
    "OutOfMemoryError",
    "OwnerDiedError",
    "PlasmaObjectNotAvailable",
    "RayActorError",
    "RayChannelError",
    "RayChannelTimeoutError",
    "RayDirectTransportError",
    "RaySystemError",
    "RpcError",
    "StreamingGeneratorReplayInconsistentError",
    "TaskPlacementGroupRemoved",
    "TaskUnschedulableError",
    "WorkerCrashedError",
]
USER = ["AuthenticationError", "ObjectStoreFullError", "OutOfDiskError", "RuntimeEnvSetupError"]
FAULT = [
    "ActorAlreadyExistsError",
    "ActorHandleNotFoundError",
    "AsyncioActorExit",
    "CrossLanguageError",
    "ObjectFreedError",
    "ObjectRefStreamEndOfStreamError",
    "OufOfBandObjectRefSerializationException",
    "PendingCallsLimitExceeded",
    "RayCgraphCapacityExceeded",
    "RayError",
    "RayTaskError",
    "ReferenceCountingAssertionError",
    "TaskCancelledError",
    "UnserializableException",
    "UserCodeException",
]
CODES = {
    **dict.fromkeys(LOST, ExitCode.LOST),
    **dict.fromkeys(USER, ExitCode.USER),
    **dict.fromkeys(FAULT, ExitCode.FAULT),
}
KINDS: dict[str, type[Exception]] = {
    name: kind
    for name, kind in vars(ray.exceptions).items()
    if inspect.isclass(kind) and issubclass(kind, Exception) and kind.__module__ == "ray.exceptions"
}
OURS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SafeR1Error)]


def made(kind: type[Exception]) -> Exception:
    """One of a kind, whatever its constructor and its text need."""
    blank = type(kind.__name__, (kind,), {"__init__": Exception.__init__, "__str__": Exception.__str__})
    return blank("x")


def raised_from(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def of_task(cause: Exception) -> Exception:
    task = ray.exceptions.RayTaskError("work", "Traceback\n  x", cause)
    return task.as_instanceof_cause()


def of_workers(cause: Exception) -> Exception:
    return WorkerGroupError("x", worker_failures={0: ValueError("peer"), 1: cause})


def handling(error: Exception, other: Exception) -> Exception:
    try:
        try:
            raise other
        except type(other):
            raise error  # noqa: B904 - on purpose without a cause
    except type(error) as caught:
        return caught


WRAPPERS: list[Any] = [
    of_task,
    of_workers,
    lambda cause: ControllerError(cause),
    lambda cause: raised_from(RuntimeError("x"), cause),
    lambda cause: raised_from(made(KINDS["UserCodeException"]), cause),
    lambda cause: raised_from(made(KINDS["RayTaskError"]), cause),
]


def test_every_error_of_rays_has_a_code() -> None:
    assert set(CODES) == set(KINDS)


@pytest.mark.parametrize("name", CODES)
def test_an_error_of_rays_alone(name: str) -> None:
    error = made(KINDS[name])
    assert decide_exit(error) == (CODES[name], error)


@given(st.sampled_from(sorted(LOST)), st.lists(st.sampled_from(WRAPPERS), max_size=4))
def test_a_loss_is_found_however_deep(name: str, wrappers: list[Any]) -> None:
    error = made(KINDS[name])
    for wrap in wrappers:
        error = wrap(error)
    assert decide_exit(error)[0] == ExitCode.LOST
    # Of what follows from the loss, a user's error is often raised first.
    assert decide_exit(raised_from(ModelError("no such model"), error))[0] == ExitCode.LOST


@given(st.sampled_from(OURS), st.lists(st.sampled_from(WRAPPERS), max_size=4))
def test_one_of_ours_is_found_however_deep(kind: type[SafeR1Error], wrappers: list[Any]) -> None:
    error: Exception = kind("no such model")
    for wrap in wrappers:
        error = wrap(error)
    code, reason = decide_exit(error)
    assert code == kind.exit_code == (3 if issubclass(kind, TransientError) else 2)
    assert isinstance(reason, SafeR1Error)
    assert reason.shown == "no such model"


def test_a_bug_stays_one() -> None:
    assert decide_exit(ValueError("x"))[0] == ExitCode.FAULT
    assert decide_exit(of_task(ValueError("x")))[0] == ExitCode.FAULT
    assert decide_exit(handling(KeyError("x"), ConfigError("x")))[0] == ExitCode.FAULT


def test_a_bug_in_the_handling_of_a_loss_is_the_loss() -> None:
    assert decide_exit(handling(KeyError("x"), made(KINDS["NodeDiedError"])))[0] == ExitCode.LOST


def test_who_handles_a_loss_may_decide_otherwise() -> None:
    lost = made(KINDS["GetTimeoutError"])
    assert decide_exit(handling(ConfigError("x"), lost))[0] == ExitCode.USER
    assert decide_exit(handling(EngineLostError("x"), lost))[0] == ExitCode.LOST


def test_an_actor_whose_constructor_raised_is_no_loss() -> None:
    task = ray.exceptions.RayTaskError("__init__", "Traceback\n  x", ValueError("x"))
    error = ray.exceptions.ActorDiedError(task)
    assert decide_exit(error)[0] == ExitCode.FAULT
    assert decide_exit(raised_from(ModelError("x"), error))[0] == ExitCode.USER


def test_trainings_that_did_not_start_are_lost() -> None:
    assert decide_exit(ControllerError(WorkerGroupStartupTimeoutError(2)))[0] == ExitCode.LOST


def test_errors_that_go_round_end() -> None:
    one, two = ValueError("1"), ValueError("2")
    one.__cause__, two.__cause__ = two, one
    assert decide_exit(one)[0] == ExitCode.FAULT


def test_a_campaign_submits_the_lost_ones_alone() -> None:
    assert [code for code in (*range(256), None, -9, -15) if is_retried(code)] == [3, 137, None, -9]
