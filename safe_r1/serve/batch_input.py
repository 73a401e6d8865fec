"""Validation of the requests in a batch's input file."""

import json
from typing import TypedDict, TypeGuard

from safe_r1.records.text import TextError, parse_json
from safe_r1.serve.cost import row_items
from safe_r1.serve.errors import ApiError
from safe_r1.serve.json_limits import JsonLimits

# The limit of OpenAI's batch API, and ours for the items of all requests together.
MAX_REQUESTS = 50_000
MAX_ITEMS = 500_000
_MAX_ID_LENGTH = 512
_MAX_ELEMENTS = 250_000


class RequestRow(TypedDict):
    """One request of a batch."""

    custom_id: str
    body: dict[str, object]


class LineError(TypedDict):
    """A problem of an input file, or of the batch as a whole (``line`` is None)."""

    code: str
    line: int | None
    message: str
    param: str | None


def read_requests(
    content: bytes, endpoint: str, max_items: int = MAX_ITEMS
) -> tuple[list[RequestRow], list[LineError]]:
    """Parse and check the input file of a batch.

    Args:
        content: JSONL; each line has ``custom_id``, ``method`` (POST), ``url`` and ``body``.
        endpoint: The route that every line must name.
        max_items: Maximum number of items in all requests together, as ``row_items`` counts them.

    Returns:
        The requests, and the problems that were found. Their messages never quote the content.
    """
    rows: list[RequestRow] = []
    errors: list[LineError] = []
    seen: set[str] = set()
    # Not splitlines(): U+2028 and U+0085, which it also splits at, may stand unescaped in JSON strings.
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        row, problem = _parse_line(line, endpoint, seen)
        if row is None:
            errors.append({"code": "invalid_line", "line": number, "message": problem, "param": None})
        else:
            seen.add(row["custom_id"])
            rows.append({"custom_id": row["custom_id"], "body": row["body"]})
    if not rows and not errors:
        errors.append(_batch_error("empty_file", "the file has no request"))
    if len(rows) > MAX_REQUESTS:
        message = f"{len(rows)} requests; the maximum of a batch is {MAX_REQUESTS}"
        errors.append(_batch_error("too_many_requests", message))
    num_items = sum(row_items(row["body"]) for row in rows)
    if num_items > max_items:
        message = f"{num_items} items; the maximum of a batch is {max_items}"
        errors.append(_batch_error("too_many_items", message))
    return rows, errors


def _batch_error(code: str, message: str) -> LineError:
    return {"code": code, "line": None, "message": message, "param": None}


def _parse_line(line: bytes, endpoint: str, seen: set[str]) -> tuple[RequestRow | None, str]:
    """The request of one line, or None and what is wrong with it."""
    try:
        JsonLimits(_MAX_ELEMENTS).feed(line)
        row = parse_json(line)
        # Python's JSON has numbers that are none: NaN and infinite ones.
        json.dumps(row, allow_nan=False)
    except ApiError as error:
        return None, error.message.replace("the body", "the line")
    except TextError as error:
        return None, f"the line is not taken: {error}"
    except ValueError:
        return None, "the line is not JSON: a number that is NaN or infinite"
    if not _is_object(row) or not _is_object(body := row.get("body")):
        return None, "expected an object with custom_id, method, url and an object body"
    custom_id = row.get("custom_id")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= _MAX_ID_LENGTH:
        return None, f"custom_id must be a text of 1 to {_MAX_ID_LENGTH} characters"
    if custom_id in seen:
        return None, "an earlier line has the same custom_id"
    if row.get("method") != "POST" or row.get("url") != endpoint:
        return None, f"expected method POST and url {endpoint}"
    if body.get("stream"):
        return None, "a request of a batch cannot stream"
    return {"custom_id": custom_id, "body": body}, ""


def _is_object(value: object) -> TypeGuard[dict[str, object]]:
    return isinstance(value, dict)
