import time
from pathlib import Path

import pytest

from safe_r1.serve.errors import ApiError
from safe_r1.serve.store import BatchStore, Retention
from tests.unit.serve.batch_files import URL, make_batch, make_content, make_line


def test_each_key_has_access_to_its_own_objects_only(tmp_path: Path):
    store = BatchStore(str(tmp_path))
    file = store.put_file("a", "in.jsonl", make_content(make_line("1")))
    batch = store.create_batch("a", file["id"], URL, {"why": "test"})
    assert store.content("a", file["id"]) == make_content(make_line("1"))
    assert [each["id"] for each in store.files("a")] == [file["id"]]
    assert "owner" not in {**file, **batch}
    assert (batch["status"], batch["request_counts"]["total"], batch["metadata"]) == (
        "validating",
        1,
        {"why": "test"},
    )
    assert store.unfinished() == [batch["id"]]
    assert store.files("b") == store.batches("b") == []
    for method in (store.file, store.content, store.delete_file):
        with pytest.raises(ApiError, match="no file"):
            method("b", file["id"])
    with pytest.raises(ApiError, match="no batch"):
        store.batch("b", batch["id"])
    assert store.delete_file("a", file["id"])["deleted"]
    assert store.files("a") == []


@pytest.mark.parametrize(
    "file_id", ["../../etc/passwd", "file-1", "", "file-" + "0" * 32, "file-" + "0" * 32 + "/.."]
)
def test_only_a_well_formed_id_becomes_a_path(tmp_path: Path, file_id: str):
    with pytest.raises(ApiError) as caught:
        BatchStore(str(tmp_path)).content("a", file_id)
    assert caught.value.status == 404


def test_a_batch_with_an_invalid_file_has_failed(tmp_path: Path):
    store = BatchStore(str(tmp_path))
    file = store.put_file("a", "in.jsonl", make_content(make_line("1"), "", "{"))
    batch = store.create_batch("a", file["id"], URL, None)
    assert batch["status"] == "failed"
    assert store.unfinished() == []
    assert batch["errors"] is not None
    [error] = batch["errors"]["data"]
    assert (error["code"], error["line"]) == ("invalid_line", 3)


def test_an_unsupported_endpoint(tmp_path: Path):
    store = BatchStore(str(tmp_path))
    file = store.put_file("a", "in.jsonl", b"\n")
    with pytest.raises(ApiError, match="a batch goes to"):
        store.create_batch("a", file["id"], "/v1/embeddings", None)


def test_only_a_batch_that_has_not_ended_can_be_cancelled(tmp_path: Path):
    store, batch_id = make_batch(tmp_path, "1")
    assert store.cancel("a", batch_id)["status"] == "cancelling"
    store.write_state(batch_id, {**store.read_state(batch_id), "status": "cancelled"})
    with pytest.raises(ApiError, match="is cancelled"):
        store.cancel("a", batch_id)


def test_a_key_stores_only_so_much_and_for_so_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = BatchStore(str(tmp_path), Retention(max_bytes=20_000, max_age_s=100))
    content = make_content(make_line("1"))
    first, *_ = [store.put_file("a", "in.jsonl", content) for _ in range(2)]
    batch = store.create_batch("a", first["id"], URL, None)
    # Each counts as 4 KiB at least.
    store.put_file("a", "in.jsonl", content)
    with pytest.raises(ApiError, match="delete files") as caught:
        store.put_file("a", "in.jsonl", b"x" * 9000)
    assert caught.value.status == 413
    store.put_file("b", "in.jsonl", b"x" * 9000)
    store.put_file("a", "out.jsonl", b"x" * 9000, "batch_output")
    assert store.file("a", first["id"]).get("expires_at") == first["created_at"] + 100
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 200)
    with pytest.raises(ApiError, match="no file"):
        store.file("a", first["id"])
    assert store.files("a") == store.files("b") == []
    assert not list((tmp_path / "files").iterdir())
    assert [each["id"] for each in store.batches("a")] == [batch["id"]], "it has not ended"
    store.write_state(batch["id"], {**store.read_state(batch["id"]), "status": "completed"})
    assert store.batches("a") == []
