"""Finds the files of a location: a file, a folder with its subfolders, a glob, or a file of this package."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from upath import UPath

from safe_r1.errors import DataError
from safe_r1.records.files import is_data_file
from safe_r1.records.location import DataLocation
from safe_r1.runs import SUCCESS

_PACKAGE = "package:"
_SHOWN = 5


@dataclass(frozen=True)
class FoundFiles:
    """Files of a location.

    Attributes:
        files: Those that are read, sorted by path.
        skipped: Paths, below the folder, of those whose names end in no known format.
    """

    files: list[UPath]
    skipped: list[str]

    @property
    def note(self) -> str:
        """Says which files are not read; empty where all are."""
        names = "not read, as their names end in no known format: " + _some(self.skipped)
        return names if self.skipped else ""


def find_files(location: DataLocation, data: str | None) -> list[UPath]:
    """The files of a location that is not on the hub, sorted by path.

    Raises:
        DataError: There is none, or the file system cannot be read.
    """
    return find_all(location, data).files


def find_all(location: DataLocation, data: str | None) -> FoundFiles:
    """Like ``find_files``, with what was left out."""
    path = location.path or ""
    if path.startswith(_PACKAGE):
        return FoundFiles([UPath(str(files("safe_r1.corpus").joinpath(path.removeprefix(_PACKAGE))))], [])
    is_absolute = "://" in path or path.startswith("/")
    try:
        root = UPath(path) if is_absolute else UPath(data or ".") / path
        found = _expand(root)
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001 - every file system raises its own
        raise unreachable(location, error) from None
    if not found.files:
        hint = "" if is_absolute or data else "; relative paths start from --data"
        names = f" with a known format (there are {_some(found.skipped)})" if found.skipped else ""
        raise DataError(f"{location.label}no file{names} at {root}{hint}")
    return found


def holds_data(path: UPath) -> bool:
    """Whether a folder has a file of a known format, in a subfolder or at its top."""
    return bool(_expand(path).files)


def _expand(root: UPath) -> FoundFiles:
    """The files of a path, a folder with its subfolders, or a glob, sorted by path.

    A file whose name holds a ``*`` or brackets is that file.
    """
    is_folder = root.is_dir()
    if root.exists() and not is_folder:
        return FoundFiles([root], [])
    base, pattern = (root, "**/*") if is_folder else _split_glob(root)
    if not pattern or not base.is_dir():
        return FoundFiles([], [])
    if any("**" in part and part != "**" for part in pattern.split("/")):
        raise DataError(f"{root}: ** stands for any folders and is a part of its own, as in data/**/*.jsonl")
    # By name: the order in which a file system lists files must not show in the row ids.
    inside = [path for path in base.glob(pattern) if path.is_file() and not _is_hidden(path, base)]
    return FoundFiles(
        sorted((path for path in inside if is_data_file(path)), key=str),
        sorted(str(path.relative_to(base)) for path in inside if not is_data_file(path)),
    )


def _split_glob(path: UPath) -> tuple[UPath, str]:
    """The folder from which a glob starts, and the pattern below it; empty where there is none."""
    below: list[str] = []
    while path != path.parent and not (path.exists() and path.is_dir()):
        below.insert(0, path.name)
        path = path.parent
    return path, "/".join(below) if any(set("*?[") & set(part) for part in below) else ""


def _is_hidden(path: UPath, root: UPath) -> bool:
    """Files of tools and systems, such as .git, .DS_Store, __MACOSX and the mark of a finished job."""
    parts = path.relative_to(root).parts
    return any(part.startswith((".", "__", "~$")) for part in parts) or parts[-1] == SUCCESS


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def unreachable(location: DataLocation, error: Exception) -> DataError:
    """The error of a location that cannot be read, whatever its file system or the hub raised."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(
        f"{location.label}cannot read {location.hub or location.path} ({reason[:200]}); check the "
        "network, the name and, for a gated dataset, that your account has accepted its terms (hf auth login)"
    )
