"""Authentication and rate limits of every request that is not for a public page."""

from typing import Annotated

import httpx
from fastapi import Depends, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from safe_r1.serve.config import LOOPBACK
from safe_r1.serve.errors import ApiError, refuse
from safe_r1.serve.service import Service

# A key of the ASGI scope that only this process can set: the request is a row of a batch, whose owner was
# authorized when the batch was created, and must still have a key.
_OWNER = "safe_r1.owner"


_PUBLIC_PATHS = ("/", "/docs", "/openapi.json", "/healthz", "/readyz")


class Authentication:
    """Checks the API key of each request by its headers, before any byte of its body is read.

    Only reading the public pages needs no key. The request is counted against the limit of its key.
    """

    def __init__(self, app: ASGIApp, service: Service):
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http":
            try:
                await self._authenticate(Request(scope))
            except ApiError as error:
                await refuse(error, scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _authenticate(self, request: Request) -> None:
        """Find the caller of a request.

        Raises:
            ApiError: 401 (no valid key, or the owner of a batch has none any more), 403 (no keys configured
                and not from this machine), 429, 503.
        """
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        if request.method in ("GET", "HEAD") and path in _PUBLIC_PATHS:
            return
        if is_batch(request):
            owner = request.scope[_OWNER]
            request.state.key = None
            request.state.facts["key"] = owner
            self._service.keys.check_owner(owner)
            return
        service = self._service
        # Checked for each request: Serve may listen on more addresses than this application asked for.
        is_local = request.client is not None and request.client.host in LOOPBACK
        if service.config.api_keys is None and not is_local:
            raise ApiError(
                403,
                "loopback_only",
                "this service has no API keys and accepts requests from its own machine only",
            )
        name, key = service.keys.find(request.headers.get("authorization"))
        request.state.key = (name, key)
        request.state.facts["key"] = name
        await service.limits.charge(name, key, "requests")


def _authorized(request: Request) -> Service:
    if not hasattr(request.state, "key"):
        raise RuntimeError("a route that is not public was reached without authentication")
    return request.app.state.service


AuthorizedService = Annotated[Service, Depends(_authorized)]
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
    return is_batch_scope(request.scope)


def is_batch_scope(scope: Scope) -> bool:
    """``is_batch`` of an ASGI scope."""
    return _OWNER in scope


def get_owner(request: Request) -> str:
    """Name of the key that a request was sent with."""
    return request.state.facts["key"]
