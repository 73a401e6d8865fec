"""Errors of safe_r1: one base, few kinds.

A message says in one line what was wrong, what was given, what was expected and what to do. All errors are
plain exceptions with one string argument, so that Ray can pickle them from a worker to the driver.
"""

import contextlib
import os
import traceback
from collections.abc import Iterator

from safe_r1.redaction import hide_credentials


def _with_lines(message: str) -> str:
    first, *others = message.splitlines()
    return "\n".join([" ".join(first.split()), *(f"  {' '.join(line.split())}" for line in others)])


class SafeR1Error(Exception):
    """Base of every error that a user can repair; jobs print its one line and exit with ``exit_code``."""

    exit_code = 2

    def __init__(self, message: str = ""):
        """Create the error; credentials in URLs of its message are taken out."""
        super().__init__(hide_credentials(message))

    @property
    def shown(self) -> str:
        """The message as jobs print it: one line."""
        return " ".join(str(self).split())


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
