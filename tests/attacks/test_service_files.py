"""Files and batches of the service that are damaged, being deleted, or costly to read."""

import threading
from pathlib import Path

import pytest

from safe_r1.serve.batch_input import read_requests
from safe_r1.serve.store import BatchStore
from tests.unit.serve.batch_files import URL, make_batch, make_content, make_line
from tests.unit.serve.fakes import call

DAMAGE = [b"", b"{", b"[]", b"null", b'{"status": 1}', b"\xff\xfe", b"[" * 100_000, b'{"owner": "a"}', None]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["files/{file}/file.json", "batches/{batch}/batch.json"])
def test_damaged_objects_are_left_out_of_all_lists(tmp_path: Path, name: str, damage: bytes | None):
    """A file of another key's that is damaged, or replaced by a folder, changes nobody's list."""
    store, first = make_batch(tmp_path, "1")
    file = store.put_file("b", "in.jsonl", make_content(make_line("1")))
    other = store.create_batch("b", file["id"], URL, None)
    _damage(tmp_path / name.format(file=file["id"], batch=other["id"]), damage)
    assert [each["id"] for each in store.batches("a")] == [first]
    assert len(store.files("a")) == 1
    assert len(store.files("b")) + len(store.batches("b")) == 1
    assert first in store.unfinished()
    assert store.put_file("a", "in.jsonl", b"")["id"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_is_set_aside_and_the_batch_goes_on(
    tmp_path: Path, damage: bytes | None, caplog: pytest.LogCaptureFixture
):
    store, first = make_batch(tmp_path, "1")
    state = tmp_path / "batches" / first / "state.json"
    _damage(state, damage)
    assert store.unfinished() == [first]
    assert state.with_name("state.json.damaged").exists()
    assert first in caplog.text
    [listed] = store.batches("a")
    assert (listed["status"], listed["request_counts"]["total"]) == ("validating", 1)
    # The service starts and lists with it.
    app_lists = call(lambda http: http.get("/v1/batches"), batches=str(tmp_path))
    assert app_lists.status_code == 200


def _damage(file: Path, damage: bytes | None) -> None:
    file.unlink()
    if damage is None:
        file.mkdir()
    else:
        file.write_bytes(damage)


def test_lists_hold_while_files_are_deleted(tmp_path: Path):
    store = BatchStore(str(tmp_path))
    kept = store.put_file("a", "in.jsonl", b"x")
    others = [store.put_file("b", "in.jsonl", b"x")["id"] for _ in range(30)]
    deleting = threading.Thread(target=lambda: [store.delete_file("b", each) for each in others])
    deleting.start()
    while deleting.is_alive():
        assert [each["id"] for each in store.files("a")] == [kept["id"]]
        store.files("b")
    deleting.join()
    assert store.files("b") == []


def test_a_batch_row_is_no_deeper_or_larger_than_a_request():
    for body in ("[" * 10_000 + "]" * 10_000, "[" + "0," * 300_000 + "0]"):
        line = make_line("1").replace('"x"', body)
        rows, [error] = read_requests(make_content(line), URL)
        assert (rows, error["code"]) == ([], "invalid_line")
