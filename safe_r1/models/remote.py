"""The files of a model that is neither a folder nor on the Hugging Face hub: at a URI, or on ModelScope.

Source: ModelScope's HTTP API, as its own client calls it (``MODELSCOPE_DOMAIN``, ``repo/files``, ``repo``).
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import fsspec

from safe_r1.errors import ModelError
from safe_r1.models.files import TEMPLATE_FOLDER
from safe_r1.models.hashes import HASHES_FILE, parse_hashes

MODELSCOPE = "modelscope:"
"""Begins the source of a model on ModelScope; its id follows."""
_URI = re.compile(r"[a-z][a-z0-9+.-]*://.+")
_ENDPOINT = "MODELSCOPE_ENDPOINT"
_TOKEN = "MODELSCOPE_API_TOKEN"
_DOMAIN = "MODELSCOPE_DOMAIN"
_TIMEOUT_S = 60.0
_PARTIAL_CONTENT = 206
_CHUNK = 8 << 20
# What a file system says of a file that changes with its content, best first.
_VERSIONS = ("ETag", "etag", "md5Hash", "crc32c", "content_md5", "LastModified", "mtime", "created")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a model where it is published.

    Attributes:
        name: Path within the model's folder.
        size: Bytes.
        sha256: Hash of its content in hexadecimal; empty where the source gives none.
        version: What the source says of it that changes with its content, such as an ETag.
    """

    name: str
    size: int
    sha256: str = ""
    version: str = ""


class UnreachableError(ModelError):
    """The place of a model does not answer."""


class NoRangeError(Exception):
    """A server gives a file from its beginning only."""


class Remote(Protocol):
    """Where a model's files are."""

    def files(self) -> list[RemoteFile]:
        """The files at the top level of the model's folder, and its further templates.

        Raises:
            ModelError: There is no such model, or it does not answer (``UnreachableError``).
        """
        ...

    def read(self, name: str, start: int) -> Iterator[bytes]:
        """The content of a file from a position on.

        Raises:
            NoRangeError: It can be read from its beginning only.
        """
        ...


def is_uri(source: str) -> bool:
    """True for ``SCHEME://…``."""
    return _URI.fullmatch(source) is not None


def is_fetched(source: str) -> bool:
    """True where the files of a source are fetched to a folder of the cache before they are loaded."""
    return source.startswith(MODELSCOPE) or is_uri(source)


def open_remote(source: str, revision: str) -> Remote:
    """The place of a source.

    Args:
        source: A URI, or ``modelscope:`` and an id.
        revision: Branch or tag on ModelScope; a URI has none.

    Raises:
        ModelError: The scheme of the URI is unknown, or its package is missing.
    """
    if source.startswith(MODELSCOPE):
        return _ModelScope(source.removeprefix(MODELSCOPE), revision)
    return _UriFolder(source)


class _UriFolder:
    """A folder in a file system of fsspec."""

    def __init__(self, uri: str):
        self._uri = uri
        try:
            self._fs, self._path = fsspec.url_to_fs(self._uri)
        except ImportError as error:
            raise ModelError(f"{uri}: {error}; or pip install 'safe_r1[s3,gcs]'") from None
        except ValueError as error:
            raise ModelError(f"{uri}: {error}; expected s3://, gs:// or another scheme of fsspec") from None

    def files(self) -> list[RemoteFile]:
        """See ``Remote``."""
        self._fs.invalidate_cache()
        try:
            found = self._list(self._path)
            folders = [entry["name"] for entry in found if entry["type"] == "directory"]
            if templates := [each for each in folders if each.rstrip("/").endswith(f"/{TEMPLATE_FOLDER}")]:
                found += self._list(templates[0])
            files = [self._file(entry) for entry in found if entry["type"] == "file"]
            return self._with_hashes(files)
        except ModelError:
            raise
        except FileNotFoundError:
            raise ModelError(f"{self._uri}: there is no such folder, or its files cannot be listed") from None
        except Exception as error:  # noqa: BLE001 - a file system raises whatever its transport raises
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise UnreachableError(f"{self._uri} cannot be listed: {reason}") from None

    def _list(self, path: str) -> list[dict[str, Any]]:
        # Object stores list a marker of the folder itself.
        return [entry for entry in self._fs.ls(path, detail=True) if entry["name"].rstrip("/") != path]

    def _file(self, entry: dict[str, Any]) -> RemoteFile:
        if entry.get("size") is None:
            entry = self._fs.info(entry["name"])
        name = entry["name"].removeprefix(self._path).lstrip("/")
        version = next((str(entry[key]) for key in _VERSIONS if entry.get(key)), "")
        return RemoteFile(name, int(entry["size"] or 0), version=version)

    def _with_hashes(self, files: list[RemoteFile]) -> list[RemoteFile]:
        """The files with the hashes of the folder's own list, where it has one."""
        names = {file.name for file in files}
        if HASHES_FILE not in names:
            return files
        hashes = parse_hashes(self._fs.cat_file(f"{self._path}/{HASHES_FILE}"), self._uri)
        folders = ("", TEMPLATE_FOLDER)
        absent = [name for name in hashes if name.rpartition("/")[0] in folders and name not in names]
        if absent:
            raise ModelError(
                f"{self._uri}: {HASHES_FILE} lists {min(absent)}, which is not there: upload the folder "
                "again, or remove that line"
            )
        return [replace(file, sha256=hashes.get(file.name, "")) for file in files]

    def read(self, name: str, start: int) -> Iterator[bytes]:
        """See ``Remote``."""
        with self._fs.open(f"{self._path}/{name}", "rb", block_size=4 * _CHUNK) as stream:
            if start:
                try:
                    stream.seek(start)
                except (ValueError, OSError, NotImplementedError):
                    raise NoRangeError from None
            while chunk := stream.read(_CHUNK):
                yield chunk


class _ModelScope:
    """A model on ModelScope."""

    def __init__(self, model: str, revision: str):
        self._model = model
        self._revision = revision
        self._url = f"{_endpoint()}/api/v1/models/{model}/repo"
        token = os.environ.get(_TOKEN)
        import httpx

        self._client = httpx.Client(
            timeout=_TIMEOUT_S,
            follow_redirects=True,
            headers={"Authorization": f"Bearer {token}"} if token else {},
        )

    def files(self) -> list[RemoteFile]:
        """See ``Remote``."""
        import httpx

        asked = {"Revision": self._revision, "Recursive": "True"}
        try:
            answer = self._client.get(f"{self._url}/files", params=asked)
            content = answer.json() if answer.is_success else {}
        except (httpx.HTTPError, ValueError) as error:
            raise UnreachableError(
                f"{self._model}: ModelScope cannot be reached at {_endpoint()} ({type(error).__name__}); "
                f"check the network, or set {_ENDPOINT} to a mirror"
            ) from None
        if answer.is_server_error:
            raise UnreachableError(f"{self._model}: ModelScope answers HTTP {answer.status_code}")
        data = content.get("Data") if isinstance(content, dict) else None
        found = data.get("Files") if isinstance(data, dict) else None
        if not found:
            raise ModelError(
                f"{self._model}: no such model or revision {self._revision!r} on ModelScope (HTTP "
                f"{answer.status_code}), or it is private: set {_TOKEN}"
            )
        return [
            RemoteFile(
                str(each["Path"]),
                int(each["Size"]),
                str(each.get("Sha256") or ""),
                str(each.get("Revision") or ""),
            )
            for each in found
            if each.get("Type") != "tree"
        ]

    def read(self, name: str, start: int) -> Iterator[bytes]:
        """See ``Remote``."""
        asked = {"Revision": self._revision, "FilePath": name}
        headers = {"Range": f"bytes={start}-"} if start else {}
        with self._client.stream("GET", self._url, params=asked, headers=headers) as answer:
            answer.raise_for_status()
            if start and answer.status_code != _PARTIAL_CONTENT:
                raise NoRangeError
            yield from answer.iter_bytes(_CHUNK)


def _endpoint() -> str:
    domain = os.environ.get(_DOMAIN) or "www.modelscope.cn"
    return (os.environ.get(_ENDPOINT) or f"https://{domain}").rstrip("/")
