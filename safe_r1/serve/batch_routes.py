"""``/v1/files`` and ``/v1/batches`` in OpenAI's form."""

import asyncio
from typing import Annotated, Any, Literal

from fastapi import FastAPI, File, Form, Request, Response, UploadFile
from pydantic import BaseModel, ConfigDict, Field

from safe_r1.serve.access import Allowed, owner
from safe_r1.serve.api import Text
from safe_r1.serve.service import Service
from safe_r1.serve.store import Store


class BatchRequest(BaseModel):
    """``POST /v1/batches``."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"examples": [{"input_file_id": "file-…", "endpoint": "/v1/safety/evaluate"}]},
    )
    input_file_id: str
    endpoint: str
    completion_window: Literal["24h"] = "24h"
    metadata: dict[Text, Text] | None = Field(default=None, max_length=16)


def add_batch_routes(app: FastAPI) -> None:
    """Add the routes; the service has a store."""
    _add_file_routes(app)

    @app.post("/v1/batches", tags=["batches"])
    async def create(body: BatchRequest, request: Request, service: Allowed) -> dict[str, Any]:
        """Begin a batch over an uploaded file."""
        make, room = (
            _store(service).create_batch,
            service.limits.allowed(request.state.key[1], "items_per_batch"),
        )
        made = await _in_thread(make, owner(request), body.input_file_id, body.endpoint, body.metadata, room)
        if made["status"] != "failed" and service.start_batch:
            await _in_thread(service.start_batch, made["id"])
        return made

    @app.get("/v1/batches", tags=["batches"])
    async def list_all(request: Request, service: Allowed) -> dict[str, Any]:
        """All batches of this key."""
        return _listed(await _in_thread(_store(service).batches, owner(request)))

    @app.get("/v1/batches/{batch_id}", tags=["batches"])
    async def get(batch_id: str, request: Request, service: Allowed) -> dict[str, Any]:
        """How far a batch is."""
        return await _in_thread(_store(service).batch, owner(request), batch_id)

    @app.post("/v1/batches/{batch_id}/cancel", tags=["batches"])
    async def cancel(batch_id: str, request: Request, service: Allowed) -> dict[str, Any]:
        """End a batch; finished rows are kept."""
        return await _in_thread(_store(service).cancel, owner(request), batch_id)


def _add_file_routes(app: FastAPI) -> None:
    @app.post("/v1/files", tags=["files"])
    async def upload(
        request: Request,
        service: Allowed,
        file: Annotated[UploadFile, File()],
        purpose: Annotated[Literal["batch"], Form()],
    ) -> dict[str, Any]:
        """Keep a JSONL file."""
        content = await file.read()
        return await _in_thread(
            _store(service).put_file, owner(request), file.filename or "file", content, purpose
        )

    @app.get("/v1/files", tags=["files"])
    async def list_all(request: Request, service: Allowed) -> dict[str, Any]:
        """All files of this key."""
        return _listed(await _in_thread(_store(service).files, owner(request)))

    @app.get("/v1/files/{file_id}", tags=["files"])
    async def get(file_id: str, request: Request, service: Allowed) -> dict[str, Any]:
        """A file's facts."""
        return await _in_thread(_store(service).file, owner(request), file_id)

    @app.get("/v1/files/{file_id}/content", tags=["files"], response_class=Response)
    async def content(file_id: str, request: Request, service: Allowed) -> Response:
        """What is in it."""
        found = await _in_thread(_store(service).content, owner(request), file_id)
        return Response(found, media_type="application/jsonl", headers={"X-Content-Type-Options": "nosniff"})

    @app.delete("/v1/files/{file_id}", tags=["files"])
    async def delete(file_id: str, request: Request, service: Allowed) -> dict[str, Any]:
        """Remove it."""
        return await _in_thread(_store(service).delete_file, owner(request), file_id)


def _store(service: Service) -> Store:
    assert service.store is not None, "the routes are there only with a store"
    return service.store


async def _in_thread(function: Any, *arguments: Any) -> Any:
    """Storage may be slow; the event loop shall not wait for it."""
    return await asyncio.to_thread(function, *arguments)


def _listed(found: list[dict[str, Any]]) -> dict[str, Any]:
    ends = (
        {"first_id": found[0]["id"], "last_id": found[-1]["id"]}
        if found
        else {"first_id": None, "last_id": None}
    )
    return {"object": "list", "data": found, "has_more": False} | ends
