"""Errors of the HTTP API in OpenAI's form, and the handlers that turn exceptions into them."""

import traceback
from collections.abc import Sequence
from typing import TypedDict

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

CONTENT_FILTER = "content_filter"
"""Code of an answer that the content filter of an endpoint's provider took: no failure, and no answer."""


class ErrorDetail(TypedDict):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(TypedDict):
    """JSON body of a response that reports an error."""

    error: ErrorDetail


class ApiError(Exception):
    """A response other than 200, in OpenAI's form.

    Attributes:
        status: HTTP status.
        code: Error code in snake_case that programs can branch on.
        message: Text for people; never quotes the request.
        param: Name of the field at fault.
        retry_after_s: Seconds after which the client should try again, for 429 and 503.
    """

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, retry_after_s: int | None = None
    ):
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def body(self) -> ErrorBody:
        """JSON body of the response."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """``Retry-After`` where ``retry_after_s`` is set."""
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}

    def to_response(self) -> JSONResponse:
        """The error as a response."""
        return JSONResponse(self.body, self.status, self.headers)


_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}
_HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}


async def refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request in a middleware, and close its connection, as its body may not have been read."""
    scope.get("state", {}).get("facts", {})["refused"] = error.code
    response = error.to_response()
    response.headers["Connection"] = "close"
    await response(scope, receive, send)


def format_location(error: BaseException) -> str:
    """Source lines of a traceback, for the log; without the message, which may quote a request."""
    return "".join(traceback.format_tb(error.__traceback__))


def add_error_handlers(app: FastAPI) -> None:
    """Answer every exception of a route in OpenAI's form."""

    @app.exception_handler(ApiError)
    async def handle_api_error(_: Request, error: ApiError) -> Response:
        return error.to_response()

    @app.exception_handler(RequestValidationError)
    async def handle_invalid_request(_: Request, error: RequestValidationError) -> Response:
        return _from_validation_error(error).to_response()

    @app.exception_handler(HTTPException)
    async def handle_http_error(_: Request, error: HTTPException) -> Response:
        if error.status_code == 400 and isinstance(error.__cause__, ValueError):
            # The framework takes all but a syntax error of JSON for an error without a name.
            message = "the body's JSON has a number of more than 4,300 digits, or is not UTF-8"
            return ApiError(400, "invalid_json", message).to_response()
        code = _HTTP_CODES.get(error.status_code, "error")
        body = ApiError(error.status_code, code, str(error.detail)).body
        return JSONResponse(body, error.status_code, error.headers)


def _from_validation_error(error: RequestValidationError) -> ApiError:
    """The first problem of a request, without the value that was sent."""
    errors = error.errors()
    path = _field_path(errors[0]["loc"])
    # Where a field allows several types, there is an error for each: the one deepest inside says most.
    same_field = [each for each in errors if _field_path(each["loc"])[: len(path)] == path]
    first = max(same_field, key=lambda each: len(_field_path(each["loc"])))
    field = ".".join(_field_path(first["loc"]))
    if first["type"] == "json_invalid":
        detail = first.get("ctx", {}).get("error", first["msg"])
        return ApiError(400, "invalid_json", f"the body is not JSON: {detail}")
    if first["type"] == "model_attributes_type" and not field:
        message = "expected a JSON object, sent as Content-Type: application/json"
        return ApiError(400, "invalid_request", message)
    message = f"{field or 'body'}: {first['msg'].removeprefix('Value error, ')}"
    return ApiError(400, "invalid_request", message, field or None)


def _field_path(location: Sequence[int | str]) -> list[str]:
    """Names of fields and positions in lists, without the types that pydantic tried, such as
    ``list[TextPart]``, ``TextPart`` or ``str``.
    """
    names = [str(part) for part in location[1:]]
    return [name for name in names if name not in _TYPE_NAMES and "[" not in name and not name[:1].isupper()]


_TYPE_NAMES = {"str", "int"}
