"""Who may pass: the dependency that every route but the open ones has."""

from typing import Annotated, Any

import httpx
from fastapi import Depends, Request

from safe_r1.serve.api import ApiError
from safe_r1.serve.config import LOOPBACK
from safe_r1.serve.service import Service

# A mark that this process puts into a request's scope, and nobody outside can: the rows of a batch, let in
# when it was made.
OWNER = "safe_r1.owner"


async def allowed(request: Request) -> Service:
    """The service, for a caller whose key is good and who has requests left.

    Raises:
        ApiError: 401, 403, 429.
    """
    service: Service = request.app.state.service
    if is_batch(request):
        request.state.key = None
        request.state.facts["key"] = request.scope[OWNER]
        return service
    if service.config.api_keys is None and (request.client is None or request.client.host not in LOOPBACK):
        raise ApiError(403, "loopback_only", "this service has no API keys, so it answers this machine alone")
    name, key = service.keys.find(request.headers.get("authorization"))
    request.state.key = (name, key)
    request.state.facts["key"] = name
    await service.limits.take(name, key, "requests")
    return service


Allowed = Annotated[Service, Depends(allowed)]


async def take_items(request: Request, service: Service, amount: int) -> None:
    """Count the items of a request against its key.

    Raises:
        ApiError: 400 or 429.
    """
    if request.state.key:
        name, key = request.state.key
        await service.limits.take(name, key, "items", amount)
    request.state.facts["items"] = amount


async def ask_for(owner: str, app: Any, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """Ask an app's route for a key's owner; gives status and JSON."""

    async def owned(scope: Any, receive: Any, send: Any) -> None:
        await app(scope | {OWNER: owner}, receive, send)

    transport = httpx.ASGITransport(owned, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://batch", timeout=None) as client:
        response = await client.post(path, json=body)
    return response.status_code, response.json()


def is_batch(request: Request) -> bool:
    """Whether a request is a row of a batch."""
    return OWNER in request.scope


def owner(request: Request) -> str:
    """Name of the key that a request came with."""
    return request.state.facts["key"]
