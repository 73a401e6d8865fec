"""Authentication and rate limits: the dependency of every route that is not public."""

from typing import Annotated

import httpx
from fastapi import Depends, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from safe_r1.serve.config import LOOPBACK
from safe_r1.serve.errors import ApiError
from safe_r1.serve.service import Service

# A key of the ASGI scope that only this process can set: the request is a row of a batch, whose owner was
# authorized when the batch was created.
_OWNER = "safe_r1.owner"


async def _authorize(request: Request) -> Service:
    """Check the request's API key and count the request against its limit.

    Raises:
        ApiError: 401 (no valid key), 403 (no keys configured and not from this machine), 429.
    """
    service: Service = request.app.state.service
    if is_batch(request):
        request.state.key = None
        request.state.facts["key"] = request.scope[_OWNER]
        return service
    # Checked for each request: Serve may listen on more addresses than this application asked for.
    if service.config.api_keys is None and (request.client is None or request.client.host not in LOOPBACK):
        raise ApiError(
            403,
            "loopback_only",
            "this service has no API keys and accepts requests from its own machine only",
        )
    name, key = service.keys.find(request.headers.get("authorization"))
    request.state.key = (name, key)
    request.state.facts["key"] = name
    await service.limits.charge(name, key, "requests")
    return service


AuthorizedService = Annotated[Service, Depends(_authorize)]
"""The service, for routes that need a valid key."""


async def charge_items(request: Request, service: Service, amount: int) -> None:
    """Count the items of a request against the limit of its key.

    Raises:
        ApiError: 400 or 429.
    """
    if request.state.key:
        name, key = request.state.key
        await service.limits.charge(name, key, "items", amount)
    request.state.facts["items"] = amount


async def charge_choices(request: Request, service: Service, num_choices: int) -> None:
    """Count each choice of a generation as a request against the limit of its key.

    Raises:
        ApiError: 400 or 429.
    """
    if request.state.key and num_choices > 1:
        name, key = request.state.key
        # The request itself is counted already.
        limit = service.limits.limit_of(key, "requests_per_minute")
        if num_choices > limit:
            message = f"{num_choices} choices in one request; the limit of this key is {limit} per minute"
            raise ApiError(400, "too_many_items", message, "n")
        await service.limits.charge(name, key, "requests", num_choices - 1)


async def post_as(owner: str, app: ASGIApp, path: str, body: dict[str, object]) -> tuple[int, object]:
    """Post to a route of ``app`` in this process, on behalf of a key's owner.

    Returns:
        Status and decoded JSON of the response.
    """

    async def app_as_owner(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, _OWNER: owner}, receive, send)

    # An internal error becomes a 500, as over the network. There is no timeout: the routes have their own.
    transport = httpx.ASGITransport(app_as_owner, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://batch", timeout=None) as client:
        response = await client.post(path, json=body)
    return response.status_code, response.json()


def is_batch(request: Request) -> bool:
    """Whether a request is a row of a batch."""
    return _OWNER in request.scope


def get_owner(request: Request) -> str:
    """Name of the key that a request was sent with."""
    return request.state.facts["key"]
