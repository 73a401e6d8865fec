"""Shared by all jobs: a quiet terminal, progress, one line for an error, and the Ray that is joined."""

import contextlib
import datetime
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from ray_jobs.ray_loss import is_local_head_gone, is_ray_lost
from ray_jobs.supervise import report_begin, report_end
from safe_r1.errors import ExitCode, SafeR1Error, decide_exit
from safe_r1.language import use_utf8
from safe_r1.locks.run_lock import holding
from safe_r1.models.files import cache_folder, make_cache
from safe_r1.progress import NOTICES, Progress
from safe_r1.redaction import RedactingFormatter, hide_credentials
from safe_r1.resources import connect, is_jobs_server, locate_ray, set_import_variables
from safe_r1.runs import storage_error

# How often the job looks whether its own Ray is there, and how long an error that tells the loss may take.
_HEAD_LOOK_S = 2.0
_HEAD_GRACE_S = 15.0
_GOES_ON = "a machine or its Ray was lost: what is finished is kept, the same command goes on from here"
# Without a terminal, the output is a file, or the log of a Ray job.
_LINE_INTERVAL_S = 30.0


class Console:
    """The terminal of a job, while everything that libraries print goes to a log file.

    A terminal that is gone, or a file on a full disk, takes nothing more; it does not end the job.

    Attributes:
        log: The log file.
        out: The terminal.
    """

    def __init__(self, out: TextIO, log: Path):
        self.out = out
        self.log = log
        self._bar: tqdm | None = None
        self._stage = ""
        self._line_due = 0.0
        # Steps of an engine's start come from a thread of Ray's.
        self._lock = threading.RLock()

    def show(self, text: str) -> None:
        """Print text for the user, without credentials: under a cluster it is the log of a Ray job."""
        with self._lock, contextlib.suppress(OSError):
            self._close_bar()
            print(hide_credentials(text), file=self.out, flush=True)

    def progress(self, progress: Progress) -> None:
        """Show progress: a bar on a terminal, elsewhere a line every 30 seconds and at each stage's ends."""
        with self._lock, contextlib.suppress(OSError):
            is_new_stage = progress.stage != self._stage
            self._stage = progress.stage
            if self.out.isatty():
                self._update_bar(progress, is_new_stage)
            elif is_new_stage or progress.done == progress.total or time.monotonic() > self._line_due:
                print(progress.format(), file=self.out, flush=True)
                self._line_due = time.monotonic() + _LINE_INTERVAL_S

    def _update_bar(self, progress: Progress, is_new_stage: bool) -> None:
        if is_new_stage or self._bar is None:
            self._close_bar()
            self._bar = tqdm(
                total=progress.total,
                initial=progress.done,
                desc=progress.stage,
                unit=progress.unit,
                file=self.out,
                dynamic_ncols=True,
            )
        self._bar.update(progress.done - self._bar.n)
        self._bar.set_postfix_str(progress.notes)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class TerminalHandler(logging.Handler):
    """Shows on the terminal what is logged for it; everything else goes to the log alone."""

    def __init__(self, console: Console):
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Show one message on a line."""
        self._console.show(hide_credentials(" ".join(record.getMessage().split())))


def join_ray(console: Console) -> None:
    """Join the Ray that is running and show which; where there is none, the job starts a local one later.

    Raises:
        ResourceError: It cannot be joined.
    """
    location = locate_ray()
    # Only a campaign can use such an address, and it submits its jobs there without joining.
    if is_jobs_server(location.address):
        return
    if location.dead_address:
        console.show(
            f"ray: the Ray at {location.dead_address} died without `ray stop`; a local one is started"
        )
    if location.address is None:
        return
    # How many CPUs the job needs, it says itself when it connects.
    cluster = connect(min_cpus=0)
    nodes = f"{cluster.num_nodes} node{'' if cluster.num_nodes == 1 else 's'}"
    console.show(
        f"ray: joined the Ray at {cluster.address}: {nodes}, {cluster.gpu_total:g} GPUs, "
        f"{cluster.cpu_total:g} CPUs"
    )


class Stops:
    """Takes SIGTERM as Ctrl-C is taken, so that what is running is written; a context manager.

    Attributes:
        is_terminated: SIGTERM came.
    """

    def __init__(self) -> None:
        self.is_terminated = False
        self._interrupt = signal.getsignal(signal.SIGINT)
        self._is_main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "Stops":
        if self._is_main:
            self._before = signal.signal(signal.SIGTERM, self._terminate)
        return self

    def __exit__(self, *error: object) -> None:
        if self._is_main:
            signal.signal(signal.SIGTERM, self._before)

    @property
    def is_replaced(self) -> bool:
        """A library has set a handler of SIGINT of its own."""
        return signal.getsignal(signal.SIGINT) is not self._interrupt

    @property
    def exit_code(self) -> ExitCode:
        """Of a job that was stopped."""
        return ExitCode.TERMINATED if self.is_terminated else ExitCode.INTERRUPTED

    def _terminate(self, *_: object) -> None:
        # A scheduler may send it to every process of the job, and the supervisor passes it on as well.
        if self.is_terminated:
            return
        self.is_terminated = True
        if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, signal.SIG_DFL):
            raise KeyboardInterrupt
        # Not raised here: a running event loop takes a SIGINT in its own way.
        signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def job(name: str) -> Iterator[Console]:
    """Run a job's body with a quiet terminal; an error becomes one line and its ``ExitCode``."""
    use_utf8()
    set_import_variables()
    log = cache_folder() / "logs" / f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}.log"
    try:
        make_cache(log.parent)
        log.touch()
    except (SafeR1Error, OSError) as given:
        error = given if isinstance(given, SafeR1Error) else storage_error(log, given)
        print(f"{name}: {error.shown}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    # From here on an end without a report is a loss.
    report_begin(name)
    out = os.dup(1)
    err = os.dup(2)
    console = Console(os.fdopen(out, "w", encoding="utf-8", errors="replace"), log)
    with log.open("w", encoding="utf-8") as file, Stops() as stops:
        sys.stdout.flush()
        sys.stderr.flush()
        # The descriptors and not sys.stdout alone, as Ray and vLLM print from C++ and from child processes.
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.basicConfig(level=logging.INFO, handlers=[handler])
        terminal = TerminalHandler(console)
        logging.getLogger(NOTICES).addHandler(terminal)
        code = ExitCode.FAULT
        ended = threading.Event()
        threading.Thread(target=_watch_head, args=(name, console, ended), daemon=True).start()
        try:
            with holding():
                yield console
            code = ExitCode.DONE
        except KeyboardInterrupt:
            code = _show_stop(name, console, stops)
        except SystemExit as error:
            # Ray Train has a handler of SIGINT of its own, which ends the process with exit code 0 or 1.
            if error.code and not (stops.is_terminated or stops.is_replaced):
                raise
            code = _show_stop(name, console, stops)
        except Exception as error:
            code = _explain(name, error, console, stops)
            if code == ExitCode.FAULT:
                raise
        finally:
            ended.set()
            logging.getLogger(NOTICES).removeHandler(terminal)
            # Before Ray's shutdown, in which a Ray that is gone may end this process.
            report_end(code)
            if code == ExitCode.FAULT:
                console.show(f"{name}: unexpected error, see {log}")
            # Where the job was stopped in the middle of its import, it has none.
            if shutdown := getattr(sys.modules.get("ray"), "shutdown", None):
                shutdown()  # while its last messages still go to the log
            # What libraries print is lost where the disk of the log is full.
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError):
                    stream.flush()
            os.dup2(out, 1)
            os.dup2(err, 2)
    if code:
        raise SystemExit(int(code))


def _watch_head(name: str, console: Console, ended: threading.Event) -> None:
    """End this process where the head of its own Ray has ended, after which calls would wait for ever."""
    while not ended.wait(_HEAD_LOOK_S):
        # Twice, as a head that the job itself is just shutting down looks the same.
        if is_local_head_gone() and not ended.wait(_HEAD_GRACE_S) and is_local_head_gone():
            console.show(f"{name}: {_GOES_ON}")
            report_end(ExitCode.LOST)
            os._exit(ExitCode.LOST)


def _show_stop(name: str, console: Console, stops: Stops) -> ExitCode:
    console.show(f"{name}: stopped; the same command goes on from here")
    return stops.exit_code


def _explain(name: str, error: Exception, console: Console, stops: Stops) -> ExitCode:
    """The exit code of an error, after one line for the user."""
    # Ray's wrapper of an error of ours is one of ours as well, with the worker's traceback as its text.
    given = error
    while isinstance(cause := getattr(error, "cause", None), SafeR1Error):
        error = cause
    code, reason = decide_exit(error)
    if code == ExitCode.INTERRUPTED:
        return _show_stop(name, console, stops)
    # Also where the error is another one: what follows from the loss of Ray has many forms.
    if code != ExitCode.LOST and is_ray_lost():
        code, reason = ExitCode.LOST, error
    logging.getLogger(name).error("the job ends", exc_info=given)
    if code == ExitCode.FAULT:
        return code
    if isinstance(error, SafeR1Error):
        shown = error.shown
    elif isinstance(reason, SafeR1Error):
        shown = reason.shown
    else:
        shown = f"{type(reason).__name__}: {_last_line(reason)}"
    if code == ExitCode.LOST and not isinstance(error, SafeR1Error):
        shown += f"; {_GOES_ON}"
    console.show(f"{name}: {shown}")
    return code


def _last_line(error: BaseException) -> str:
    """Of an error of Ray's, which stands below the tracebacks of workers."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    return lines[-1][:400] if lines else "no message"
