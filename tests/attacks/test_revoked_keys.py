"""A key that is revoked while its batch runs: whoever holds it gets no further row."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from ray import serve

from safe_r1.serve import keys as key_files
from safe_r1.serve.access import post_as
from safe_r1.serve.batch_input import RequestRow
from safe_r1.serve.batch_objects import OwnedBatchInfo
from safe_r1.serve.batches import BatchRunner, ServiceCaller, ShardCounts
from safe_r1.serve.store import BatchStore
from tests.unit.serve.batch_files import URL, make_batch, make_line
from tests.unit.serve.fakes import make_app

A = '[a]\nkey = "a-secret-of-some-length"\n'
OTHER_A = '[a]\nkey = "a-renewed-secret-of-a"\n'
B = '[b]\nkey = "another-secret-of-length"\n'
NUM_ROWS = 6


class ShardRunner(BatchRunner):
    """Sends shards of two rows by the real caller, without Ray Data."""

    def __init__(self, folder: Path, before_shard: Callable[[int], object] = lambda number: None):
        super().__init__(str(folder), "app")
        self._before_shard = before_shard

    def _process(self, rows: list[RequestRow], info: OwnedBatchInfo, folder: str) -> Iterator[ShardCounts]:
        caller = ServiceCaller("app", info["endpoint"], info["owner"], folder)
        for start in range(0, len(rows), 2):
            self._before_shard(start // 2)
            shard = rows[start : start + 2]
            counts = caller(
                {
                    "custom_id": np.array([row["custom_id"] for row in shard]),
                    "body": np.array([json.dumps(row["body"]) for row in shard]),
                }
            )
            yield ShardCounts(*(counts[name][0] for name in ShardCounts._fields))


class Service:
    """The service of a key file, whose file is read anew for every row."""

    def __init__(self, keys: Path):
        self.app = make_app(api_keys=str(keys))
        self.num_rows = 0
        self.post = SimpleNamespace(remote=self._post)

    async def _post(self, path: str, body: dict[str, object], owner: str) -> tuple[int, Any]:
        self.num_rows += 1
        return await post_as(owner, self.app, path, body)


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(key_files, "_CHECK_INTERVAL_S", 0.0)
    monkeypatch.setattr(key_files, "_RETRY_INTERVAL_S", 0.0)
    file = tmp_path / "keys.toml"
    file.write_text(A + B)
    return file


@pytest.fixture
def service(keys: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    made = Service(keys)
    monkeypatch.setattr(serve, "get_app_handle", lambda name: made)
    return made


def batch_of(folder: Path, owner: str = "a") -> tuple[BatchStore, str]:
    store, first = make_batch(folder, *map(str, range(NUM_ROWS)))
    if owner == "a":
        return store, first
    lines = "\n".join(make_line(str(number)) for number in range(NUM_ROWS)).encode()
    file = store.put_file(owner, "in.jsonl", lines)
    return store, store.create_batch(owner, file["id"], URL, None)["id"]


@pytest.mark.parametrize("num_shards", [0, 1, 2])
def test_a_batch_ends_with_the_key_of_its_owner(
    tmp_path: Path, keys: Path, service: Service, num_shards: int
):
    store, batch_id = batch_of(tmp_path)

    def revoke(shard: int) -> None:
        if shard == num_shards:
            keys.write_text(B)

    assert ShardRunner(tmp_path, revoke).run(batch_id) == "failed"
    batch = store.batch("a", batch_id)
    assert batch["status"] == "failed"
    assert batch["errors"] is not None
    assert [error["code"] for error in batch["errors"]["data"]] == ["api_key_revoked"]
    assert batch["request_counts"] == {"total": NUM_ROWS, "completed": 2 * num_shards, "failed": 0}
    # What was done is kept, in OpenAI's form; what was refused is no row, and no further shard was sent.
    output = store.content("a", batch["output_file_id"]).decode() if batch["output_file_id"] else ""
    done = [json.loads(line)["custom_id"] for line in output.splitlines()]
    assert done == [str(number) for number in range(2 * num_shards)]
    assert batch["error_file_id"] is None
    assert service.num_rows == 2 * num_shards + 2
    # It has ended: a service that starts again, even with the key, does not resume it.
    keys.write_text(A + B)
    assert store.unfinished() == []
    assert ShardRunner(tmp_path).run(batch_id) == "failed"
    assert service.num_rows == 2 * num_shards + 2


@pytest.mark.parametrize("change", [B, A + B, OTHER_A + B, B + '[c]\nkey = "a-third-key-of-length"\n'])
def test_no_other_batch_ends(tmp_path: Path, keys: Path, service: Service, change: str):
    store, batch_id = batch_of(tmp_path, "b")
    runner = ShardRunner(tmp_path, lambda shard: keys.write_text(change))
    assert runner.run(batch_id) == "completed"
    assert store.batch("b", batch_id)["request_counts"]["completed"] == NUM_ROWS


def test_a_key_that_was_renewed_keeps_its_batch(tmp_path: Path, keys: Path, service: Service):
    _, batch_id = batch_of(tmp_path)
    assert ShardRunner(tmp_path, lambda shard: keys.write_text(OTHER_A)).run(batch_id) == "completed"


@pytest.mark.parametrize("damage", ["", "[a", "\0", B + "[a]\nkey = 'short'\n", None])
def test_a_file_in_error_makes_a_batch_wait_and_not_end(
    tmp_path: Path, keys: Path, service: Service, damage: str | None
):
    """Rows are answered 503, which a batch tries again, until the file says who has a key."""
    assert asyncio.run(service._post(URL, {"items": [{"prompt": "x"}]}, "a"))[0] != 503
    if damage is None:
        keys.unlink()
    else:
        keys.write_text(damage)
    status, body = asyncio.run(service._post(URL, {"items": [{"prompt": "x"}]}, "a"))
    assert (status, body["error"]["code"]) == (503, "keys_unavailable")
    keys.write_text(A)
    _, batch_id = batch_of(tmp_path)
    assert ShardRunner(tmp_path).run(batch_id) == "completed"


def test_a_service_without_keys_runs_its_batches(tmp_path: Path):
    app = make_app()
    assert asyncio.run(post_as("local", app, URL, {"items": [{"prompt": "x"}]}))[0] == 200


def test_the_refusal_cannot_be_had_from_outside(keys: Path):
    """The owner is a key of the scope: no header of a request names one."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(make_app(api_keys=str(keys)))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            return await http.post(URL, json={}, headers={"safe_r1.owner": "a", "X-Owner": "a"})

    assert asyncio.run(ask()).status_code == 401
