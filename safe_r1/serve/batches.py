"""Batches as Ray Data jobs beside the service: rows are sent through the service's own routes, and their
responses are written in shards.

Each batch has a detached actor that outlives the ingress that started it. A shard is written as soon as its
rows are finished, so that after a crash only the missing rows are processed.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, cast

from upath import UPath

from safe_r1.runs import write_bytes
from safe_r1.serve.batch_input import LineError, RequestRow
from safe_r1.serve.batch_objects import FINAL_STATUSES, OwnedBatchInfo, make_counts
from safe_r1.serve.errors import format_location
from safe_r1.serve.keys import KEY_REVOKED
from safe_r1.serve.store import BatchStore

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)

# Rows of a shard, and shards in progress: 16 rows at a time, so that a crash loses little work.
_ROWS_PER_CALL = 8
_NUM_CALLERS = 2
# A row fails only after the service has been busy, starting or being replaced for this long.
_ROW_TIMEOUT_S = 1800.0
# Restarts after a lost node or an out-of-memory kill; limited, since a batch may itself be the cause.
_MAX_RESTARTS = 10
_RESTART_PAUSE_S = 30.0
_BUSY_STATUSES = (429, 503)
_OK_STATUS = 200
_UNAUTHORIZED = 401
_REVOKED_ERROR: LineError = {
    "code": KEY_REVOKED,
    "line": None,
    "message": "the API key that created the batch was revoked; the finished requests are kept",
    "param": None,
}
_REVOKED = {"object": "list", "data": [_REVOKED_ERROR]}


class ResponseBody(TypedDict):
    """HTTP status and decoded JSON of a row's response."""

    status_code: int
    body: object


class ResponseRow(TypedDict):
    """One line of an output or error file."""

    id: str
    custom_id: str
    response: ResponseBody
    error: None


class ShardCounts(NamedTuple):
    """Result of one shard.

    Attributes:
        rows: Rows with a response, which are written.
        ok: Of these, the ones with status 200.
        refused: Rows that were not processed, since the key of the batch's owner was revoked.
    """

    rows: int
    ok: int
    refused: int = 0


class BatchRunner:
    """Runs one batch to its end; the body of the detached actor."""

    def __init__(self, folder: str, app_name: str):
        self._folder = folder
        self._app_name = app_name

    def run_and_exit(self, batch_id: str) -> None:
        """Run the batch, then end this actor, since a detached actor does not end otherwise."""
        from ray.actor import exit_actor

        try:
            self.run(batch_id)
        finally:
            exit_actor()

    def run(self, batch_id: str) -> str:
        """Process the missing rows of a batch; returns its final status."""
        store = BatchStore(self._folder)
        status = store.read_state(batch_id)["status"]
        if status in FINAL_STATUSES:
            return status
        from ray.exceptions import RayError
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed

        # Retries after a lost worker. If the whole cluster is lost, this process ends during the pause.
        retrying = Retrying(
            retry=retry_if_exception_type(RayError),
            stop=stop_after_attempt(_MAX_RESTARTS),
            wait=wait_fixed(_RESTART_PAUSE_S),
            reraise=True,
        )
        try:
            return retrying(self._run, store, batch_id)
        except Exception as error:  # noqa: BLE001 - a batch that is no longer run must not stay "in_progress"
            _write_failure(store, batch_id, error)
            return "failed"

    def _run(self, store: BatchStore, batch_id: str) -> str:
        info = store.info(batch_id)
        rows = store.rows(batch_id)
        folder = store.rows_folder(batch_id)
        state: dict[str, object] = {**store.read_state(batch_id), "status": "in_progress"}
        # A resumed batch keeps the time of its first start.
        state.setdefault("in_progress_at", int(time.time()))
        finished = read_rows(folder)
        finished_ids = {row["custom_id"] for row in finished}
        missing = [row for row in rows if row["custom_id"] not in finished_ids]
        num_done = len(finished)
        num_ok = sum(map(_is_ok, finished))
        status = "completed"
        # That the machine's clock is set meanwhile ends no batch.
        deadline = time.monotonic() + info["expires_at"] - time.time()
        for counts in self._process(missing, info, str(folder)):
            num_done += counts.rows
            num_ok += counts.ok
            state["request_counts"] = make_counts(len(rows), num_ok, num_done - num_ok)
            store.write_state(batch_id, state)
            if counts.refused:
                status = "failed"
                state["errors"] = _REVOKED
                break
            if store.is_cancelled(batch_id):
                status = "cancelled"
                break
            if time.monotonic() > deadline:
                status = "expired"
                break
        # Cancelled while its last shard was in progress.
        if status == "completed" and missing and store.is_cancelled(batch_id):
            status = "cancelled"
        store.write_state(batch_id, state | {"status": "finalizing", "finalizing_at": int(time.time())})
        result = _write_results(store, info, rows)
        store.write_state(batch_id, state | result | {"status": status, f"{status}_at": int(time.time())})
        return status

    def _process(self, rows: list[RequestRow], info: OwnedBatchInfo, folder: str) -> Iterator[ShardCounts]:
        """Send the rows to the service; yields the counts of each shard."""
        import ray

        if not rows:
            return
        ray.data.DataContext.get_current().enable_progress_bars = False
        # Bodies as JSON text: Arrow would need one type for the bodies of all rows.
        requests = [
            {"custom_id": row["custom_id"], "body": json.dumps(row["body"], ensure_ascii=False)}
            for row in rows
        ]
        dataset = ray.data.from_items(requests, override_num_blocks=-(-len(requests) // _ROWS_PER_CALL))
        shards = dataset.map_batches(
            ServiceCaller,
            fn_constructor_kwargs={
                "app_name": self._app_name,
                "endpoint": info["endpoint"],
                "owner": info["owner"],
                "folder": folder,
            },
            batch_size=_ROWS_PER_CALL,
            concurrency=_NUM_CALLERS,
            # A caller only waits for the service.
            num_cpus=0.1,
        )
        # Row by row and without prefetching, so that the counts are up to date after each shard.
        for shard in shards.iter_batches(batch_size=1, prefetch_batches=0):
            counts = cast("dict[str, np.ndarray]", shard)
            yield ShardCounts(*(int(counts[name][0]) for name in ShardCounts._fields))


class ServiceCaller:
    """Map step of a batch: sends a few rows to the service concurrently and writes their shard."""

    def __init__(self, app_name: str, endpoint: str, owner: str, folder: str):
        self._app_name = app_name
        self._endpoint = endpoint
        self._owner = owner
        self._folder = UPath(folder)

    async def _send_row(self, body: object) -> tuple[int, object]:
        from ray import serve
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException
        from tenacity import AsyncRetrying, retry_if_result, stop_after_delay, wait_random_exponential

        async def send() -> tuple[int, object]:
            try:
                # Looked up for each attempt, since the application may have been deployed again.
                handle = serve.get_app_handle(self._app_name)
                return await handle.post.remote(self._endpoint, body, self._owner)
            except (RayError, RayServeException) as error:
                message = f"the service is not available ({type(error).__name__})"
                return 503, {"error": {"code": "service_unavailable", "message": message}}

        retrying = AsyncRetrying(
            stop=stop_after_delay(_ROW_TIMEOUT_S),
            wait=wait_random_exponential(0.2, max=20),
            retry=retry_if_result(lambda reply: reply[0] in _BUSY_STATUSES),
            # After the last attempt its reply is the result, instead of tenacity's RetryError.
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        )
        return await retrying(send)

    def __call__(self, batch: "dict[str, np.ndarray]") -> dict[str, list[int]]:
        """Send all rows of a batch and write one line for each that was processed."""

        async def send_all() -> list[tuple[int, object]]:
            return await asyncio.gather(*(self._send_row(json.loads(body)) for body in batch["body"]))

        sent_ids = [str(custom_id) for custom_id in batch["custom_id"]]
        answered = {
            custom_id: reply
            for custom_id, reply in zip(sent_ids, asyncio.run(send_all()), strict=True)
            if not _is_refused(*reply)
        }
        custom_ids = list(answered)
        lines = [_format_row(custom_id, status, body) for custom_id, (status, body) in answered.items()]
        # Named by its rows: a task that Ray runs twice overwrites its own shard.
        shard = hashlib.sha256("\0".join(custom_ids).encode()).hexdigest()[:32]
        if lines:
            write_bytes(self._folder / f"part-{shard}.jsonl", "".join(lines).encode())
        num_ok = sum(status == _OK_STATUS for status, _ in answered.values())
        counts = ShardCounts(len(lines), num_ok, len(sent_ids) - len(lines))
        return {name: [value] for name, value in counts._asdict().items()}


def _is_refused(status: int, body: object) -> bool:
    """Whether the service did not process a row, since the key of the batch's owner was revoked."""
    error = body.get("error") if isinstance(body, dict) else None
    return status == _UNAUTHORIZED and isinstance(error, dict) and error.get("code") == KEY_REVOKED


def _format_row(custom_id: str, status: int, body: object) -> str:
    digest = hashlib.sha256(custom_id.encode()).hexdigest()[:32]
    row: ResponseRow = {
        "id": f"batch_req_{digest}",
        "custom_id": custom_id,
        "response": {"status_code": status, "body": body},
        "error": None,
    }
    return _to_line(row)


def _to_line(row: Mapping[str, object]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def read_rows(folder: UPath) -> list[ResponseRow]:
    """All finished rows of a batch, each once."""
    parts = sorted(folder.iterdir(), key=lambda part: part.name) if folder.exists() else []
    rows: dict[str, ResponseRow] = {}
    for part in parts:
        if part.name.endswith(".jsonl"):
            for line in part.read_text(encoding="utf-8").split("\n"):
                if line:
                    row: ResponseRow = json.loads(line)
                    rows.setdefault(row["custom_id"], row)
    return list(rows.values())


def _is_ok(row: ResponseRow) -> bool:
    return row["response"]["status_code"] == _OK_STATUS


def _write_results(store: BatchStore, info: OwnedBatchInfo, requests: list[RequestRow]) -> dict[str, object]:
    """Write output and error files in the order of the input; returns their fields of the batch's state."""
    order = {row["custom_id"]: number for number, row in enumerate(requests)}
    rows = sorted(read_rows(store.rows_folder(info["id"])), key=lambda row: order[row["custom_id"]])
    num_ok = sum(map(_is_ok, rows))
    result: dict[str, object] = {"request_counts": make_counts(len(requests), num_ok, len(rows) - num_ok)}
    for name, is_wanted in (("output", True), ("error", False)):
        lines = [_to_line(row) for row in rows if _is_ok(row) is is_wanted]
        if lines:
            content = "".join(lines).encode()
            file = store.put_file(info["owner"], f"{info['id']}-{name}.jsonl", content, "batch_output")
            result[f"{name}_file_id"] = file["id"]
    return result


def _write_failure(store: BatchStore, batch_id: str, error: Exception) -> None:
    """Mark a batch as failed, with the rows that are finished."""
    message = f"the batch could not be run: {type(error).__name__}"
    logger.error("%s: %s in\n%s", batch_id, message, format_location(error))
    errors: list[LineError] = [{"code": "internal_error", "line": None, "message": message, "param": None}]
    result: dict[str, object] = {}
    with contextlib.suppress(Exception):  # the storage itself may be what failed
        result = _write_results(store, store.info(batch_id), store.rows(batch_id))
    failure = {
        "status": "failed",
        "failed_at": int(time.time()),
        "errors": {"object": "list", "data": errors},
    }
    store.write_state(batch_id, {**store.read_state(batch_id), **result, **failure})


def start(folder: str, app_name: str, batch_id: str) -> None:
    """Start the runner of a batch; without effect if it is already running."""
    import ray

    # Ray types methods of an actor as plain functions, without ``remote``.
    runner: Any = ray.remote(BatchRunner).options(
        name=f"{app_name}-{batch_id}",
        namespace=app_name,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0.1,
        max_restarts=_MAX_RESTARTS,
        max_task_retries=_MAX_RESTARTS,
    )
    runner.remote(folder, app_name).run_and_exit.remote(batch_id)
