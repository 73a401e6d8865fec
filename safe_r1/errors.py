"""Errors of safe_r1: one base, few kinds.

A message says in one line what was wrong, what was given, what was expected and what to do. All errors are
plain exceptions with one string argument, so that Ray can pickle them from a worker to the driver.
"""


class SafeR1Error(Exception):
    """Base of every error that a user can repair; jobs print its one line and exit with ``exit_code``."""

    exit_code = 2


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
    """A run folder that already holds a run with other settings."""


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
