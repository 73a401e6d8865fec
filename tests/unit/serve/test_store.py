import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from ray.exceptions import WorkerCrashedError
from upath import UPath

from safe_r1.serve import batches
from safe_r1.serve.api import ApiError
from safe_r1.serve.batches import Runner, read_rows
from safe_r1.serve.store import Store, read_requests
from tests.unit.serve.test_http import call, post

URL = "/v1/safety/evaluate"


def line(custom_id: Any, body: Any = None, **more: Any) -> str:
    row = {
        "custom_id": custom_id,
        "method": "POST",
        "url": URL,
        "body": {"items": [{"prompt": "x"}]} if body is None else body,
    }
    return json.dumps(row | more)


def content(*lines: str) -> bytes:
    return ("\n".join(lines) + "\n").encode()


def test_each_sees_what_is_theirs(tmp_path: Path):
    store = Store(str(tmp_path))
    file = store.put_file("a", "in.jsonl", content(line("1")))
    batch = store.create_batch("a", file["id"], URL, {"why": "test"})
    assert store.content("a", file["id"]) == content(line("1"))
    assert [each["id"] for each in store.files("a")] == [file["id"]]
    assert "owner" not in file | batch
    assert (batch["status"], batch["request_counts"]["total"], batch["metadata"]) == (
        "validating",
        1,
        {"why": "test"},
    )
    assert store.unfinished() == [batch["id"]]
    assert store.files("b") == store.batches("b") == []
    for ask in (store.file, store.content, store.delete_file):
        with pytest.raises(ApiError, match="no file"):
            ask("b", file["id"])
    with pytest.raises(ApiError, match="no batch"):
        store.batch("b", batch["id"])
    assert store.delete_file("a", file["id"])["deleted"]
    assert store.files("a") == []


@pytest.mark.parametrize(
    "identity", ["../../etc/passwd", "file-1", "", "file-" + "0" * 32, "file-" + "0" * 32 + "/.."]
)
def test_only_an_id_becomes_a_path(tmp_path: Path, identity: str):
    with pytest.raises(ApiError) as caught:
        Store(str(tmp_path)).content("a", identity)
    assert caught.value.status == 404


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("{", "not JSON"),
        ("7", "an object"),
        (line("1", {"items": [{"prompt": "x"}], "temperature": float("nan")}), "not JSON"),
        (line("\ud83d"), "not JSON"),
        (line(3), "custom_id"),
        (line(""), "custom_id"),
        (line("1"), "earlier line"),
        (line("2", method="GET"), "POST"),
        (line("2", url="/v1/chat/completions"), "POST and url"),
        (line("2", body=[]), "object body"),
        (line("2", body={"stream": True}), "stream"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_file_that_cannot_be_used_names_its_lines(tmp_path: Path, bad: str, said: str):
    store = Store(str(tmp_path))
    file = store.put_file("a", "in.jsonl", content(line("1"), "", bad))
    batch = store.create_batch("a", file["id"], URL, None)
    assert batch["status"] == "failed"
    assert store.unfinished() == []
    error = batch["errors"]["data"][0]
    assert error["line"] == 3
    assert said in error["message"]


def test_an_empty_file_and_another_endpoint(tmp_path: Path):
    store = Store(str(tmp_path))
    file = store.put_file("a", "in.jsonl", b"\n")
    assert store.create_batch("a", file["id"], URL, None)["errors"]["data"][0]["code"] == "empty_file"
    with pytest.raises(ApiError, match="a batch goes to"):
        store.create_batch("a", file["id"], "/v1/embeddings", None)


def test_a_batch_takes_no_more_items_than_its_key_may(tmp_path: Path):
    keys = tmp_path / "keys.toml"
    keys.write_text('[team]\nkey = "a-secret-of-some-length"\nitems_per_batch = 3\n', "utf-8")
    two = {"items": [{"prompt": "x"}] * 2}

    async def ask(http: httpx.AsyncClient) -> list[Any]:
        http.headers["Authorization"] = "Bearer a-secret-of-some-length"
        made = []
        for rows in ([line("1", two), line("2")], [line("1", two), line("2", two)]):
            sent = await http.post(
                "/v1/files", files={"file": ("in.jsonl", content(*rows))}, data={"purpose": "batch"}
            )
            batch = {"input_file_id": sent.json()["id"], "endpoint": URL}
            made.append((await http.post("/v1/batches", json=batch)).json())
        return made

    fits, too_large = call(ask, batches=str(tmp_path / "batches"), api_keys=str(keys))
    assert fits["status"] == "validating"
    assert (too_large["status"], too_large["errors"]["data"][0]["code"]) == ("failed", "too_many_items")


def test_line_separators_in_texts_end_no_line():
    body = {"items": [{"prompt": "一\u2028二\x85三"}]}
    text = json.dumps({"custom_id": "1", "method": "POST", "url": URL, "body": body}, ensure_ascii=False)
    rows, errors = read_requests(text.encode(), URL)
    assert errors == []
    assert rows[0]["body"] == body


class Here(Runner):
    """Runs without Ray: the rows are asked for in this process."""

    def __init__(self, folder: str, stop_after: int | None = None, on_row: Any = None):
        super().__init__(folder, "app")
        self.stop_after, self.on_row, self.asked = stop_after, on_row, []

    def _stream(self, rows: list[dict[str, Any]], info: dict[str, Any], place: str):
        for number, row in enumerate(rows):
            if number == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(row["custom_id"])
            status = 400 if row["custom_id"] == "bad" else 200
            text = batches._line(row["custom_id"], status, {"said": row["custom_id"]})
            UPath(place).mkdir(parents=True, exist_ok=True)
            (UPath(place) / f"part-{row['custom_id']}.jsonl").write_text(text)
            if self.on_row:
                self.on_row(row["custom_id"])
            yield 1, int(status == 200)


def make(tmp_path: Path, *names: str) -> tuple[Store, str]:
    store = Store(str(tmp_path))
    file = store.put_file("a", "in.jsonl", content(*map(line, names)))
    return store, store.create_batch("a", file["id"], URL, None)["id"]


def test_a_batch_runs_to_its_files(tmp_path: Path):
    store, identity = make(tmp_path, "z", "bad", "a")
    assert Here(str(tmp_path)).run(identity) == "completed"
    batch = store.batch("a", identity)
    assert batch["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    rows = [json.loads(each) for each in store.content("a", batch["output_file_id"]).decode().splitlines()]
    assert [row["custom_id"] for row in rows] == ["z", "a"]
    assert rows[0]["response"] == {"status_code": 200, "body": {"said": "z"}}
    errors = [json.loads(each) for each in store.content("a", batch["error_file_id"]).decode().splitlines()]
    assert [row["custom_id"] for row in errors] == ["bad"]
    assert store.unfinished() == []


def test_a_batch_that_was_killed_asks_for_the_rest_alone(tmp_path: Path):
    store, identity = make(tmp_path, "1", "2", "3")
    with pytest.raises(KeyboardInterrupt):
        Here(str(tmp_path), stop_after=2).run(identity)
    assert store.unfinished() == [identity]
    again = Here(str(tmp_path))
    assert again.run(identity) == "completed"
    assert again.asked == ["3"]
    assert store.batch("a", identity)["request_counts"]["completed"] == 3


def test_a_batch_that_has_ended_is_not_run_again(tmp_path: Path):
    store, identity = make(tmp_path, "1", "2")
    assert Here(str(tmp_path)).run(identity) == "completed"
    before, again = store.batch("a", identity), Here(str(tmp_path))
    assert again.run(identity) == "completed"
    assert again.asked == []
    assert store.batch("a", identity) == before
    assert len(store.files("a")) == 2


def test_a_batch_does_not_need_its_file_any_more(tmp_path: Path):
    store, identity = make(tmp_path, "1")
    store.delete_file("a", store.batch("a", identity)["input_file_id"])
    assert Here(str(tmp_path)).run(identity) == "completed"


def test_a_batch_that_cannot_be_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(name: str) -> None:
        raise OSError(f"no room for {name}")

    store, identity = make(tmp_path, "1", "2")
    assert Here(str(tmp_path), on_row=broken).run(identity) == "failed"
    batch = store.batch("a", identity)
    assert batch["errors"]["data"][0]["message"] == "the batch could not be run: OSError"
    assert store.unfinished() == []

    lost = iter([True, False])

    def lose(name: str) -> None:
        if next(lost):
            raise WorkerCrashedError

    monkeypatch.setattr(batches, "_PAUSE_S", 0.01)
    store, identity = make(tmp_path, "1", "2")
    runner = Here(str(tmp_path), on_row=lose)
    assert runner.run(identity) == "completed"
    assert runner.asked == ["1", "2"]


def test_a_cancelled_batch_keeps_what_is_finished(tmp_path: Path):
    store, identity = make(tmp_path, "1", "2", "3")
    runner = Here(str(tmp_path), on_row=lambda name: store.cancel("a", identity) if name == "2" else None)
    assert runner.run(identity) == "cancelled"
    batch = store.batch("a", identity)
    assert batch["status"] == "cancelled"
    assert len(store.content("a", batch["output_file_id"]).splitlines()) == 2
    with pytest.raises(ApiError, match="is cancelled"):
        store.cancel("a", identity)


def test_shards_of_a_row_written_twice_count_once(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / f"part-{name}.jsonl").write_text(batches._line("1", 200, {}))
    assert len(read_rows(UPath(tmp_path))) == 1


def test_the_routes(tmp_path: Path):
    place: dict[str, Any] = {"batches": str(tmp_path)}

    async def use(http: httpx.AsyncClient) -> list[httpx.Response]:
        made = await http.post(
            "/v1/files", files={"file": ("in.jsonl", content(line("1")))}, data={"purpose": "batch"}
        )
        batch = await http.post("/v1/batches", json={"input_file_id": made.json()["id"], "endpoint": URL})
        return [
            made,
            batch,
            await http.get("/v1/files"),
            await http.get(f"/v1/files/{made.json()['id']}/content"),
            await http.get(f"/v1/batches/{batch.json()['id']}"),
            await http.post(f"/v1/batches/{batch.json()['id']}/cancel"),
            await http.get("/v1/batches"),
            await http.delete(f"/v1/files/{made.json()['id']}"),
        ]

    responses = call(use, **place)
    assert [response.status_code for response in responses] == [200] * 8, [
        response.text for response in responses
    ]
    assert responses[3].content == content(line("1"))
    assert responses[5].json()["status"] == "cancelling"
    assert responses[6].json()["data"][0]["id"] == responses[1].json()["id"]
    assert post("/v1/batches", {"input_file_id": "file-1", "endpoint": URL}, **place).status_code == 404
    assert post("/v1/files", {}, **place).status_code == 400
    assert post("/v1/batches", {"input_file_id": "x", "endpoint": URL}).status_code == 404
