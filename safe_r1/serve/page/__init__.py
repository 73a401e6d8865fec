"""The page of the service: one document without any other file, so that it works offline."""

import base64
import functools
import hashlib
from importlib.resources import files

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
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {' '.join(map(_hash, scripts))}; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text, policy


def _hash(content: str) -> str:
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return f"'sha256-{digest}'"
