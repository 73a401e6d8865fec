"""Files and batches in OpenAI's form, in a folder that outlives the service.

``FOLDER/files/ID/``: ``file.json``, ``content.jsonl``. ``FOLDER/batches/ID/``: ``batch.json`` and
``input.jsonl`` as the batch was created, ``rows/`` with finished rows, ``state.json`` written by the batch's
runner, and ``cancel`` once the batch is to be cancelled. Each file has only one writer.
"""

import json
import re
import time
import uuid
from collections.abc import Mapping
from typing import Literal, TypedDict, cast

from upath import UPath

from safe_r1.runs import remove, write_bytes
from safe_r1.serve.batch_input import MAX_ITEMS, LineError, RequestRow, read_requests
from safe_r1.serve.errors import ApiError

ENDPOINTS = ("/v1/safety/evaluate", "/v1/chat/completions", "/v1/responses")
FINAL_STATUSES = ("completed", "failed", "cancelled", "expired")
_WINDOW_S = 24 * 3600
_MAX_SHOWN_ERRORS = 20
_ID = re.compile(r"(?:file|batch)-[0-9a-f]{32}")

Kind = Literal["file", "batch"]
_FOLDERS: dict[Kind, str] = {"file": "files", "batch": "batches"}


class FileObject(TypedDict):
    """OpenAI's file object."""

    id: str
    object: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: str


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


class BatchStore:
    """Files and batches of all API keys; each key has access only to its own."""

    def __init__(self, folder: str):
        self.folder = UPath(folder)

    def put_file(self, owner: str, name: str, content: bytes, purpose: str = "batch") -> FileObject:
        """Store a file."""
        file_id = f"file-{uuid.uuid4().hex}"
        info: FileObject = {
            "id": file_id,
            "object": "file",
            "bytes": len(content),
            "created_at": int(time.time()),
            "filename": name[:255],
            "purpose": purpose,
            "status": "processed",
        }
        folder = self._folder("file", file_id)
        write_bytes(folder / "content.jsonl", content)
        # Written last: a file without it is not listed.
        _write_json(folder / "file.json", {**info, "owner": owner})
        return info

    def file(self, owner: str, file_id: str) -> FileObject:
        """A file's object.

        Raises:
            ApiError: 404.
        """
        return cast(FileObject, self._read("file", file_id, owner))

    def content(self, owner: str, file_id: str) -> bytes:
        """A file's content.

        Raises:
            ApiError: 404.
        """
        self.file(owner, file_id)
        return (self._folder("file", file_id) / "content.jsonl").read_bytes()

    def files(self, owner: str) -> list[FileObject]:
        """All files of a key, newest first."""
        return cast(list[FileObject], self._list("file", owner))

    def delete_file(self, owner: str, file_id: str) -> DeletedFile:
        """Delete a file.

        Raises:
            ApiError: 404.
        """
        self.file(owner, file_id)
        remove(self._folder("file", file_id))
        return {"id": file_id, "object": "file", "deleted": True}

    def create_batch(
        self,
        owner: str,
        input_file: str,
        endpoint: str,
        metadata: dict[str, str] | None,
        max_items: int = MAX_ITEMS,
    ) -> BatchObject:
        """Create a batch; if its input file is invalid, its status is ``failed``, with the lines at fault.

        Raises:
            ApiError: 400 for an unsupported endpoint, 404 for an unknown file.
        """
        if endpoint not in ENDPOINTS:
            message = f"unsupported endpoint; a batch goes to {' or '.join(ENDPOINTS)}"
            raise ApiError(400, "unknown_endpoint", message, "endpoint")
        content = self.content(owner, input_file)
        rows, errors = read_requests(content, endpoint, max_items)
        batch_id = f"batch-{uuid.uuid4().hex}"
        created = int(time.time())
        info: OwnedBatchInfo = {
            "id": batch_id,
            "object": "batch",
            "endpoint": endpoint,
            "input_file_id": input_file,
            "completion_window": "24h",
            "created_at": created,
            "expires_at": created + _WINDOW_S,
            "metadata": metadata,
            "owner": owner,
        }
        state: dict[str, object] = {"status": "validating", "request_counts": make_counts(len(rows))}
        if errors:
            state = {
                "status": "failed",
                "failed_at": created,
                "request_counts": make_counts(0),
                "errors": {"object": "list", "data": errors[:_MAX_SHOWN_ERRORS]},
            }
        self.write_state(batch_id, state)
        # A copy, since the input file may be deleted while the batch is running.
        write_bytes(self._folder("batch", batch_id) / "input.jsonl", content)
        # Written last: a batch without it is not listed.
        _write_json(self._folder("batch", batch_id) / "batch.json", info)
        return self.batch(owner, batch_id)

    def batch(self, owner: str, batch_id: str) -> BatchObject:
        """A batch's object with its current state.

        Raises:
            ApiError: 404.
        """
        info = self._read("batch", batch_id, owner)
        state = self.read_state(batch_id)
        if self.is_cancelled(batch_id) and state["status"] not in FINAL_STATUSES:
            state["status"] = "cancelling"
        defaults = {"output_file_id": None, "error_file_id": None, "errors": None}
        return cast(BatchObject, {**defaults, **info, **state})

    def batches(self, owner: str) -> list[BatchObject]:
        """All batches of a key, newest first."""
        return [self.batch(owner, str(info["id"])) for info in self._list("batch", owner)]

    def cancel(self, owner: str, batch_id: str) -> BatchObject:
        """Cancel a batch; finished rows are kept.

        Raises:
            ApiError: 404, or 400 if the batch has already ended.
        """
        found = self.batch(owner, batch_id)
        if found["status"] in FINAL_STATUSES:
            raise ApiError(400, "batch_has_ended", f"the batch is {found['status']}")
        write_bytes(self._folder("batch", batch_id) / "cancel", b"")
        return self.batch(owner, batch_id)

    def is_cancelled(self, batch_id: str) -> bool:
        """Whether the batch was cancelled by its owner."""
        return (self._folder("batch", batch_id) / "cancel").exists()

    def read_state(self, batch_id: str) -> BatchState:
        """Current state of a batch."""
        return cast(BatchState, _read_json(self._folder("batch", batch_id) / "state.json"))

    def write_state(self, batch_id: str, state: Mapping[str, object]) -> None:
        """Replace the state of a batch; only its runner calls this once the batch exists."""
        _write_json(self._folder("batch", batch_id) / "state.json", state)

    def info(self, batch_id: str) -> OwnedBatchInfo:
        """Constant part of a batch, including its owner."""
        return cast(OwnedBatchInfo, _read_json(self._folder("batch", batch_id) / "batch.json"))

    def rows(self, batch_id: str) -> list[RequestRow]:
        """Requests of a batch with a valid input file."""
        content = (self._folder("batch", batch_id) / "input.jsonl").read_bytes()
        return read_requests(content, self.info(batch_id)["endpoint"])[0]

    def rows_folder(self, batch_id: str) -> UPath:
        """Folder of a batch's finished rows."""
        return self._folder("batch", batch_id) / "rows"

    def unfinished(self) -> list[str]:
        """Ids of the batches that have not ended, oldest first."""
        batch_ids = [folder.name for folder in self._folders("batch")]
        unfinished = [each for each in batch_ids if self.read_state(each)["status"] not in FINAL_STATUSES]
        return sorted(unfinished, key=lambda batch_id: self.info(batch_id)["created_at"])

    def _folder(self, kind: Kind, object_id: str) -> UPath:
        return self.folder / _FOLDERS[kind] / object_id

    def _folders(self, kind: Kind) -> list[UPath]:
        parent = self.folder / _FOLDERS[kind]
        folders = parent.iterdir() if parent.exists() else ()
        return [folder for folder in folders if (folder / f"{kind}.json").exists()]

    def _read(self, kind: Kind, object_id: str, owner: str) -> dict[str, object]:
        found = None
        # The id comes from a request: only a well-formed one may become part of a path.
        if _ID.fullmatch(object_id):
            path = self._folder(kind, object_id) / f"{kind}.json"
            found = _read_json(path) if path.exists() else None
        # Objects of other keys are answered like missing ones, so that ids cannot be probed.
        if found is None or found["owner"] != owner:
            raise ApiError(404, "not_found", f"no {kind} with this id")
        return _without_owner(found)

    def _list(self, kind: Kind, owner: str) -> list[dict[str, object]]:
        found = [_read_json(folder / f"{kind}.json") for folder in self._folders(kind)]
        own = [_without_owner(info) for info in found if info["owner"] == owner]
        return sorted(own, key=lambda info: (info["created_at"], info["id"]), reverse=True)


def _without_owner(info: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in info.items() if name != "owner"}


def _read_json(path: UPath) -> dict[str, object]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write_json(path: UPath, value: Mapping[str, object]) -> None:
    write_bytes(path, json.dumps(value, ensure_ascii=False).encode())


def make_counts(total: int, completed: int = 0, failed: int = 0) -> RequestCounts:
    """OpenAI's request counts of a batch."""
    return {"total": total, "completed": completed, "failed": failed}
