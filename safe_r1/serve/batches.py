"""Batches as Ray Data jobs beside the service: rows in, the service's own routes over them, shards out.

Each batch has a detached actor that outlives the ingress that began it. A shard of rows is written as soon as
it is finished, so that whoever takes the batch up after a kill asks for the missing rows alone.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Iterator
from typing import Any

from upath import UPath

from safe_r1.runs import write_bytes
from safe_r1.serve.api import where
from safe_r1.serve.store import FINAL, Store, counts

logger = logging.getLogger(__name__)

_ROWS_PER_CALL = 8
_CALLERS = 2
# A service that is busy, starting or being replaced is asked again for so long before a row has failed.
_PATIENCE_S = 1800.0
# With its machine, or for want of memory: it goes on elsewhere, but not for ever.
_RESTARTS, _PAUSE_S = 10, 30.0
_BUSY = (429, 503)
_GOOD = 200


class Runner:
    """Runs one batch to its end; the body of the detached actor."""

    def __init__(self, folder: str, app_name: str):
        self._folder, self._app_name = folder, app_name

    def run_and_leave(self, identity: str) -> None:
        """Do it, then end this actor, which nobody else would."""
        from ray.actor import exit_actor

        try:
            self.run(identity)
        finally:
            exit_actor()

    def run(self, identity: str) -> str:
        """Do what is missing of a batch; gives its final status."""
        store = Store(self._folder)
        if (state := store.read_state(identity))["status"] in FINAL:
            return state["status"]
        from ray.exceptions import RayError
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed

        # A worker that was lost; or all of Ray, and then this process is gone before the pause is over.
        retrying = Retrying(
            retry=retry_if_exception_type(RayError),
            stop=stop_after_attempt(_RESTARTS),
            wait=wait_fixed(_PAUSE_S),
            reraise=True,
        )
        try:
            return retrying(self._run, store, identity)
        except Exception as error:  # noqa: BLE001 - whatever it was, a batch that nobody runs any more must say so
            fault = f"the batch could not be run: {type(error).__name__}"
            errors = [{"code": "internal_error", "message": fault, "line": None, "param": None}]
            logger.error("%s: %s in\n%s", identity, fault, where(error))
            files: dict[str, Any] = {}
            with contextlib.suppress(Exception):  # what is finished, if it can be had
                files = _finish(store, store.info(identity), store.rows(identity))
            store.write_state(
                identity,
                store.read_state(identity)
                | files
                | {
                    "status": "failed",
                    "failed_at": int(time.time()),
                    "errors": {"object": "list", "data": errors},
                },
            )
            return "failed"

    def _run(self, store: Store, identity: str) -> str:
        info, rows = store.info(identity), store.rows(identity)
        place = store.folder / "batches" / identity / "rows"
        state = store.read_state(identity) | {"status": "in_progress"}
        state.setdefault("in_progress_at", int(time.time()))
        done = read_rows(place)
        names, num_good = {row["custom_id"] for row in done}, sum(map(_is_good, done))
        missing, num_done = [row for row in rows if row["custom_id"] not in names], len(done)
        status = "completed"
        for num_rows, num_fine in self._stream(missing, info, str(place)):
            num_done, num_good = num_done + num_rows, num_good + num_fine
            state["request_counts"] = counts(len(rows), num_good, num_done - num_good)
            store.write_state(identity, state)
            if store.is_cancelled(identity) or time.time() > info["expires_at"]:
                status = "cancelled" if store.is_cancelled(identity) else "expired"
                break
        status = "cancelled" if store.is_cancelled(identity) and status == "completed" and missing else status
        store.write_state(identity, state | {"status": "finalizing", "finalizing_at": int(time.time())})
        store.write_state(
            identity,
            state
            | _finish(store, info, rows)
            | {
                "status": status,
                f"{status}_at": int(time.time()),
            },
        )
        return status

    def _stream(
        self, rows: list[dict[str, Any]], info: dict[str, Any], place: str
    ) -> Iterator[tuple[int, int]]:
        """Yields, for each shard that was written, its rows and how many of them were answered with 200."""
        import ray

        if not rows:
            return
        ray.data.DataContext.get_current().enable_progress_bars = False
        asked = [
            {"custom_id": row["custom_id"], "body": json.dumps(row["body"], ensure_ascii=False)}
            for row in rows
        ]
        caller = {
            "app_name": self._app_name,
            "endpoint": info["endpoint"],
            "owner": info["owner"],
            "place": place,
        }
        done: Any = ray.data.from_items(
            asked, override_num_blocks=-(-len(asked) // _ROWS_PER_CALL)
        ).map_batches(
            AskService,
            fn_constructor_kwargs=caller,
            batch_size=_ROWS_PER_CALL,
            concurrency=_CALLERS,
            num_cpus=0.1,
        )
        for batch in done.iter_batches(batch_size=1, prefetch_batches=0):
            yield int(batch["rows"][0]), int(batch["good"][0])


class AskService:
    """The map step: asks the service for a few rows at once and writes their shard."""

    def __init__(self, app_name: str, endpoint: str, owner: str, place: str):
        self._app_name, self._endpoint, self._owner, self._place = app_name, endpoint, owner, UPath(place)

    async def _one(self, body: dict[str, Any]) -> tuple[int, Any]:
        from ray import serve
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException
        from tenacity import AsyncRetrying, retry_if_result, stop_after_delay, wait_random_exponential

        async def ask() -> tuple[int, Any]:
            try:
                handle = serve.get_app_handle(self._app_name)
                return await handle.ask.remote(self._endpoint, body, self._owner)
            except (RayError, RayServeException) as error:
                return 503, {
                    "error": {
                        "code": "service_unavailable",
                        "message": f"the service is away ({type(error).__name__})",
                    }
                }

        retrying = AsyncRetrying(
            stop=stop_after_delay(_PATIENCE_S),
            wait=wait_random_exponential(0.2, max=20),
            retry=retry_if_result(lambda reply: reply[0] in _BUSY),
            retry_error_callback=_last_reply,
        )
        return await retrying(ask)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        """Ask for all rows of a batch and write one line for each."""

        async def ask_all() -> list[tuple[int, Any]]:
            return await asyncio.gather(*(self._one(json.loads(body)) for body in batch["body"]))

        names = [str(name) for name in batch["custom_id"]]
        replies = asyncio.run(ask_all())
        lines = [_line(name, status, body) for name, (status, body) in zip(names, replies, strict=True)]
        shard = hashlib.sha256("\0".join(names).encode()).hexdigest()[:32]
        write_bytes(self._place / f"part-{shard}.jsonl", "".join(lines).encode())
        return {"rows": [len(lines)], "good": [sum(status == _GOOD for status, _ in replies)]}


def _last_reply(state: Any) -> tuple[int, Any]:
    return state.outcome.result()


def _line(custom_id: str, status: int, body: Any) -> str:
    identity = f"batch_req_{hashlib.sha256(custom_id.encode()).hexdigest()[:32]}"
    line = {
        "id": identity,
        "custom_id": custom_id,
        "response": {"status_code": status, "body": body},
        "error": None,
    }
    return json.dumps(line, ensure_ascii=False) + "\n"


def read_rows(place: UPath) -> list[dict[str, Any]]:
    """All finished rows of a batch, each once."""
    parts = sorted(place.iterdir(), key=lambda part: part.name) if place.exists() else []
    rows: dict[str, dict[str, Any]] = {}
    for part in parts:
        if part.name.endswith(".jsonl"):
            for line in part.read_text(encoding="utf-8").split("\n"):
                if line:
                    row = json.loads(line)
                    rows.setdefault(row["custom_id"], row)
    return list(rows.values())


def _is_good(row: dict[str, Any]) -> bool:
    return row["response"]["status_code"] == _GOOD


def _finish(store: Store, info: dict[str, Any], asked: list[dict[str, Any]]) -> dict[str, Any]:
    """The output and error files, rows in the order of the input."""
    order = {row["custom_id"]: number for number, row in enumerate(asked)}
    rows = sorted(
        read_rows(store.folder / "batches" / info["id"] / "rows"), key=lambda row: order[row["custom_id"]]
    )
    num_good = sum(map(_is_good, rows))
    found: dict[str, Any] = {"request_counts": counts(len(asked), num_good, len(rows) - num_good)}
    for name, is_wanted in (("output", True), ("error", False)):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows if _is_good(row) is is_wanted]
        if lines:
            file = store.put_file(
                info["owner"], f"{info['id']}-{name}.jsonl", "".join(lines).encode(), "batch_output"
            )
            found[f"{name}_file_id"] = file["id"]
    return found


def start(folder: str, app_name: str, identity: str) -> None:
    """See to it that somebody runs a batch; once for each batch, whoever calls."""
    import ray

    actor: Any = ray.remote(Runner).options(
        name=f"{app_name}-{identity}",
        namespace=app_name,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0.1,
        max_restarts=_RESTARTS,
        max_task_retries=_RESTARTS,
    )
    actor.remote(folder, app_name).run_and_leave.remote(identity)
