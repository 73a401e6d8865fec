"""Models at URIs and on ModelScope, in a folder of this node's cache.

A model is fetched once by a node, whichever processes ask for it at the same time: small files where its
settings or its tokenizer are read, the weights where they are loaded. A file gets its name when it is whole
and verified: whoever was killed meanwhile goes on where it was.
"""

import functools
import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock
from tenacity import Retrying, retry_if_not_exception_type, stop_after_attempt, wait_exponential

from safe_r1.errors import ModelError
from safe_r1.models.files import (
    CONFIG_FILE,
    SMALL_SUFFIXES,
    TEMPLATE_FOLDER,
    cache_folder,
    make_cache,
    read_safetensors_header,
    weight_files,
)
from safe_r1.models.remote import NoRangeError, Remote, RemoteFile, UnreachableError, is_fetched, open_remote
from safe_r1.runs import storage_error

logger = logging.getLogger(__name__)

_THREADS = 8
_ATTEMPTS = 4
_LICENCES = ("LICENSE", "LICENCE", "NOTICE")
# Between a revision and the hash of the files that it stood for.
_PIN = "#"


@dataclass(frozen=True)
class Snapshot:
    """A model's files as their source listed them.

    Attributes:
        source: A URI, or ``modelscope:`` and an id.
        revision: Branch or tag.
        files: Those that loading it takes.
    """

    source: str
    revision: str
    files: tuple[RemoteFile, ...]

    @functools.cached_property
    def digest(self) -> str:
        """Hash of names, sizes, and hashes or versions of all files."""
        listed = sorted((file.name, file.size, file.sha256 or file.version) for file in self.files)
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]

    @property
    def pinned(self) -> str:
        """The revision that stands for these files and no others."""
        return f"{self.revision}{_PIN}{self.digest}"

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file by name."""
        return {file.name: file.size for file in self.files}

    @property
    def folder(self) -> Path:
        """Where they are on this node, as far as they have been fetched."""
        return _place(self.source, self.revision) / self.digest


def loadable(source: str, revision: str, *, weights: bool) -> tuple[str, str]:
    """Source and revision as transformers and vLLM load them: a folder of this node where files are fetched.

    Args:
        source: Folder, hub id, URI, or ``modelscope:`` and an id.
        revision: Branch, tag or commit, or what ``Snapshot.pinned`` gave.
        weights: Whether the weights are needed too.

    Raises:
        ModelError: See ``fetch``.
    """
    if not is_fetched(source):
        return source, revision
    return str(fetch(source, revision, weights=weights)), "main"


def fetch(source: str, revision: str, *, weights: bool) -> Path:
    """The folder of this node with a model's files; those that are missing are fetched.

    Raises:
        ModelError: They cannot be had, are not what their source says, or the disk has no room for them.
    """
    snapshot = find_snapshot(source, revision)
    wanted = [file for file in snapshot.files if weights or not _is_weight(file.name, snapshot)]
    if _missing(snapshot.folder, wanted):
        make_cache(snapshot.folder)
        with FileLock(snapshot.folder.with_suffix(".lock")):
            _fetch_all(snapshot, _missing(snapshot.folder, wanted))
    return snapshot.folder


def find_snapshot(source: str, revision: str) -> Snapshot:
    """The files that a revision stands for: of a pinned one as they were then, else as they are now.

    Without network, they are those that this node listed last.

    Raises:
        ModelError: There is no such model, it has changed since it was pinned, or it cannot be reached and
            nothing is cached.
    """
    bare, _, digest = revision.partition(_PIN)
    place = _place(source, bare)
    known = place / f"{digest}.json"
    if digest and known.is_file() and (listed := _read(known)):
        return listed
    try:
        snapshot = Snapshot(source, bare, tuple(_needed(source, open_remote(source, bare).files())))
    except UnreachableError as error:
        kept = sorted(place.glob("*.json"), key=lambda file: file.stat().st_mtime)
        listed = None if digest else next(filter(None, map(_read, reversed(kept))), None)
        if listed is None:
            raise ModelError(f"{error}; nothing of it is cached in {cache_folder()}") from None
        logger.warning("%s: going on with the files of before", error)
        return listed
    if digest and snapshot.digest != digest:
        raise ModelError(f"{source} has changed since this job began: run it again to use the files of now")
    _write(place / f"{snapshot.digest}.json", json.dumps(asdict(snapshot)))
    return snapshot


def _place(source: str, revision: str) -> Path:
    name = re.sub(r"[^\w.-]+", "-", PurePosixPath(source).name) or "model"
    key = hashlib.sha256(f"{source} {revision}".encode()).hexdigest()[:8]
    return cache_folder() / "models" / f"{name}-{key}"


def _read(manifest: Path) -> Snapshot | None:
    """The files that this node listed; None where the list is damaged, which is listed again."""
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        files = tuple(RemoteFile(**file) for file in content["files"])
        snapshot = Snapshot(content["source"], content["revision"], files)
        return snapshot if snapshot.digest == manifest.stem else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _write(file: Path, text: str) -> None:
    make_cache(file.parent)
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, file)
    except OSError as error:
        raise storage_error(file, error) from None
    finally:
        temporary.unlink(missing_ok=True)


def _needed(source: str, files: list[RemoteFile]) -> Iterable[RemoteFile]:
    """The files of a listing that loading takes: no second copy of the weights, no other folders."""
    names = {file.name for file in files}
    if CONFIG_FILE not in names:
        raise ModelError(
            f"{source} has no {CONFIG_FILE}: expected a model in transformers' format (a model behind a URL "
            "is endpoint:URL#MODEL)"
        )
    weights = set(weight_files([name for name in names if "/" not in name]))
    return sorted(
        (file for file in files if file.name in weights or _is_small(file.name)), key=lambda file: file.name
    )


def _is_small(name: str) -> bool:
    folder, _, last = name.rpartition("/")
    if folder not in ("", TEMPLATE_FOLDER) or last.startswith(".") or "\\" in last:
        return False
    return last.lower().endswith(SMALL_SUFFIXES) or last.upper().startswith(_LICENCES)


def _is_weight(name: str, snapshot: Snapshot) -> bool:
    return name in weight_files(list(snapshot.sizes))


def _missing(folder: Path, files: Iterable[RemoteFile]) -> list[RemoteFile]:
    """Those that are not there whole."""
    return [file for file in files if _size(folder / file.name) != file.size]


def _size(path: Path) -> int:
    """Bytes of a file; -1 where there is none."""
    return path.stat().st_size if path.is_file() else -1


def _fetch_all(snapshot: Snapshot, files: list[RemoteFile]) -> None:
    if not files:
        return
    needed = sum(file.size - max(0, _size(_part(snapshot.folder / file.name))) for file in files)
    free = shutil.disk_usage(snapshot.folder).free
    if needed > free:
        raise ModelError(
            f"{snapshot.source}: {needed / 2**30:.1f} GiB are to be fetched and {free / 2**30:.1f} GiB are "
            f"free in {cache_folder()}: set SAFE_R1_CACHE to a larger disk"
        )
    logger.info("%s: fetching %d files, %.2f GiB", snapshot.source, len(files), needed / 2**30)
    remote = open_remote(snapshot.source, snapshot.revision)
    with ThreadPoolExecutor(_THREADS) as pool:
        # The first error ends it; what has been fetched stays.
        done = [pool.submit(_fetch_file, snapshot, remote, file) for file in files]
        try:
            for each in done:
                each.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _part(target: Path) -> Path:
    return target.with_name(f".{target.name}.part")


def _fetch_file(snapshot: Snapshot, remote: Remote, file: RemoteFile) -> None:
    target = snapshot.folder / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _part(target)
    tries = Retrying(
        retry=retry_if_not_exception_type(FileNotFoundError),
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_exponential(0.5, max=10),
        reraise=True,
    )
    try:
        tries(_continue, remote, file, part)
    except Exception as error:  # noqa: BLE001 - a file system raises whatever its transport raises
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelError(
            f"{snapshot.source}: {file.name} cannot be fetched ({reason}); the same command goes on where it "
            "was"
        ) from None
    if problem := _problem(file, part):
        part.unlink()
        raise ModelError(
            f"{snapshot.source}: {file.name} {problem}; run the same command again, which fetches it anew; "
            "if it is so again, the file is damaged there: publish it again"
        )
    os.replace(part, target)


def _continue(remote: Remote, file: RemoteFile, part: Path) -> None:
    """Append what a partial file lacks."""
    start = max(0, _size(part))
    if start > file.size:
        part.unlink()
        start = 0
    if start == file.size and part.is_file():
        return
    try:
        with part.open("ab") as target:
            for chunk in remote.read(file.name, start):
                target.write(chunk)
            target.flush()
            os.fsync(target.fileno())
    except NoRangeError:
        part.unlink()
        _continue(remote, file, part)


def _problem(file: RemoteFile, part: Path) -> str:
    """Why a file is not what its source says; empty where it is."""
    if (size := _size(part)) != file.size:
        return f"has {size:,} bytes where its source lists {file.size:,}"
    if file.sha256:
        with part.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        return "" if found == file.sha256.lower() else "has not the SHA-256 that its source lists"
    if file.name.endswith(".safetensors") and read_safetensors_header(part) is None:
        return "is no whole safetensors file"
    return ""
