import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ray.exceptions import WorkerCrashedError
from upath import UPath

from safe_r1.serve import batches
from safe_r1.serve.batch_input import RequestRow
from safe_r1.serve.batch_objects import OwnedBatchInfo
from safe_r1.serve.batches import BatchRunner, ResponseRow, ShardCounts, read_rows
from safe_r1.serve.errors import ApiError
from safe_r1.serve.store import BatchStore
from tests.unit.serve.batch_files import make_batch


class LocalRunner(BatchRunner):
    """Runs without Ray: the rows are processed in this process."""

    def __init__(
        self, folder: str, stop_after: int | None = None, on_row: Callable[[str], object] | None = None
    ):
        super().__init__(folder, "app")
        self.stop_after = stop_after
        self.on_row = on_row
        self.processed: list[str] = []

    def _process(self, rows: list[RequestRow], info: OwnedBatchInfo, folder: str) -> Iterator[ShardCounts]:
        for number, row in enumerate(rows):
            if number == self.stop_after:
                raise KeyboardInterrupt
            self.processed.append(row["custom_id"])
            status = 400 if row["custom_id"] == "bad" else 200
            text = batches._format_row(row["custom_id"], status, {"said": row["custom_id"]})
            UPath(folder).mkdir(parents=True, exist_ok=True)
            (UPath(folder) / f"part-{row['custom_id']}.jsonl").write_text(text)
            if self.on_row:
                self.on_row(row["custom_id"])
            yield ShardCounts(1, int(status == 200))


def read_file(store: BatchStore, file_id: str | None) -> list[ResponseRow]:
    assert file_id is not None
    return [json.loads(line) for line in store.content("a", file_id).decode().splitlines()]


def test_a_batch_writes_its_output_and_error_files(tmp_path: Path):
    store, batch_id = make_batch(tmp_path, "z", "bad", "a")
    assert LocalRunner(str(tmp_path)).run(batch_id) == "completed"
    batch = store.batch("a", batch_id)
    assert batch["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    rows = read_file(store, batch["output_file_id"])
    assert [row["custom_id"] for row in rows] == ["z", "a"]
    assert rows[0]["response"] == {"status_code": 200, "body": {"said": "z"}}
    errors = read_file(store, batch["error_file_id"])
    assert [row["custom_id"] for row in errors] == ["bad"]
    assert store.unfinished() == []


def test_a_batch_that_was_killed_processes_only_missing_rows(tmp_path: Path):
    store, batch_id = make_batch(tmp_path, "1", "2", "3")
    with pytest.raises(KeyboardInterrupt):
        LocalRunner(str(tmp_path), stop_after=2).run(batch_id)
    assert store.unfinished() == [batch_id]
    again = LocalRunner(str(tmp_path))
    assert again.run(batch_id) == "completed"
    assert again.processed == ["3"]
    assert store.batch("a", batch_id)["request_counts"]["completed"] == 3


def test_a_batch_that_has_ended_is_not_run_again(tmp_path: Path):
    store, batch_id = make_batch(tmp_path, "1", "2")
    assert LocalRunner(str(tmp_path)).run(batch_id) == "completed"
    before = store.batch("a", batch_id)
    again = LocalRunner(str(tmp_path))
    assert again.run(batch_id) == "completed"
    assert again.processed == []
    assert store.batch("a", batch_id) == before
    assert len(store.files("a")) == 2


def test_a_running_batch_does_not_need_its_input_file(tmp_path: Path):
    store, batch_id = make_batch(tmp_path, "1")
    store.delete_file("a", store.batch("a", batch_id)["input_file_id"])
    assert LocalRunner(str(tmp_path)).run(batch_id) == "completed"


def test_a_batch_that_cannot_be_run_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(name: str) -> None:
        raise OSError(f"no room for {name}")

    store, batch_id = make_batch(tmp_path, "1", "2")
    assert LocalRunner(str(tmp_path), on_row=broken).run(batch_id) == "failed"
    batch = store.batch("a", batch_id)
    assert batch["errors"] is not None
    assert batch["errors"]["data"][0]["message"] == "the batch could not be run: OSError"
    assert store.unfinished() == []

    lost = iter([True, False])

    def lose(name: str) -> None:
        if next(lost):
            raise WorkerCrashedError

    monkeypatch.setattr(batches, "_RESTART_PAUSE_S", 0.01)
    store, batch_id = make_batch(tmp_path, "1", "2")
    runner = LocalRunner(str(tmp_path), on_row=lose)
    assert runner.run(batch_id) == "completed"
    assert runner.processed == ["1", "2"]


def test_a_cancelled_batch_keeps_finished_rows(tmp_path: Path):
    store, batch_id = make_batch(tmp_path, "1", "2", "3")
    runner = LocalRunner(
        str(tmp_path), on_row=lambda name: store.cancel("a", batch_id) if name == "2" else None
    )
    assert runner.run(batch_id) == "cancelled"
    batch = store.batch("a", batch_id)
    assert batch["status"] == "cancelled"
    assert len(read_file(store, batch["output_file_id"])) == 2
    with pytest.raises(ApiError, match="is cancelled"):
        store.cancel("a", batch_id)


def test_a_row_in_two_shards_counts_once(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / f"part-{name}.jsonl").write_text(batches._format_row("1", 200, {}))
    assert len(read_rows(UPath(tmp_path))) == 1
