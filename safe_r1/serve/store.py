"""Files and batches in OpenAI's form, in a folder that outlives the service.

``FOLDER/files/ID/``: ``file.json``, ``content.jsonl``. ``FOLDER/batches/ID/``: ``batch.json`` and
``input.jsonl`` as the batch was created, ``rows/`` with finished rows, ``state.json`` written by the batch's
runner, and ``cancel`` once the batch is to be cancelled. Each file has only one writer.

What is damaged, or deleted by another process meanwhile, is left out of lists and logged. A damaged
``state.json`` is set aside as ``state.json.damaged`` and made again from the
input: the finished rows are kept.
"""

import logging
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from upath import UPath

from safe_r1.runs import write_bytes
from safe_r1.serve.batch_input import MAX_ITEMS, RequestRow, read_requests
from safe_r1.serve.batch_objects import (
    FINAL_STATUSES,
    STATUSES,
    BatchObject,
    BatchState,
    DeletedFile,
    FileObject,
    Kind,
    OwnedBatchInfo,
    make_counts,
)
from safe_r1.serve.errors import ApiError
from safe_r1.serve.object_folder import ObjectFolder, read_json, write_json

ENDPOINTS = ("/v1/safety/evaluate", "/v1/chat/completions", "/v1/responses")
_WINDOW_S = 24 * 3600
_MAX_SHOWN_ERRORS = 20
# What a small file takes at least.
_MIN_FILE_BYTES = 4096
logger = logging.getLogger(__name__)
_ID = re.compile(r"(?:file|batch)-[0-9a-f]{32}")


@dataclass(frozen=True)
class Retention:
    """How much each key may store, and for how long.

    Attributes:
        max_bytes: Size of all files and inputs of batches of a key.
        max_age_s: Files, and batches that have ended, are deleted when they are older.
    """

    max_bytes: int
    max_age_s: float


class BatchStore:
    """Files and batches of all API keys; each key has access only to its own."""

    def __init__(self, folder: str, retention: Retention | None = None):
        self._objects = ObjectFolder(UPath(folder))
        self._retention = retention

    def put_file(self, owner: str, name: str, content: bytes, purpose: str = "batch") -> FileObject:
        """Store a file.

        Raises:
            ApiError: 413, the key has too much in store; never for the output of a batch.
        """
        if purpose == "batch":
            self._check_quota(owner, len(content))
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
        folder = self._objects.folder("file", file_id)
        write_bytes(folder / "content.jsonl", content)
        # Written last: a file without it is not listed.
        write_json(folder / "file.json", {**info, "owner": owner})
        return info

    def file(self, owner: str, file_id: str) -> FileObject:
        """A file's object.

        Raises:
            ApiError: 404.
        """
        return self._as_file(self._read("file", file_id, owner))

    def content(self, owner: str, file_id: str) -> bytes:
        """A file's content.

        Raises:
            ApiError: 404.
        """
        self.file(owner, file_id)
        try:
            return (self._objects.folder("file", file_id) / "content.jsonl").read_bytes()
        except FileNotFoundError:  # deleted meanwhile
            raise _not_found("file") from None

    def files(self, owner: str) -> list[FileObject]:
        """All files of a key, newest first."""
        return [self._as_file(info) for info in self._list("file", owner)]

    def delete_file(self, owner: str, file_id: str) -> DeletedFile:
        """Delete a file.

        Raises:
            ApiError: 404.
        """
        self.file(owner, file_id)
        self._objects.delete("file", file_id)
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
        self._check_quota(owner, len(content))
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
        state = _first_state(content, endpoint, max_items)
        self.write_state(batch_id, state)
        # A copy, since the input file may be deleted while the batch is running.
        write_bytes(self._objects.folder("batch", batch_id) / "input.jsonl", content)
        # Written last: a batch without it is not listed.
        write_json(self._objects.folder("batch", batch_id) / "batch.json", info)
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
        found: list[BatchObject] = []
        for info in self._list("batch", owner):
            try:
                found.append(self.batch(owner, str(info["id"])))
            except (ApiError, OSError, ValueError) as error:
                logger.warning("%s is left out of its list: %s", info["id"], type(error).__name__)
        return found

    def cancel(self, owner: str, batch_id: str) -> BatchObject:
        """Cancel a batch; finished rows are kept.

        Raises:
            ApiError: 404, or 400 if the batch has already ended.
        """
        found = self.batch(owner, batch_id)
        if found["status"] in FINAL_STATUSES:
            raise ApiError(400, "batch_has_ended", f"the batch is {found['status']}")
        write_bytes(self._objects.folder("batch", batch_id) / "cancel", b"")
        return self.batch(owner, batch_id)

    def is_cancelled(self, batch_id: str) -> bool:
        """Whether the batch was cancelled by its owner."""
        return (self._objects.folder("batch", batch_id) / "cancel").exists()

    def read_state(self, batch_id: str) -> BatchState:
        """Current state of a batch; one that is damaged is made again.

        Raises:
            ApiError: 404, the batch is being deleted.
        """
        path = self._objects.folder("batch", batch_id) / "state.json"
        try:
            state = read_json(path)
            if state.get("status") in STATUSES and isinstance(state.get("request_counts"), dict):
                return cast(BatchState, state)
        except FileNotFoundError:
            pass
        except (ValueError, IsADirectoryError) as error:
            logger.error("%s: its state is damaged (%s)", batch_id, type(error).__name__)
        return self._restore_state(batch_id, path)

    def _restore_state(self, batch_id: str, path: UPath) -> BatchState:
        try:
            info = self.info(batch_id)
            content = (path.parent / "input.jsonl").read_bytes()
            if path.exists():
                path.rename(path.parent / "state.json.damaged")
        except FileNotFoundError:
            raise _not_found("batch") from None
        state = _first_state(content, info["endpoint"], MAX_ITEMS)
        self.write_state(batch_id, state)
        logger.error("%s: its state was set aside; it goes on when the service starts again", batch_id)
        return cast(BatchState, state)

    def write_state(self, batch_id: str, state: Mapping[str, object]) -> None:
        """Replace the state of a batch; only its runner calls this once the batch exists."""
        write_json(self._objects.folder("batch", batch_id) / "state.json", state)

    def info(self, batch_id: str) -> OwnedBatchInfo:
        """Constant part of a batch, including its owner."""
        return cast(OwnedBatchInfo, read_json(self._objects.folder("batch", batch_id) / "batch.json"))

    def rows(self, batch_id: str) -> list[RequestRow]:
        """Requests of a batch with a valid input file."""
        content = (self._objects.folder("batch", batch_id) / "input.jsonl").read_bytes()
        return read_requests(content, self.info(batch_id)["endpoint"])[0]

    def rows_folder(self, batch_id: str) -> UPath:
        """Folder of a batch's finished rows."""
        return self._objects.folder("batch", batch_id) / "rows"

    def unfinished(self) -> list[str]:
        """Ids of the batches that have not ended, oldest first."""
        found: list[tuple[float, str]] = []
        for info in self._infos("batch"):
            batch_id = str(info["id"])
            try:
                if self.read_state(batch_id)["status"] not in FINAL_STATUSES:
                    found.append((cast(float, info["created_at"]), batch_id))
            except (ApiError, OSError, ValueError) as error:
                logger.error("%s cannot be resumed: %s", batch_id, type(error).__name__)
        return [batch_id for _, batch_id in sorted(found)]

    def _infos(self, kind: Kind) -> Iterator[dict[str, object]]:
        """Constant parts of all objects; those that are too old are deleted."""
        for info in self._objects.infos(kind):
            if self._is_expired(kind, info):
                self._objects.delete(kind, str(info["id"]))
            else:
                yield info

    def _is_expired(self, kind: Kind, info: Mapping[str, object]) -> bool:
        if not self._retention or cast(float, info["created_at"]) > time.time() - self._retention.max_age_s:
            return False
        try:
            return kind == "file" or self.read_state(str(info["id"]))["status"] in FINAL_STATUSES
        except (ApiError, OSError, ValueError):
            return False

    def _check_quota(self, owner: str, num_bytes: int) -> None:
        if not self._retention:
            return
        sizes = [cast(int, info["bytes"]) for info in self._list("file", owner)]
        for info in self._list("batch", owner):
            try:
                sizes.append((self._objects.folder("batch", str(info["id"])) / "input.jsonl").stat().st_size)
            except OSError:  # deleted meanwhile
                continue
        stored = sum(max(size, _MIN_FILE_BYTES) for size in sizes)
        if stored + num_bytes > self._retention.max_bytes:
            limit = self._retention.max_bytes / 2**20
            message = f"{stored / 2**20:.1f} of {limit:g} MiB are in use by this key: delete files"
            raise ApiError(413, "storage_quota_exceeded", message)

    def _as_file(self, info: Mapping[str, object]) -> FileObject:
        if self._retention:
            expires = int(cast(float, info["created_at"]) + self._retention.max_age_s)
            info = {**info, "expires_at": expires}
        return cast(FileObject, info)

    def _read(self, kind: Kind, object_id: str, owner: str) -> dict[str, object]:
        # The id comes from a request: only a well-formed one may become part of a path.
        found = self._objects.info(kind, object_id) if _ID.fullmatch(object_id) else None
        # Objects of other keys are answered like missing ones, so that ids cannot be probed.
        if found is None or found["owner"] != owner or self._is_expired(kind, found):
            raise _not_found(kind)
        return _without_owner(found)

    def _list(self, kind: Kind, owner: str) -> list[dict[str, object]]:
        own = [_without_owner(info) for info in self._infos(kind) if info["owner"] == owner]
        return sorted(own, key=lambda info: (info["created_at"], info["id"]), reverse=True)


def _first_state(content: bytes, endpoint: str, max_items: int) -> dict[str, object]:
    """State of a batch before it runs."""
    rows, errors = read_requests(content, endpoint, max_items)
    if not errors:
        return {"status": "validating", "request_counts": make_counts(len(rows))}
    return {
        "status": "failed",
        "failed_at": int(time.time()),
        "request_counts": make_counts(0),
        "errors": {"object": "list", "data": errors[:_MAX_SHOWN_ERRORS]},
    }


def _not_found(kind: Kind) -> ApiError:
    return ApiError(404, "not_found", f"no {kind} with this id")


def _without_owner(info: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in info.items() if name != "owner"}
