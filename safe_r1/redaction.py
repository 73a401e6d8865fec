"""The one place that takes credentials out of what is written or shown.

It stands where things leave: every error (``errors.SafeR1Error``), every log line of a job
(``RedactingFormatter``), every JSON file of a run folder (``runs.RunFolder.write_json``), and settings
that are shown (``settings.public_settings``).
"""

import logging
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "…"
# The user and password of a URL, up to the last "@" as URLs are parsed; each start is after its own "://", so
# that a long text is read once.
_CREDENTIALS = re.compile(r"(?<=://)[^/?#\s\"]*@")
# A key of S3 may hold a slash. What stands before it is no host with a port, and the search is bounded.
_SLASHED_CREDENTIALS = re.compile(r"(?<=://)[^/?#\s\"@:\[]{0,200}:(?!\d{1,5}[/?#\s\"])[^?#\s\"]{0,300}@")
_URL = re.compile(r"(?<![a-z0-9+.-])[a-z][a-z0-9+.-]{0,40}://[^\s\"]+", re.IGNORECASE)
_FIELD_VALUE = re.compile(r"=[^&#;]*")
_BARE_QUERY = re.compile(r"[^&#;=]+(?=$|[&;#])")
# Names of fields that hold a secret, in settings whose names are a provider's or a user's.
_SECRET_NAME = re.compile(
    r"(?:^|[_.-])(?:api[_-]?key|apikey|key|token|access[_-]?token|secret|passw(?:or)?d|pwd|credentials?|auth|"
    r"authorization|bearer|signature|sig|pat|ak|sk)$",
    re.IGNORECASE,
)
_SETTING_NAME = re.compile(r"(?:--set[ =])?[\w.-]+")
_CAMEL_CASE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
# Shorter values of fields with other names are versions, regions and the like.
_KEY_CHARS = 20
_HEADER_GROUP = "headers"
_FREE_GROUPS = (_HEADER_GROUP, "extra_body")


def hide_credentials(text: str) -> str:
    """The text without user names, passwords and the values of queries in its URLs."""
    if "://" not in text:
        return text
    return _URL.sub(_hide_query, _CREDENTIALS.sub("", _SLASHED_CREDENTIALS.sub("", text)))


def _hide_query(url: re.Match[str]) -> str:
    start, mark, query = url.group().partition("?")
    fragment_start, fragment_mark, fragment = start.partition("#")
    if fragment_mark:
        # Behind "#" is the name of a model, unless fields are.
        return f"{fragment_start}#{_FIELD_VALUE.sub('=' + HIDDEN, fragment)}" + mark + _hide_fields(query)
    # A "?" of a path that is no URL of the web may be a glob's.
    is_web = start[:4].lower() == "http"
    return start + mark + (_hide_fields(query) if is_web else _FIELD_VALUE.sub("=" + HIDDEN, query))


def _hide_fields(query: str) -> str:
    fields, mark, fragment = query.partition("#")
    fields = _FIELD_VALUE.sub("=" + HIDDEN, fields)
    # Some take the key as the whole query.
    fields = fields if "=" in fields else _BARE_QUERY.sub(HIDDEN, fields)
    return fields + mark + _FIELD_VALUE.sub("=" + HIDDEN, fragment)


def is_secret_name(name: str) -> bool:
    """Whether a field of this name, among those that a user or provider names, holds a secret."""
    return (
        _SECRET_NAME.search(name) is not None or _SECRET_NAME.search(_CAMEL_CASE.sub("_", name)) is not None
    )


def find_credentials(text: str) -> str:
    """The scheme of the first URL in a text that holds a credential; empty where there is none.

    That is a user or password, a field of its query with a name that says so or a value as long as keys are,
    or a query without names. Unlike ``hide_credentials`` it lets harmless fields be, such as ``api-version``.
    """
    for url in _URL.finditer(text):
        scheme, _, rest = url.group().partition("://")
        if _CREDENTIALS.search(url.group()) or _SLASHED_CREDENTIALS.search(url.group()):
            return scheme.lower()
        is_web = scheme.lower() in ("http", "https")
        queries = [part for mark in "?#" for part in rest.partition(mark)[2:]]
        for field in re.split("[?&#;]", "&".join(queries)):
            name, equals, value = field.partition("=")
            if equals and value and (is_secret_name(name) or len(value) >= _KEY_CHARS):
                return scheme.lower()
        query = rest.partition("?")[2].partition("#")[0]
        if is_web and query and "=" not in query:
            return scheme.lower()
    return ""


def without_secret_fields(fields: Any) -> Any:
    """Further fields of a request without those whose names say that they hold a secret, at any depth, and
    without credentials in their URLs.
    """
    if isinstance(fields, Mapping):
        kept = {name: each for name, each in fields.items() if not is_secret_name(str(name))}
        return {name: without_secret_fields(each) for name, each in kept.items()}
    if isinstance(fields, list | tuple):
        return [without_secret_fields(each) for each in fields]
    return hide_credentials(fields) if isinstance(fields, str) else fields


def hide_secrets(value: Any) -> Any:
    """Plain values without secrets: nested mappings, lists and texts, as of settings or a command line."""
    if isinstance(value, str):
        return _hide_override(value)
    if isinstance(value, Mapping):
        return {name: _hide_field(str(name), each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [hide_secrets(each) for each in value]
    return value


def _hide_field(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        if name == _HEADER_GROUP:
            return dict.fromkeys(value, HIDDEN)
        if name == "extra_body":
            return _hide_named(value)
    return hide_secrets(value)


def _hide_named(fields: Any) -> Any:
    if isinstance(fields, Mapping):
        return {
            name: HIDDEN if is_secret_name(str(name)) else _hide_named(value)
            for name, value in fields.items()
        }
    if isinstance(fields, list | tuple):
        return [_hide_named(each) for each in fields]
    return hide_secrets(fields)


def _hide_override(text: str) -> str:
    """A text, which may be ``NAME=VALUE`` of a setting, without secrets."""
    name, equals, _ = text.partition("=")
    if equals and _SETTING_NAME.fullmatch(name) and any(group in text for group in _FREE_GROUPS):
        return f"{name}={HIDDEN}"
    return hide_credentials(text)


class RedactingFormatter(logging.Formatter):
    """Log lines, and tracebacks below them, without credentials."""

    def format(self, record: logging.LogRecord) -> str:
        """See ``logging.Formatter``."""
        return hide_credentials(super().format(record))
