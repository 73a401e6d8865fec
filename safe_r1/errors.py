"""Errors of safe_r1: one base, few kinds.

A message says in one line what was wrong, what was given, what was expected and what to do. All errors are
plain exceptions with one string argument, so that Ray can pickle them from a worker to the driver.
"""

import contextlib
import enum
import os
import traceback
from collections.abc import Iterator

from safe_r1.redaction import hide_credentials


def _with_lines(message: str) -> str:
    first, *others = message.splitlines()
    return "\n".join([" ".join(first.split()), *(f"  {' '.join(line.split())}" for line in others)])


class ExitCode(enum.IntEnum):
    """How a job ends; a campaign submits again what ended with ``LOST``, and nothing else."""

    DONE = 0
    FAULT = 1
    """Ours: nothing that a user can repair."""
    USER = 2
    LOST = 3
    """A machine, or the result, is lost or not there; the same command goes on."""
    GATE = 4
    INTERRUPTED = 130
    TERMINATED = 143


# Ray Data writes into the message of an error that a stage raised how often it was tried.
_NOTE_OF_RAY_DATA = "\nFailed to apply UDF transform after "


class SafeR1Error(Exception):
    """Base of every error that a user can repair; jobs print its one line and exit with ``exit_code``."""

    exit_code = 2

    def __init__(self, message: str = ""):
        """Create the error; credentials in URLs of its message are taken out."""
        super().__init__(hide_credentials(message))

    @property
    def shown(self) -> str:
        """The message as jobs print it: one line."""
        return " ".join(str(self).partition(_NOTE_OF_RAY_DATA)[0].split())


class TransientError(SafeR1Error):
    """Nothing that a user has to repair: a machine was lost or did not start.

    The same command may succeed.
    """

    exit_code = 3


class ConfigError(SafeR1Error):
    """A setting, flag or name that does not exist or does not fit."""


class DataError(SafeR1Error):
    """A data file that is missing, damaged, or holds an item that cannot be read."""


class ModelError(SafeR1Error):
    """A model that cannot be found, read or started."""


class ResourceError(SafeR1Error):
    """Too little memory, no accelerator, or a cluster that is too small for what was requested."""


class SandboxError(SafeR1Error):
    """A machine on which an untrusted program cannot be contained."""


class StorageError(SafeR1Error):
    """A file or folder that cannot be written or read."""


class RunConflictError(SafeR1Error):
    """A run folder that already holds a run with other settings: one line, and one for each of them."""

    @property
    def shown(self) -> str:
        """The message as jobs print it."""
        return _with_lines(str(self))


class RunBusyError(TransientError, RunConflictError):
    """Another job works on the run folder; the same command may succeed once that has ended."""


class PlanError(ConfigError, ResourceError):
    """A layout with more than one reason against it: one line, and one for each of them."""

    @property
    def shown(self) -> str:
        """The message as jobs print it."""
        return _with_lines(str(self))


class TrainingError(SafeR1Error):
    """A training that stopped by itself: its loss is NaN or inf, or its workers kept dying."""


class CampaignError(SafeR1Error):
    """Steps of a campaign without a result."""


class EndpointError(SafeR1Error):
    """A model's endpoint that cannot be reached or answers with something unusable for every row."""


class JudgeError(EndpointError):
    """A judge that cannot be reached or answers with something unusable for every row."""


class IntegrityError(SafeR1Error):
    """Counts that do not add up, or more failures than a run may publish with."""


class DamagedFileError(StorageError, IntegrityError):
    """Files that are not whole, or not what their place says; the message names them and what helps."""


class EngineLostError(TransientError, ModelError):
    """An engine that died too often with its machine, or whose machine did not start."""


class ClusterLostError(TransientError, ResourceError):
    """A cluster that does not answer."""


class WorkersLostError(TransientError, TrainingError):
    """Workers of a training that died too often with their machines, or whose machines did not start."""


class BudgetError(TransientError, EndpointError):
    """A limit of cost was reached; the same command with a higher one goes on."""


class RowsLostError(TransientError, IntegrityError):
    """More rows failed than a run may publish with; they are tried again."""


class NoResultError(TransientError, IntegrityError):
    """Too few rows for a result: answers with a label, or rows of a corpus. What is there is kept, and the
    message says what helps.
    """


# By name, as this file is read where Ray is not installed. A class that is not here has the code of its base.
_OF_RAY = {
    **dict.fromkeys(
        (
            "RayActorError",
            "NodeDiedError",
            "LocalRayletDiedError",
            "ObjectLostError",
            "PlasmaObjectNotAvailable",
            "GetTimeoutError",
            "RpcError",
            "RaySystemError",
            "WorkerCrashedError",
            # Another node, or the same at another time, may have the memory, the group or the place.
            "OutOfMemoryError",
            "ActorPlacementGroupRemoved",
            "TaskPlacementGroupRemoved",
            "ActorUnschedulableError",
            "TaskUnschedulableError",
            # Of Ray Train: workers or the controller that did not start or died.
            "RayTrainError",
            # Of Ray Serve.
            "DeploymentUnavailableError",
            "ReplicaUnavailableError",
        ),
        ExitCode.LOST,
    ),
    **dict.fromkeys(
        ("AuthenticationError", "ObjectStoreFullError", "OutOfDiskError", "RuntimeEnvSetupError"),
        ExitCode.USER,
    ),
    **dict.fromkeys(
        # Kinds of the above that only wrong code brings about or that stand for others, and all others.
        (
            "ObjectFreedError",
            "ReferenceCountingAssertionError",
            "RayCgraphCapacityExceeded",
            "TrainingFailedError",
            "RayError",
        ),
        ExitCode.FAULT,
    ),
}


def decide_exit(error: BaseException) -> tuple[ExitCode, BaseException]:
    """How a job ends that met an error, and which error of those behind it says so.

    Looked at are the error, what Ray wraps in it (of a task, of the workers of a training), its causes, and
    what was being handled when it was raised. A machine that was lost says so before all others: what follows
    from the loss, such as too few nodes, is often raised as a user's error.
    """
    found = (ExitCode.FAULT, error)
    for each, is_context in _behind(error):
        code = _code(each)
        # Who handles an error and raises one of ours on purpose has decided.
        if is_context and isinstance(error, SafeR1Error):
            continue
        if code in (ExitCode.LOST, ExitCode.INTERRUPTED):
            return code, each
        # A fault in the handling of a user's error is a fault.
        if code == ExitCode.USER and found[0] == ExitCode.FAULT and not is_context:
            found = (code, each)
    return found


def is_retried(exit_code: int | None) -> bool:
    """Whether a campaign submits a job again that ended so.

    Args:
        exit_code: Of its process; None where it was lost with its node.
    """
    # SIGKILL comes from the kernel that has no memory left, or from a machine that is shut down.
    return exit_code in (ExitCode.LOST, None, -9, 137)


def _code(error: BaseException) -> ExitCode:
    """By the kind of the error alone."""
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    if isinstance(error, SafeR1Error):
        return ExitCode(error.exit_code)
    # The constructor of an actor raised: that is its code's error.
    if getattr(error, "actor_init_failed", False):
        return ExitCode.FAULT
    for kind in type(error).__mro__:
        if kind.__module__.partition(".")[0] in ("ray", "grpc") and kind.__name__ in _OF_RAY:
            return _OF_RAY[kind.__name__]
    return ExitCode.FAULT


def _behind(error: BaseException) -> Iterator[tuple[BaseException, bool]]:
    """The error and all behind it, each once; true for those that were only being handled meanwhile."""
    pending: list[tuple[object, bool]] = [(error, False)]
    seen: set[int] = set()
    while pending:
        each, is_context = pending.pop(0)
        if not isinstance(each, BaseException) or id(each) in seen:
            continue
        seen.add(id(each))
        # Ray's wrapper of an error of ours is one of ours as well, with the worker's traceback as its text.
        if not isinstance(getattr(each, "cause", None), SafeR1Error):
            yield each, is_context
        pending += [(getattr(each, name, None), is_context) for name in ("cause", "controller_failure")]
        failures = getattr(each, "worker_failures", None)
        pending += [(failure, is_context) for failure in (failures or {}).values()]
        pending.append((each.__cause__, is_context))
        if not each.__suppress_context__:
            pending.append((each.__context__, True))


@contextlib.contextmanager
def reading(path: object) -> Iterator[None]:
    """Whatever the files of a finished run raise that somebody damaged by hand becomes one line.

    For the commands that read such runs. ``safe_r1.runs`` names files that cannot be read at all; this is for
    those whose content is not what their readers expect.

    Args:
        path: The run, or a folder above it, for the message.

    Raises:
        DataError: Such a file was met. The message names the place in the code that could not use it, and the
            exception is its cause.
    """
    try:
        yield
    except (
        LookupError,
        TypeError,
        AttributeError,
        ValueError,
        ArithmeticError,
        NotImplementedError,
    ) as error:
        # Never the error's own text, which may quote the data.
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise DataError(
            f"{path}: run.json, metrics.json or population.json, or another file beside them, is not as an "
            f"evaluation writes it ({type(error).__name__} at {os.path.basename(place.filename)}:"
            f"{place.lineno}); restore it, or run the evaluation again"
        ) from error
