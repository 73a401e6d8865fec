"""The page of the API: routes and schemas as one document without scripts or other files."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

Json = Mapping[str, Any]


def docs_body(schema: Json) -> str:
    """Routes and schemas of an OpenAPI schema as HTML."""
    info = schema["info"]
    routes = [
        _route(method, path, route)
        for path, methods in schema["paths"].items()
        for method, route in methods.items()
    ]
    schemas = [_schema(name, each) for name, each in schema.get("components", {}).get("schemas", {}).items()]
    title = f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>"
    text = f'<p>{escape(info.get("description", ""))}</p><p><a href="/openapi.json">openapi.json</a></p>'
    return f"{title}{text}{''.join(routes)}<h2>Schemas</h2>{''.join(schemas)}"


def _route(method: str, path: str, route: Json) -> str:
    bodies = [each.get("schema", {}) for each in route.get("requestBody", {}).get("content", {}).values()]
    body = f"<p>Body: {', '.join(map(_type, bodies))}</p>" if bodies else ""
    text = route.get("description") or route.get("summary", "")
    title = f"<code>{method.upper()} {escape(path)}</code>"
    return f'<section class="panel"><h3>{title}</h3><p>{escape(text)}</p>{body}</section>'


def _schema(name: str, schema: Json) -> str:
    required = schema.get("required", ())
    rows = [
        f"<tr><td><code>{escape(field)}</code>{'*' if field in required else ''}</td><td>{_type(each)}</td>"
        f"<td>{escape(' '.join(_notes(each)))}</td></tr>"
        for field, each in schema.get("properties", {}).items()
    ]
    anchor = escape(name, quote=True)
    text = escape(schema.get("description", ""))
    table = f'<div class="scroll"><table>{"".join(rows)}</table></div>'
    return f'<section class="panel" id="{anchor}"><h3>{escape(name)}</h3><p>{text}</p>{table}</section>'


def _type(schema: Json) -> str:
    """The type of a value as HTML, with links to the schemas."""
    if reference := schema.get("$ref"):
        name = escape(str(reference).rpartition("/")[2], quote=True)
        return f'<a href="#{name}">{name}</a>'
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " | ".join(dict.fromkeys(map(_type, schema[several])))
    if values := schema.get("enum") or ([schema["const"]] if "const" in schema else None):
        return " | ".join(escape(repr(value)) for value in values)
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return escape(str(schema.get("type", "any")))


def _notes(schema: Json) -> Iterator[str]:
    if text := schema.get("description"):
        yield f"{text}."
    if schema.get("default") is not None:
        yield f"Default: {schema['default']!r}."
