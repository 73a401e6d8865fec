"""``/v1/files`` and ``/v1/batches`` in OpenAI's form."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from fastapi import FastAPI, File, Form, Request, Response, UploadFile
from pydantic import BaseModel, ConfigDict, Field

from safe_r1.serve.access import AuthorizedService, get_owner
from safe_r1.serve.batch_objects import BatchObject, FileObject
from safe_r1.serve.schemas import Text
from safe_r1.serve.service import Service
from safe_r1.serve.store import BatchStore


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


# Storage may be slow: every call of the store runs in a thread, so that it does not block the event loop.


def add_batch_routes(app: FastAPI) -> None:
    """Add the routes to an app whose service has a store."""
    _add_file_routes(app)

    @app.post("/v1/batches", tags=["batches"])
    async def create(
        body: BatchRequest, request: Request, service: AuthorizedService
    ) -> Mapping[str, object]:
        """Create a batch over an uploaded file and start it."""
        _, key = request.state.key
        batch = await asyncio.to_thread(
            _store(service).create_batch,
            get_owner(request),
            body.input_file_id,
            body.endpoint,
            body.metadata,
            service.limits.limit_of(key, "items_per_batch"),
        )
        if batch["status"] != "failed" and service.start_batch:
            await asyncio.to_thread(service.start_batch, batch["id"])
        return batch

    @app.get("/v1/batches", tags=["batches"])
    async def list_all(request: Request, service: AuthorizedService) -> Mapping[str, object]:
        """List all batches of this key."""
        return _page(await asyncio.to_thread(_store(service).batches, get_owner(request)))

    @app.get("/v1/batches/{batch_id}", tags=["batches"])
    async def get(batch_id: str, request: Request, service: AuthorizedService) -> Mapping[str, object]:
        """Status of a batch."""
        return await asyncio.to_thread(_store(service).batch, get_owner(request), batch_id)

    @app.post("/v1/batches/{batch_id}/cancel", tags=["batches"])
    async def cancel(batch_id: str, request: Request, service: AuthorizedService) -> Mapping[str, object]:
        """Cancel a batch; finished rows are kept."""
        return await asyncio.to_thread(_store(service).cancel, get_owner(request), batch_id)


def _add_file_routes(app: FastAPI) -> None:
    @app.post("/v1/files", tags=["files"])
    async def upload(
        request: Request,
        service: AuthorizedService,
        file: Annotated[UploadFile, File()],
        purpose: Annotated[Literal["batch"], Form()],
    ) -> Mapping[str, object]:
        """Upload a JSONL file."""
        content = await file.read()
        name = file.filename or "file"
        return await asyncio.to_thread(_store(service).put_file, get_owner(request), name, content, purpose)

    @app.get("/v1/files", tags=["files"])
    async def list_all(request: Request, service: AuthorizedService) -> Mapping[str, object]:
        """List all files of this key."""
        return _page(await asyncio.to_thread(_store(service).files, get_owner(request)))

    @app.get("/v1/files/{file_id}", tags=["files"])
    async def get(file_id: str, request: Request, service: AuthorizedService) -> Mapping[str, object]:
        """Describe a file."""
        return await asyncio.to_thread(_store(service).file, get_owner(request), file_id)

    @app.get("/v1/files/{file_id}/content", tags=["files"], response_class=Response)
    async def content(file_id: str, request: Request, service: AuthorizedService) -> Response:
        """Download a file."""
        found = await asyncio.to_thread(_store(service).content, get_owner(request), file_id)
        # Uploaded by a caller: a browser must not interpret it as HTML.
        return Response(found, media_type="application/jsonl", headers={"X-Content-Type-Options": "nosniff"})

    @app.delete("/v1/files/{file_id}", tags=["files"])
    async def delete(file_id: str, request: Request, service: AuthorizedService) -> Mapping[str, object]:
        """Delete a file."""
        return await asyncio.to_thread(_store(service).delete_file, get_owner(request), file_id)


def _store(service: Service) -> BatchStore:
    assert service.store is not None, "these routes exist only with a store"
    return service.store


def _page(found: Sequence[FileObject] | Sequence[BatchObject]) -> dict[str, object]:
    """OpenAI's list object with all elements on one page."""
    return {
        "object": "list",
        "data": found,
        "has_more": False,
        "first_id": found[0]["id"] if found else None,
        "last_id": found[-1]["id"] if found else None,
    }
