"""Who may pass: the dependency that every route but the open ones has."""

from typing import Annotated

from fastapi import Depends, Request

from safe_r1.serve.api import ApiError
from safe_r1.serve.config import LOOPBACK
from safe_r1.serve.service import Service

# A mark that this process puts into a request's scope, and nobody outside can: the rows of a batch, let in when it was made.
OWNER = "safe_r1.owner"


async def allowed(request: Request) -> Service:
    """The service, for a caller whose key is good and who has requests left.

    Raises:
        ApiError: 401, 403, 429.
    """
    service: Service = request.app.state.service
    if OWNER in request.scope:
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


def owner(request: Request) -> str:
    """Name of the key that a request came with."""
    return request.state.facts["key"]
