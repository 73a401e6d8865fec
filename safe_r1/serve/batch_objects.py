"""OpenAI's file and batch objects."""

from typing import Literal, NotRequired, TypedDict

from safe_r1.serve.batch_input import LineError

FINAL_STATUSES = ("completed", "failed", "cancelled", "expired")
STATUSES = (*FINAL_STATUSES, "validating", "in_progress", "finalizing", "cancelling")
Kind = Literal["file", "batch"]


class FileObject(TypedDict):
    """OpenAI's file object."""

    id: str
    object: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: str
    expires_at: NotRequired[int]


class DeletedFile(TypedDict):
    """OpenAI's reply to the deletion of a file."""

    id: str
    object: str
    deleted: bool


class RequestCounts(TypedDict):
    """Requests of a batch."""

    total: int
    completed: int
    failed: int


class BatchErrors(TypedDict):
    """Why a batch failed."""

    object: str
    data: list[LineError]


class BatchState(TypedDict):
    """Changing part of a batch; times of its statuses (``STATUS_at``) stand beside these fields."""

    status: str
    request_counts: RequestCounts
    output_file_id: str | None
    error_file_id: str | None
    errors: BatchErrors | None


class BatchInfo(TypedDict):
    """Constant part of a batch."""

    id: str
    object: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    metadata: dict[str, str] | None


class OwnedBatchInfo(BatchInfo):
    """Constant part of a batch as stored; ``owner`` is the name of an API key."""

    owner: str


class BatchObject(BatchInfo, BatchState):
    """OpenAI's batch object."""


def make_counts(total: int, completed: int = 0, failed: int = 0) -> RequestCounts:
    """OpenAI's request counts of a batch."""
    return {"total": total, "completed": completed, "failed": failed}
