"""Shows what happens before an engine's first row: a line for each step, when it is done.

Ray passes all that workers print on to the driver, whichever node they are on, and the job's log file gets
it. This reads the few lines among it that say how far the start of vLLM's engine is. Our own steps come from
the logger ``safe_r1.startup``.

Source: the log messages of vLLM 0.32. A message that another version words differently is not shown.
"""

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from safe_r1.progress import STARTUP_LOGGER

_HANDLER = "safe_r1_startup"
_NUMBER = r"([0-9][0-9.,]*)"


@dataclass(frozen=True)
class _Step:
    """A message of vLLM's, and what is shown for it; ``{0}`` is its first number."""

    pattern: re.Pattern[str]
    text: str


def _step(pattern: str, text: str) -> _Step:
    return _Step(re.compile(pattern.replace("NUMBER", _NUMBER)), text)


# In the order of a start.
_STEPS = (
    _step(r"^Resolved architecture: ", "libraries imported, settings checked"),
    _step(r"^Initializing a V1 LLM engine", "its core process started"),
    _step(r"^Starting to load model", "loading the model"),
    _step(r"^Time spent downloading weights for .*: NUMBER seconds", "weights downloaded in {0} s"),
    _step(r"^Loading weights took NUMBER seconds", "weights loaded in {0} s"),
    _step(r"torch\.compile took NUMBER s in total", "compiled in {0} s"),
    _step(r"Initial profiling/warmup run took NUMBER s", "first run in {0} s"),
    _step(r"KV cache size: NUMBER tokens", "key-value cache of {0} tokens"),
    _step(r"^Graph capturing finished in NUMBER secs", "CUDA graphs captured in {0} s"),
    _step(r"^init engine .* took NUMBER s", "profiled and warmed up in {0} s; rows follow"),
)
# What vLLM's formatter writes in front of a message.
_PREFIX = re.compile(r"INFO [0-9-]+ [0-9:]+ \[\w+\.py:[0-9]+\] ")


@dataclass
class StartupReader:
    """Reads the steps of an engine's start from what its processes print.

    The workers of one engine, and engines that start together, print the same lines: each step is given once,
    until the process of another engine starts.
    """

    _seen: set[str] = field(default_factory=set)
    _engines: set[object] = field(default_factory=set)

    def read(self, lines: Iterable[str], process: object) -> Iterator[str]:
        """The steps in some printed lines, in our words and vLLM's numbers.

        Args:
            lines: Of one of Ray's workers.
            process: What identifies that worker.
        """
        for line in lines:
            prefix = _PREFIX.search(line)
            if prefix is None:
                continue
            for step in _STEPS:
                if found := step.pattern.search(line[prefix.end() :]):
                    yield from self._once(step.text.format(*found.groups()), step is _STEPS[0], process)
                    break

    def _once(self, text: str, is_first: bool, process: object) -> Iterator[str]:
        if is_first and process not in self._engines:
            self._engines.add(process)
            self._seen.clear()
        if text not in self._seen:
            self._seen.add(text)
            yield text


@contextlib.contextmanager
def show_startup(show: Callable[[str], None]) -> Iterator[None]:
    """Show each step of every start meanwhile, for example ``engine: weights loaded in 3.2 s (at 21 s)``.

    Args:
        show: Takes a line; called from a thread of Ray's too.
    """
    from ray._private.ray_logging import global_worker_stdstream_dispatcher

    reader = StartupReader()
    started = time.monotonic()

    def show_step(text: str) -> None:
        show(f"{text} (at {time.monotonic() - started:.0f} s)")

    def read(batch: Mapping[str, Any]) -> None:
        for text in reader.read(batch.get("lines") or (), (batch.get("ip"), batch.get("pid"))):
            show_step(f"engine: {text}")

    logger = logging.getLogger(STARTUP_LOGGER)
    handler = _Handler(show_step)
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    global_worker_stdstream_dispatcher.add_handler(_HANDLER, read)
    try:
        yield
    finally:
        global_worker_stdstream_dispatcher.remove_handler(_HANDLER)
        logger.removeHandler(handler)


class _Handler(logging.Handler):
    """Shows the messages of a logger."""

    def __init__(self, show: Callable[[str], None]):
        super().__init__(logging.INFO)
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        self._show(record.getMessage())
