"""Files and batches in OpenAI's form, in a folder that outlives the service.

``FOLDER/files/ID/``: ``file.json``, ``content.jsonl``. ``FOLDER/batches/ID/``: ``batch.json`` and
``input.jsonl`` as it was asked for, ``rows/`` with what is finished, ``state.json`` from whoever runs it, and
``cancel`` once somebody wants it to end. Each of them has one writer.
"""

import json
import re
import time
import uuid
from typing import Any

from upath import UPath

from safe_r1.runs import remove, write_bytes
from safe_r1.serve.api import ApiError

ENDPOINTS = ("/v1/safety/evaluate", "/v1/chat/completions")
FINAL = ("completed", "failed", "cancelled", "expired")
MAX_REQUESTS = 50_000
MAX_ITEMS = 500_000
_WINDOW_S = 24 * 3600
_SHOWN_ERRORS = 20
_NAMES = {"files": "file", "batches": "batch"}
_ID = re.compile(r"(?:file|batch)-[0-9a-f]{32}")


class Store:
    """What is kept for the callers; each sees what belongs to their own key."""

    def __init__(self, folder: str):
        self.folder = UPath(folder)

    def put_file(self, owner: str, name: str, content: bytes, purpose: str = "batch") -> dict[str, Any]:
        """Keep a file; gives its object."""
        identity = f"file-{uuid.uuid4().hex}"
        place = self.folder / "files" / identity
        info = {
            "id": identity,
            "object": "file",
            "bytes": len(content),
            "created_at": int(time.time()),
            "filename": name[:255],
            "purpose": purpose,
            "status": "processed",
        }
        write_bytes(place / "content.jsonl", content)
        write_bytes(place / "file.json", json.dumps(info | {"owner": owner}, ensure_ascii=False).encode())
        return info

    def file(self, owner: str, identity: str) -> dict[str, Any]:
        """A file's object.

        Raises:
            ApiError: 404.
        """
        return _shown(self._read("files", identity, "file.json", owner))

    def content(self, owner: str, identity: str) -> bytes:
        """A file's content.

        Raises:
            ApiError: 404.
        """
        self.file(owner, identity)
        return (self.folder / "files" / identity / "content.jsonl").read_bytes()

    def files(self, owner: str) -> list[dict[str, Any]]:
        """All files of a caller, newest first."""
        return self._list("files", "file.json", owner)

    def delete_file(self, owner: str, identity: str) -> dict[str, Any]:
        """Remove a file.

        Raises:
            ApiError: 404.
        """
        self.file(owner, identity)
        remove(self.folder / "files" / identity)
        return {"id": identity, "object": "file", "deleted": True}

    def create_batch(
        self,
        owner: str,
        input_file: str,
        endpoint: str,
        metadata: dict[str, str] | None,
        max_items: int = MAX_ITEMS,
    ) -> dict[str, Any]:
        """Keep a batch; one whose file cannot be used is ``failed`` from the start, with the lines at fault.

        Raises:
            ApiError: 400 for another endpoint, 404 for a file that is not there.
        """
        if endpoint not in ENDPOINTS:
            raise ApiError(400, "unknown_endpoint", f"a batch goes to {' or '.join(ENDPOINTS)}", "endpoint")
        content = self.content(owner, input_file)
        rows, errors = read_requests(content, endpoint, max_items)
        identity, created = f"batch-{uuid.uuid4().hex}", int(time.time())
        info = {
            "id": identity,
            "object": "batch",
            "endpoint": endpoint,
            "input_file_id": input_file,
            "completion_window": "24h",
            "created_at": created,
            "expires_at": created + _WINDOW_S,
            "metadata": metadata,
            "owner": owner,
        }
        place = self.folder / "batches" / identity
        state: dict[str, Any] = {"status": "validating", "request_counts": counts(len(rows))}
        if errors:
            state = {
                "status": "failed",
                "failed_at": created,
                "request_counts": counts(0),
                "errors": {"object": "list", "data": errors[:_SHOWN_ERRORS]},
            }
        self.write_state(identity, state)
        # Of its own: the file may be deleted while the batch runs.
        write_bytes(place / "input.jsonl", content)
        write_bytes(place / "batch.json", json.dumps(info, ensure_ascii=False).encode())
        return self.batch(owner, identity)

    def batch(self, owner: str, identity: str) -> dict[str, Any]:
        """A batch's object as it stands.

        Raises:
            ApiError: 404.
        """
        info = _shown(self._read("batches", identity, "batch.json", owner))
        state = self.read_state(identity)
        if (self.folder / "batches" / identity / "cancel").exists() and state["status"] not in FINAL:
            state["status"] = "cancelling"
        return {"output_file_id": None, "error_file_id": None, "errors": None} | info | state

    def batches(self, owner: str) -> list[dict[str, Any]]:
        """All batches of a caller, newest first."""
        return [self.batch(owner, info["id"]) for info in self._list("batches", "batch.json", owner)]

    def cancel(self, owner: str, identity: str) -> dict[str, Any]:
        """Ask a batch to end; what is finished is kept.

        Raises:
            ApiError: 404, or 400 where it has ended.
        """
        found = self.batch(owner, identity)
        if found["status"] in FINAL:
            raise ApiError(400, "batch_has_ended", f"the batch is {found['status']}")
        write_bytes(self.folder / "batches" / identity / "cancel", b"")
        return self.batch(owner, identity)

    def is_cancelled(self, identity: str) -> bool:
        """Somebody wants it to end."""
        return (self.folder / "batches" / identity / "cancel").exists()

    def read_state(self, identity: str) -> dict[str, Any]:
        """How far a batch is."""
        return json.loads((self.folder / "batches" / identity / "state.json").read_text(encoding="utf-8"))

    def write_state(self, identity: str, state: dict[str, Any]) -> None:
        """Say how far it is; for whoever runs it."""
        write_bytes(
            self.folder / "batches" / identity / "state.json", json.dumps(state, ensure_ascii=False).encode()
        )

    def info(self, identity: str) -> dict[str, Any]:
        """A batch as it was asked for, its owner included."""
        return json.loads((self.folder / "batches" / identity / "batch.json").read_text(encoding="utf-8"))

    def rows(self, identity: str) -> list[dict[str, Any]]:
        """The requests of a batch that was let in."""
        content = (self.folder / "batches" / identity / "input.jsonl").read_bytes()
        return read_requests(content, self.info(identity)["endpoint"])[0]

    def unfinished(self) -> list[str]:
        """Batches that nobody has ended, oldest first."""
        place = self.folder / "batches"
        names = (
            [each.name for each in place.iterdir() if (each / "batch.json").exists()]
            if place.exists()
            else []
        )
        waiting = [name for name in names if self.read_state(name)["status"] not in FINAL]
        return sorted(waiting, key=lambda name: self.info(name)["created_at"])

    def _read(self, kind: str, identity: str, file: str, owner: str) -> dict[str, Any]:
        # The id comes from outside: nothing but an id may become a path.
        place = self.folder / kind / identity / file if _ID.fullmatch(identity) else None
        found = (
            json.loads(place.read_text(encoding="utf-8")) if place is not None and place.exists() else None
        )
        if found is None or found["owner"] != owner:
            raise ApiError(404, "not_found", f"no {_NAMES[kind]} of this id here")
        return found

    def _list(self, kind: str, file: str, owner: str) -> list[dict[str, Any]]:
        place = self.folder / kind
        places = [each / file for each in place.iterdir()] if place.exists() else []
        found = [json.loads(each.read_text(encoding="utf-8")) for each in places if each.exists()]
        mine = [_shown(info) for info in found if info["owner"] == owner]
        return sorted(mine, key=lambda info: (info["created_at"], info["id"]), reverse=True)


def _shown(info: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in info.items() if name != "owner"}


def counts(total: int, completed: int = 0, failed: int = 0) -> dict[str, int]:
    """OpenAI's counts of a batch."""
    return {"total": total, "completed": completed, "failed": failed}


def read_requests(
    content: bytes, endpoint: str, max_items: int = MAX_ITEMS
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The requests of a batch's file, and what is wrong with it by line.

    Args:
        content: JSONL: ``custom_id``, ``method`` (POST), ``url`` and ``body``.
        endpoint: Where all of them must go.
        max_items: Items of all evaluations together; a chat is one.

    Returns:
        Rows with ``custom_id`` and ``body``; errors with ``code``, ``line``, ``message``. Nothing of the
        content is quoted.
    """
    rows: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    seen: set[str] = set()
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        row: Any = None
        try:
            row = json.loads(line)
            # Python reads more than JSON is: NaN, and halves of surrogate pairs.
            json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
            fault = _fault(row, endpoint, seen)
        except (ValueError, RecursionError):
            fault = "the line is not JSON"
        if fault:
            errors.append({"code": "invalid_line", "line": number, "message": fault, "param": None})
        else:
            seen.add(row["custom_id"])
            rows.append({"custom_id": row["custom_id"], "body": row["body"]})
    if not rows and not errors:
        errors.append(
            {"code": "empty_file", "line": None, "message": "the file holds no request", "param": None}
        )
    if len(rows) > MAX_REQUESTS:
        message = f"{len(rows)} requests; a batch takes {MAX_REQUESTS}"
        errors.append({"code": "too_many_requests", "line": None, "message": message, "param": None})
    num_items = sum(len(items) if isinstance(items := row["body"].get("items"), list) else 1 for row in rows)
    if num_items > max_items:
        message = f"{num_items} items; a batch takes {max_items}"
        errors.append({"code": "too_many_items", "line": None, "message": message, "param": None})
    return rows, errors


def _fault(row: Any, endpoint: str, seen: set[str]) -> str | None:
    if not isinstance(row, dict) or not isinstance(row.get("body"), dict):
        return "expected an object with custom_id, method, url and an object body"
    if not isinstance(row.get("custom_id"), str) or not 0 < len(row["custom_id"]) <= 512:
        return "custom_id must be a text of 1 to 512 characters"
    if row["custom_id"] in seen:
        return "custom_id stands in an earlier line"
    if row.get("method") != "POST" or row.get("url") != endpoint:
        return f"expected method POST and url {endpoint}"
    return "a batch cannot stream" if row["body"].get("stream") else None
