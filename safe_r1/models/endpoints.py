"""From what a user types to a model behind an OpenAI-compatible URL.

A user types ``endpoint:URL#MODEL``, or the name of a TOML file with the fields of ``EndpointEntry``.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from safe_r1.errors import ConfigError
from safe_r1.models.endpoint_entry import EndpointEntry
from safe_r1.models.prompts import CHAT
from safe_r1.models.variant import Variant

PREFIX = "endpoint:"
_FORM = "endpoint:URL#MODEL, e.g. endpoint:https://api.deepseek.com/v1#deepseek-reasoner"


def find_endpoint(name: str) -> Variant | None:
    """The variant that a user's text names, where it names an endpoint.

    Raises:
        ConfigError: Not a URL, no model, or a file that cannot be read.
    """
    if name.startswith(PREFIX):
        url, _, model = name.removeprefix(PREFIX).partition("#")
        if not model:
            # The URL may hold a password, so that it is not shown.
            raise ConfigError(f"variant: the endpoint's model is missing; expected {_FORM}")
        return _variant(_entry({"url": url, "model": model}, "variant"))
    if name.endswith(".toml"):
        return _variant(_entry(_read(Path(name).expanduser()), f"variant {name}"))
    return None


def _variant(entry: EndpointEntry) -> Variant:
    # Letters of all languages: models of Chinese providers have Chinese names.
    default = re.sub(r"[^\w.-]+", "-", f"{entry.model}--{entry.place}").strip(".-_")
    return Variant(
        name=entry.name or default,
        source=entry.host,
        family="",
        kind="endpoint",
        params_b=0.0,
        # Sent as messages, which the endpoint renders.
        prompt=CHAT,
        endpoint=entry,
    )


def _read(file: Path) -> dict[str, Any]:
    # A pipe would be waited for.
    if file.exists() and not file.is_file():
        raise ConfigError(f"variant {file}: no regular file")
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except RecursionError:
        raise ConfigError(f"variant {file}: nested too deep") from None
    # Not TOMLDecodeError alone: a number of thousands of digits is another ValueError.
    except (OSError, ValueError) as error:
        raise ConfigError(f"variant {file}: {str(error).splitlines()[0]}") from None


def _entry(fields: dict[str, Any], where: str) -> EndpointEntry:
    if "api_key" in fields:
        raise ConfigError(
            f"{where}: keys do not belong into files; name the environment variable of the key in api_key_env"
        )
    try:
        return EndpointEntry.model_validate(fields)
    except ValidationError as error:
        # Without the values: a URL or a header may hold a password.
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))} {problem['msg'].removeprefix('Value error, ')}".strip()
            for problem in error.errors()[:3]
        )
        raise ConfigError(
            f"{where}: {problems}; expected {_FORM}, or a TOML file with url and model"
        ) from None
