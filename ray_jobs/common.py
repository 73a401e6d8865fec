"""Shared by all jobs: a quiet terminal, progress, one line for an error, and the Ray that is joined."""

import contextlib
import datetime
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from safe_r1.errors import SafeR1Error
from safe_r1.locks.run_lock import holding
from safe_r1.models.files import cache_folder, make_cache
from safe_r1.progress import NOTICES, Progress
from safe_r1.redaction import RedactingFormatter, hide_credentials
from safe_r1.resources import connect, is_jobs_server, locate_ray, set_import_variables

# Without a terminal, the output is a file, or the log of a Ray job.
_LINE_INTERVAL_S = 30.0


class Console:
    """The terminal of a job, while everything that libraries print goes to a log file.

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
        with self._lock:
            self._close_bar()
            print(hide_credentials(text), file=self.out, flush=True)

    def progress(self, progress: Progress) -> None:
        """Show progress: a bar on a terminal, elsewhere a line every 30 seconds and at each stage's ends."""
        with self._lock:
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


@contextlib.contextmanager
def job(name: str) -> Iterator[Console]:
    """Run a job's body with a quiet terminal; a ``SafeR1Error`` becomes one line and its exit code."""
    set_import_variables()
    log = cache_folder() / "logs" / f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}.log"
    try:
        make_cache(log.parent)
    except SafeR1Error as error:
        print(f"{name}: {error.shown}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    out = os.dup(1)
    err = os.dup(2)
    console = Console(os.fdopen(out, "w", encoding="utf-8", errors="replace"), log)
    with log.open("w", encoding="utf-8") as file:
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
        code = 1
        try:
            with holding():
                yield console
            code = 0
        except SafeR1Error as error:
            code = error.exit_code
            logging.getLogger(name).exception("the job ends")
            console.show(f"{name}: {error.shown}")
        except KeyboardInterrupt:
            # 128 + SIGINT, as shells report it.
            code = 130
            console.show(f"{name}: stopped; the same command resumes from here")
        finally:
            logging.getLogger(NOTICES).removeHandler(terminal)
            if "ray" in sys.modules:
                sys.modules["ray"].shutdown()  # while its last messages still go to the log
            if code == 1:
                console.show(f"{name}: unexpected error, see {log}")
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(out, 1)
            os.dup2(err, 2)
    if code:
        raise SystemExit(code)
