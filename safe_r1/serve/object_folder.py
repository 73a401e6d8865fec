"""Folders of files and batches, each with a JSON file that names it; what is damaged is left out."""

import json
import logging
from collections.abc import Iterator, Mapping
from typing import cast

from upath import UPath

from safe_r1.runs import remove, write_bytes
from safe_r1.serve.batch_objects import Kind

logger = logging.getLogger(__name__)
_FOLDERS: dict[Kind, str] = {"file": "files", "batch": "batches"}
# Types of the fields that lists, quotas and runners read.
_COMMON: dict[str, type] = {"id": str, "owner": str, "created_at": int}
_FIELDS: dict[Kind, dict[str, type]] = {
    "file": {"bytes": int, "filename": str, "purpose": str},
    "batch": {"endpoint": str, "input_file_id": str, "expires_at": int},
}


class ObjectFolder:
    """The objects of all keys."""

    def __init__(self, folder: UPath):
        self._folder = folder

    def folder(self, kind: Kind, object_id: str) -> UPath:
        """Folder of an object, whether or not there is one."""
        return self._folder / _FOLDERS[kind] / object_id

    def infos(self, kind: Kind) -> Iterator[dict[str, object]]:
        """Constant parts of all objects that can be read."""
        parent = self._folder / _FOLDERS[kind]
        for folder in list(parent.iterdir()) if parent.exists() else ():
            if info := self.info(kind, folder.name):
                yield info

    def info(self, kind: Kind, object_id: str) -> dict[str, object] | None:
        """Constant part of an object; None if there is none, or it is damaged."""
        try:
            info = read_json(self.folder(kind, object_id) / f"{kind}.json")
            are_valid = [isinstance(info[name], type_) for name, type_ in (_COMMON | _FIELDS[kind]).items()]
            if info["id"] == object_id and all(are_valid):
                return info
        except (FileNotFoundError, NotADirectoryError):  # being written or deleted
            return None
        except (OSError, ValueError, KeyError):
            pass
        logger.warning("%s of %s cannot be read; it is left out", kind, object_id)
        return None

    def delete(self, kind: Kind, object_id: str) -> None:
        """Delete an object."""
        folder = self.folder(kind, object_id)
        # First what names it: an object that is being deleted is in no list.
        (folder / f"{kind}.json").unlink(missing_ok=True)
        remove(folder)


def read_json(path: UPath) -> dict[str, object]:
    """Object of a JSON file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It holds anything else.
    """
    try:
        value: object = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("JSON that is too deep") from None
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    return cast("dict[str, object]", value)


def write_json(path: UPath, value: Mapping[str, object]) -> None:
    """Write a JSON file atomically.

    Raises:
        StorageError: It cannot be written.
    """
    write_bytes(path, json.dumps(value, ensure_ascii=False).encode())
