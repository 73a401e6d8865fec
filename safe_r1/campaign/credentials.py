"""Keeps credentials out of the commands of a campaign's jobs.

The Jobs server and its dashboard show the command, and the environment, of every job to all who reach them:
no credential is sent as an argument or with the job. It comes from the environment of the nodes, or from a
file on them.
"""

from collections.abc import Mapping, Sequence

from safe_r1.errors import ConfigError
from safe_r1.redaction import find_credentials, is_secret_name
from safe_r1.settings import read_override

_API_KEYS = (
    "SAFE_R1_API_KEY of a model's endpoint, SAFE_R1_JUDGE_API_KEY of a judge's, SAFE_R1_TEACHER_API_KEY of a "
    "teacher's, or the variable that api_key_env names"
)
_STORE_KEYS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "s3a": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS",
    "abfs": "AZURE_STORAGE_CONNECTION_STRING",
    "az": "AZURE_STORAGE_CONNECTION_STRING",
    "hf": "HF_TOKEN",
}


def check_command(step: str, argv: Sequence[str]) -> None:
    """Refuse a command that holds a credential.

    Args:
        step: Name of the step, for the message.
        argv: Arguments of the interpreter.

    Raises:
        ConfigError: An argument has user and password or a key in a URL, values of headers, or a key among
            the further fields of requests. The message names the environment variable to use.
    """
    for before, argument in zip(("", *argv), argv, strict=False):
        name = before if before.startswith("--") else ""
        found = ""
        if name == "--set":
            name, value = _read(argument)
            found = _find(tuple(name.split(".")), value)
        # As the value of a flag, or after it and "=".
        if found := found or find_credentials(argument):
            variable = _STORE_KEYS.get(found, _API_KEYS)
            raise ConfigError(
                f"{step}: {name or 'an argument'} holds a credential, which everybody who reaches the Jobs "
                f"server could read; set it in the environment of the nodes ({variable}), or put the setting "
                "into a file on the nodes, such as that of flags.config"
            )


def _read(override: str) -> tuple[str, object]:
    try:
        return read_override(override)
    except ConfigError:
        # The job refuses it; until then it is a text.
        name, _, text = override.partition("=")
        return name.strip(), text


def _find(path: tuple[str, ...], value: object) -> str:
    """The scheme of the URL that holds a credential, ``header`` or ``field``; empty where there is none."""
    if isinstance(value, Mapping):
        found = (_find((*path, str(name)), each) for name, each in value.items())
        return next(filter(None, found), "")
    if isinstance(value, list | tuple):
        return next(filter(None, (_find(path, each) for each in value)), "")
    if value in (None, ""):
        return ""
    if "headers" in path[:-1] or path[-1] == "headers":
        return "header"
    if "extra_body" in path and any(map(is_secret_name, path[path.index("extra_body") + 1 :])):
        return "field"
    if path[-1] == "api_key_env" and not str(value).isidentifier():
        return "field"
    return find_credentials(str(value))
