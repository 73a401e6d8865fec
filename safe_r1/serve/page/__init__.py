"""The pages of the service: each is one document without any other file, so that it works offline."""

import base64
import functools
import hashlib
from collections.abc import Sequence
from importlib.resources import files

from safe_r1.serve.page.docs import Json, docs_body

_STYLES = ("page.css",)
_SCRIPTS = ("tables.js", "page.js")


@functools.cache
def read_page() -> tuple[str, str]:
    """The document, and the Content-Security-Policy that allows just what is in it."""
    folder = files("safe_r1.serve.page")
    style = "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in _STYLES)
    scripts = [folder.joinpath(name).read_text(encoding="utf-8") for name in _SCRIPTS]
    text = folder.joinpath("page.html").read_text(encoding="utf-8")
    text = text.replace("<!-- style -->", f"<style>{style}</style>")
    text = text.replace("<!-- script -->", "".join(f"<script>{script}</script>" for script in scripts))
    return text, _policy(style, scripts)


def make_docs(schema: Json) -> tuple[str, str]:
    """The page of the API and its Content-Security-Policy, from the OpenAPI schema."""
    style = files("safe_r1.serve.page").joinpath("page.css").read_text(encoding="utf-8")
    head = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>API</title><style>{style}</style>'
    )
    return f"{head}</head><body>{docs_body(schema)}</body></html>", _policy(style)


def _policy(style: str, scripts: Sequence[str] = ()) -> str:
    allowed = " ".join(map(_hash, scripts)) or "'none'"
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {allowed}; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(content: str) -> str:
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return f"'sha256-{digest}'"
