"""One job at a time works on a run folder: a file in it names the job that does.

Jobs switch it on (``holding``); a library call without a job takes no lock. The file goes away with the job.
What a killed job leaves is taken over: at once where its process is known to be gone, elsewhere when its file
has not changed for a minute, by the clock of the one who waits: clocks of machines are never compared.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from upath import UPath

from safe_r1.errors import RunBusyError
from safe_r1.progress import NOTICES
from safe_r1.provenance import now

logger = logging.getLogger(__name__)
notices = logging.getLogger(NOTICES)
NAME = ".lock"
"""Name of the file."""
_BEAT_S = 10.0
# Several times the interval: a driver that imports torch, or a store that stalls, may miss some.
_STALE_S = 60.0
# A job whose cluster died ends within some seconds; the campaign may have submitted it again by then.
_ENDING_S = 20.0
_POLL_S = 1.0
# Two that take over the same file see in this time whose it is.
_SETTLE_S = 0.5


@dataclass(frozen=True)
class Holder:
    """The job that works on a folder.

    Attributes:
        token: Random, of one job.
        host: Name of its machine.
        space: Where its process ids hold: a boot of a machine, and a container in it.
        pid: Of its process.
        ticks: Start of the process in the kernel's ticks, as ids are used again; 0 where unknown.
        started_at: When the job took the folder, in UTC.
        beat: Grows while the job is alive.
    """

    token: str
    host: str
    space: str
    pid: int
    ticks: int
    started_at: str
    beat: int = 0

    @property
    def process(self) -> tuple[str, int, int]:
        """Its process, as no other one is called."""
        return self.space, self.pid, self.ticks

    @property
    def is_known_dead(self) -> bool:
        """Whether its process was one of this machine's, and is gone."""
        return self.space == _space() and _ticks(self.pid) != self.ticks


class RunLocks:
    """The folders that this job holds."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[UPath, Holder]] = {}
        self._lock = threading.Lock()
        # Of its own, as the folders that are held are renewed while another one is waited for.
        self._taking = threading.Lock()
        # Processes whose silence was waited for: nobody waits for each folder of a job that died.
        self._gone: set[tuple[str, int, int]] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="run-locks")

    def hold(self, folder: UPath) -> None:
        """Take a folder until ``release``; nothing if it is held already.

        Raises:
            RunBusyError: Another job works on it.
        """
        with self._taking:
            if str(folder) in self._held:
                return
            mine = Holder(
                uuid.uuid4().hex, socket.gethostname(), _space(), os.getpid(), _ticks(os.getpid()), now()
            )
            if not _take(folder / NAME, mine, self._gone):
                return
            with self._lock:
                self._held[str(folder)] = (folder / NAME, mine)
            if not self._thread.ident:
                self._thread.start()

    def release(self) -> None:
        """Give all folders back."""
        self._stop.set()
        with self._lock:
            for path, mine in self._held.values():
                with contextlib.suppress(Exception):  # what is left is taken over
                    if _is_of(path, mine):
                        path.unlink()
            self._held.clear()

    def _beat(self) -> None:
        while not self._stop.wait(_BEAT_S):
            with self._lock:
                for name in list(self._held):
                    try:
                        self._renew(name)
                    except Exception as error:  # noqa: BLE001 - stores raise errors of their own
                        # The next beat may succeed.
                        logger.warning("%s cannot be renewed: %s", name, type(error).__name__)

    def _renew(self, name: str) -> None:
        path, mine = self._held[name]
        found = _read(path)
        if found is None and not path.parent.exists():
            del self._held[name]
        elif found is not None and found.token != mine.token:
            logger.error("%s: another job has taken this folder over", name)
            del self._held[name]
        else:
            self._held[name] = (path, replace(mine, beat=mine.beat + 1))
            _write(*self._held[name])


_locks: RunLocks | None = None


@contextlib.contextmanager
def holding() -> Iterator[None]:
    """Run folders that are opened in the body are this job's until its end."""
    global _locks
    before, _locks = _locks, RunLocks()
    try:
        yield
    finally:
        _locks.release()
        _locks = before


def hold(folder: UPath) -> None:
    """Take a folder for the job that runs, if one does.

    Raises:
        RunBusyError: Another job works on it.
    """
    if _locks is not None:
        _locks.hold(folder)


def _take(path: UPath, mine: Holder, gone: set[tuple[str, int, int]] | None = None) -> bool:
    """Write the file unless another job has; False where there can be none.

    Args:
        path: The file.
        mine: Its content.
        gone: Processes that are known to be gone; a further one is added.

    Raises:
        RunBusyError: Another job has.
    """
    while True:
        try:
            if _create(path, mine):
                return True
            found = _read(path)
            if found is not None and (found.space, found.pid) == (mine.space, mine.pid):
                return False
            is_gone = found is not None and gone is not None and found.process in gone
            if is_gone or _is_stale(path, found):
                if gone is not None and (last := _read(path)):
                    gone.add(last.process)
                _write(path, mine)
                break
        except RunBusyError:
            raise
        except Exception as error:  # noqa: BLE001 - stores raise errors of their own
            # A folder that can only be read or is none, or a store without conditional writes.
            logger.warning("%s: no lock against a second job at once (%s)", path.parent, type(error).__name__)
            return False
    time.sleep(_SETTLE_S)
    if not _is_of(path, mine):
        raise _conflict(path, _read(path))
    return True


def _is_stale(path: UPath, known: Holder | None) -> bool:
    """Whether the job that wrote the file is gone; False where the file is gone, too.

    Raises:
        RunBusyError: It is alive, and not about to end.
    """
    if known is None or not known.is_known_dead:
        notices.warning("%s: another job has it; waiting whether it is alive", path.parent)
    started = changed = time.monotonic()
    while True:
        waited = time.monotonic() - started
        if known is not None and known.space == _space():
            if known.is_known_dead:
                return True
            if waited > _ENDING_S:
                raise _conflict(path, known)
        elif time.monotonic() - changed > _STALE_S:
            return True
        time.sleep(_POLL_S)
        found = _read(path)
        if found is None and not _is_there(path):
            return False
        if found is not None and found != known:
            known = found
            changed = time.monotonic()
            if waited > _ENDING_S:
                raise _conflict(path, known)


def _conflict(path: UPath, holder: Holder | None) -> RunBusyError:
    who = (
        f"host {holder.host}, process {holder.pid}, since {holder.started_at}"
        if holder
        else "it has just ended"
    )
    return RunBusyError(
        f"{path.parent}: another job works on this folder ({who}); wait for it or stop it, then run the same "
        "command again, or choose another --output"
    )


def _create(path: UPath, mine: Holder) -> bool:
    """Write the file if there is none; False if there is one."""
    content = json.dumps(asdict(mine)).encode()
    if _is_local(path):
        # Outside of what follows: a file at the folder's place is no lock, and would be waited for for ever.
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if not _is_local(path):
            # A conditional write where the store has one, such as S3 and GCS.
            path.fs.pipe_file(path.path, content, mode="create")
            return True
        with _temporary(path, content, mine) as temporary:
            # With its content from the first moment, and for one of several alone.
            os.link(temporary, path.path)
    except FileExistsError:
        return False
    return True


@contextlib.contextmanager
def _temporary(path: UPath, content: bytes, holder: Holder) -> Iterator[str]:
    name = f"{path.path}.{holder.token[:8]}.tmp"
    try:
        Path(name).write_bytes(content)
        yield name
    finally:
        with contextlib.suppress(OSError):
            os.unlink(name)


def _write(path: UPath, holder: Holder) -> None:
    content = json.dumps(asdict(holder)).encode()
    if not _is_local(path):
        path.fs.pipe_file(path.path, content)
        return
    with _temporary(path, content, holder) as temporary:
        os.replace(temporary, path.path)


def _read(path: UPath) -> Holder | None:
    """The holder; None where the file is gone, or being written."""
    try:
        if not _is_local(path):
            path.fs.invalidate_cache(path.parent.path)
        content: dict[str, Any] = json.loads(path.read_bytes())
        return Holder(**content)
    except (OSError, ValueError, TypeError):
        return None


def _is_of(path: UPath, mine: Holder) -> bool:
    found = _read(path)
    return found is not None and found.token == mine.token


def _is_there(path: UPath) -> bool:
    # A link that leads nowhere is in the way as well.
    return os.path.lexists(path.path) if _is_local(path) else path.exists()


def _is_local(path: UPath) -> bool:
    return path.protocol in ("", "file", "local")


def _space() -> str:
    """The boot of this machine, and the container in it."""
    parts: list[Callable[[], str]] = [
        socket.gethostname,
        lambda: Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        lambda: os.readlink("/proc/self/ns/pid"),
    ]
    found = []
    for part in parts:
        with contextlib.suppress(OSError):  # not on every system
            found.append(part())
    return " ".join(found)


def _ticks(pid: int) -> int:
    """Start of a process in ticks since the boot, which no change of the clock moves; -1 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return -1 if fields[0] in "ZX" else int(fields[19])
    except (OSError, ValueError, IndexError):
        pass
    if Path("/proc/self/stat").exists():
        return -1
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return -1
    except OSError:
        pass
    return 0
