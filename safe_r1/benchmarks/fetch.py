"""Downloads a published benchmark at a pinned commit: all of its files or none."""

import hashlib
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import httpx
from platformdirs import user_cache_path
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from safe_r1.errors import DataError, StorageError

logger = logging.getLogger(__name__)

GITHUB = "https://raw.githubusercontent.com"
HUGGING_FACE = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
"""The Hugging Face hub, or its mirror that ``HF_ENDPOINT`` names; hashes are checked either way."""


DATA = "SAFE_R1_DATA"
"""Environment variable: the folder of all benchmarks' files, on a cluster one that all nodes share."""


def data_folder() -> Path:
    """Default folder of all benchmarks: ``SAFE_R1_DATA``, or the user's cache."""
    return Path(os.environ.get(DATA) or user_cache_path("safe_r1"))


@dataclass(frozen=True)
class Source:
    """Where a benchmark is published.

    Attributes:
        name: The benchmark.
        base_url: URL of the folder of its files, at a pinned commit.
        files_sha256: File name to expected hash.
        folder: Folder of the files inside the target.
    """

    name: str
    base_url: str
    files_sha256: dict[str, str]
    folder: str

    @property
    def default_target(self) -> Path:
        """The folder that ``fetch`` fills and ``load`` reads where none is named."""
        return data_folder() / self.name


def fetch(
    source: Source,
    target: Path | str | None = None,
    *,
    timeout_s: float = 30.0,
    attempts: int = 4,
    max_wait_s: float = 8.0,
) -> Path:
    """Download a benchmark's files into ``target/FOLDER``; a complete copy there is left as it is.

    The files are small, so all are held in memory and checked before anything is written.

    Args:
        source: What is downloaded.
        target: Local folder, made if missing; None for the source's own.
        timeout_s: Longest wait for the server in one attempt.
        attempts: How often a file is tried where the network or the server fails.
        max_wait_s: Longest pause between attempts.

    Returns:
        ``target``, to be given as ``--data``.

    Raises:
        DataError: A file cannot be downloaded or has another hash; nothing is left behind.
        StorageError: The folder cannot be written, or the files' folder in it holds something else.
    """
    folder = source.default_target if target is None else Path(target)
    expected = source.files_sha256
    final = folder / source.folder
    try:
        if _is_complete(final, expected):
            logger.info("%s is complete already", final)
            return folder
        _require_replaceable(final, expected)
    except OSError as error:
        raise StorageError(
            f"{folder}: cannot be read ({error.strerror or error}); choose another folder"
        ) from error
    retrying = Retrying(
        retry=retry_if_exception(_is_passing),
        stop=stop_after_attempt(attempts),
        wait=wait_exponential(multiplier=0.5, max=max_wait_s),
        reraise=True,
    )
    with httpx.Client(timeout=timeout_s, follow_redirects=True) as client:
        contents = {
            name: _download(client, f"{source.base_url.rstrip('/')}/{name}", sha256, retrying)
            for name, sha256 in expected.items()
        }
    _write(final, contents)
    return folder


def _download(client: httpx.Client, url: str, sha256: str, retrying: Retrying) -> bytes:
    def attempt() -> bytes:
        response = client.get(url)
        response.raise_for_status()
        return response.content

    try:
        content = retrying(attempt)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{url}: download failed ({reason}); nothing was written, check the network and try again"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    # A commit is pinned, but the host could still serve other bytes: results on them are not comparable.
    if found != sha256:
        raise DataError(
            f"{url}: sha256 is {found}, expected {sha256}; nothing was written, the source has changed"
        )
    return content


def _is_passing(error: BaseException) -> bool:
    """True for failures that another attempt may not have."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    # An unsupported protocol is a mistake in the URL, which no repetition cures.
    return isinstance(error, httpx.TransportError) and not isinstance(error, httpx.UnsupportedProtocol)


def _is_complete(folder: Path, expected: dict[str, str]) -> bool:
    return all(
        (folder / name).is_file() and hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256
        for name, sha256 in expected.items()
    )


def _require_replaceable(folder: Path, expected: dict[str, str]) -> None:
    """Refuse to replace anything but earlier copies of the files."""
    if folder.exists() and (
        not folder.is_dir() or any(path.name not in expected for path in folder.iterdir())
    ):
        raise StorageError(f"{folder}: holds something else than this benchmark; choose another folder")


def _write(final: Path, contents: dict[str, bytes]) -> None:
    folder = final.parent
    # What did not exist before is removed after a failure, so that it leaves nothing behind.
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # In the same folder, as a rename between file systems is not atomic.
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as temporary:
            staged = Path(temporary) / final.name
            staged.mkdir()
            for name, content in contents.items():
                (staged / name).write_bytes(content)
            _exchange(staged, final, Path(temporary) / "replaced")
    except OSError as error:
        if made:
            shutil.rmtree(made[-1], ignore_errors=True)
        raise StorageError(
            f"{folder}: cannot be written ({error.strerror or error}); choose another folder"
        ) from error


def _exchange(staged: Path, final: Path, replaced: Path) -> None:
    # The old copy is kept until the new one is in its place.
    if final.exists():
        final.rename(replaced)
    try:
        staged.rename(final)
    except OSError:
        if replaced.exists():
            replaced.rename(final)
        raise
