"""Protection of a service without API keys from web pages that its user's browser has open.

Such a service trusts every caller on its machine, and a browser there sends what any page asks it to: a page
whose name is made to resolve to 127.0.0.1, or a form that posts to it.
"""

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from safe_r1.serve.access import is_batch_scope
from safe_r1.serve.config import LOOPBACK
from safe_r1.serve.errors import ApiError, refuse

# For probes, which name the machine by any address.
_OPEN_PATHS = ("/healthz", "/readyz")


class LocalGuard:
    """Refuses requests under another name than that of this machine, and those of other origins' pages."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]):
        self._app = app
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and scope["path"] not in _OPEN_PATHS and not is_batch_scope(scope):
            error = self._find_error(scope)
            if error:
                await refuse(error, scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _find_error(self, scope: Scope) -> ApiError | None:
        headers = [(name, value.decode("latin-1")) for name, value in scope["headers"]]
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1 or _hostname(hosts[0]) not in LOOPBACK:
            message = (
                "this service has no API keys: call it as http://127.0.0.1:PORT or http://localhost:PORT"
            )
            return ApiError(403, "unknown_host", message)
        own = {f"http://{hosts[0]}", f"https://{hosts[0]}"}
        origins = {value for name, value in headers if name == b"origin"}
        if origins - own - self._origins:
            message = "pages of other origins cannot call this service: name theirs in cors_origins"
            return ApiError(403, "unknown_origin", message)
        return None


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
