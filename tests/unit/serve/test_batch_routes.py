from pathlib import Path
from typing import Any

import httpx

from tests.unit.serve.batch_files import URL, make_content, make_line
from tests.unit.serve.fakes import call, post


def test_the_items_of_a_batch_are_limited_by_its_key(tmp_path: Path):
    keys = tmp_path / "keys.toml"
    keys.write_text('[team]\nkey = "a-secret-of-some-length"\nitems_per_batch = 3\n', "utf-8")
    two = {"items": [{"prompt": "x"}] * 2}

    async def create(http: httpx.AsyncClient) -> list[Any]:
        http.headers["Authorization"] = "Bearer a-secret-of-some-length"
        created = []
        for rows in ([make_line("1", two), make_line("2")], [make_line("1", two), make_line("2", two)]):
            sent = await http.post(
                "/v1/files", files={"file": ("in.jsonl", make_content(*rows))}, data={"purpose": "batch"}
            )
            batch = {"input_file_id": sent.json()["id"], "endpoint": URL}
            created.append((await http.post("/v1/batches", json=batch)).json())
        return created

    fits, too_large = call(create, batches=str(tmp_path / "batches"), api_keys=str(keys))
    assert fits["status"] == "validating"
    assert (too_large["status"], too_large["errors"]["data"][0]["code"]) == ("failed", "too_many_items")


def test_the_routes(tmp_path: Path):
    settings: dict[str, Any] = {"batches": str(tmp_path)}

    async def use(http: httpx.AsyncClient) -> list[httpx.Response]:
        upload = {"file": ("in.jsonl", make_content(make_line("1")))}
        file = await http.post("/v1/files", files=upload, data={"purpose": "batch"})
        file_id = file.json()["id"]
        batch = await http.post("/v1/batches", json={"input_file_id": file_id, "endpoint": URL})
        return [
            file,
            batch,
            await http.get("/v1/files"),
            await http.get(f"/v1/files/{file_id}/content"),
            await http.get(f"/v1/batches/{batch.json()['id']}"),
            await http.post(f"/v1/batches/{batch.json()['id']}/cancel"),
            await http.get("/v1/batches"),
            await http.delete(f"/v1/files/{file_id}"),
        ]

    responses = call(use, **settings)
    assert [response.status_code for response in responses] == [200] * 8, [
        response.text for response in responses
    ]
    assert responses[3].content == make_content(make_line("1"))
    assert responses[5].json()["status"] == "cancelling"
    assert responses[6].json()["data"][0]["id"] == responses[1].json()["id"]
    assert post("/v1/batches", {"input_file_id": "file-1", "endpoint": URL}, **settings).status_code == 404
    assert post("/v1/files", {}, **settings).status_code == 400
    assert post("/v1/batches", {"input_file_id": "x", "endpoint": URL}).status_code == 404
