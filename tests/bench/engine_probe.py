"""Counters from inside vLLM's engine, the same for every side of a comparison.

A plugin of vLLM (``write_plugin``), so that it is loaded in the processes of any engine whose environment has
its folder, and no side needs code for it. It wraps the scheduler and the worker and appends a line to a file
of the process for each event; ``tests.bench.engine_counts`` reads them. An event costs some microseconds.

Lines, each a JSON array that begins with its kind and the time in seconds since the epoch:
    ``loaded``: vLLM is imported.
    ``weights``: the weights are loaded.
    ``ready``, engine arguments: the engine takes requests.
    ``scheduled``, running requests, waiting requests, newly admitted requests: a step begins.
    ``updated``, running requests, generated tokens: a step has ended.
    ``executing``, CPU seconds of the worker until now: a worker begins a step.
    ``conditions``, see ``read_conditions``: of a worker, at its first step.
"""

import functools
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from tests.bench.conditions import read_conditions

FOLDER_VARIABLE = "SAFE_R1_BENCH_PROBE"
"""Environment variable: the folder of the files; without it the plugin does nothing."""

_METADATA = "Metadata-Version: 2.1\nName: safe-r1-bench\nVersion: 0\n"
_ENTRY_POINTS = "[vllm.general_plugins]\nsafe_r1_bench = tests.bench.engine_probe:install\n"


def write_plugin(folder: Path) -> Path:
    """Write an installed distribution with vLLM's entry point alone; gives its folder, for PYTHONPATH."""
    distribution = folder / "safe_r1_bench-0.dist-info"
    distribution.mkdir(parents=True, exist_ok=True)
    (distribution / "METADATA").write_text(_METADATA, "utf-8")
    (distribution / "entry_points.txt").write_text(_ENTRY_POINTS, "utf-8")
    return folder


def probe_environment(plugin: Path, records: Path, repository: Path) -> dict[str, str]:
    """Environment of a side whose engine is to be probed.

    Args:
        plugin: From ``write_plugin``.
        records: Folder of the files that the engine's processes write.
        repository: Where this package lies.
    """
    records.mkdir(parents=True, exist_ok=True)
    return {FOLDER_VARIABLE: str(records), "PYTHONPATH": os.pathsep.join([str(repository), str(plugin)])}


class _Recorder:
    """Appends lines to this process's file; a forked process gets a file of its own."""

    def __init__(self) -> None:
        self._file: TextIO | None = None
        self._pid = 0

    def add(self, kind: str, *values: object) -> None:
        if self._file is None or self._pid != os.getpid():
            self._pid = os.getpid()
            path = Path(os.environ[FOLDER_VARIABLE]) / f"{self._pid}.jsonl"
            # By the line: the processes of an engine are ended by a signal.
            self._file = path.open("a", encoding="utf-8", buffering=1)
        self._file.write(json.dumps([kind, time.time(), *values]) + "\n")


_recorder = _Recorder()


def install() -> None:
    """Wrap vLLM's scheduler and worker in this process; called by vLLM."""
    if FOLDER_VARIABLE not in os.environ:
        return
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    _recorder.add("loaded")
    _wrap(Scheduler, "__init__", after=_on_ready)
    _wrap(Scheduler, "schedule", after=_on_scheduled)
    _wrap(Scheduler, "update_from_output", after=_on_updated)
    _wrap(WorkerWrapperBase, "initialize_from_config", before=_on_weights)
    _wrap(WorkerWrapperBase, "execute_model", before=_Executing())


def _wrap(
    owner: type,
    name: str,
    before: Callable[[], None] | None = None,
    after: Callable[[Any, Any], None] | None = None,
) -> None:
    """Replace a method; ``after`` gets the object and what the method gave."""
    method = getattr(owner, name)

    @functools.wraps(method)
    def wrapped(self: object, *args: object, **kwargs: object) -> object:
        if before:
            before()
        result = method(self, *args, **kwargs)
        if after:
            after(self, result)
        return result

    setattr(owner, name, wrapped)


def _on_ready(scheduler: Any, _: object) -> None:
    _recorder.add("ready", _engine_arguments(scheduler.vllm_config, scheduler.kv_cache_config.num_blocks))


def _on_scheduled(scheduler: Any, output: Any) -> None:
    waiting = len(scheduler.waiting)
    _recorder.add("scheduled", len(scheduler.running), waiting, len(output.scheduled_new_reqs))


def _on_updated(scheduler: Any, outputs: Mapping[int, Any]) -> None:
    tokens = sum(len(row.new_token_ids) for group in outputs.values() for row in group.outputs)
    _recorder.add("updated", len(scheduler.running), tokens)


def _on_weights() -> None:
    _recorder.add("weights")


class _Executing:
    """Called as a worker begins a step."""

    def __init__(self) -> None:
        self._is_first = True

    def __call__(self) -> None:
        if self._is_first:
            self._is_first = False
            _recorder.add("conditions", read_conditions())
        _recorder.add("executing", time.process_time())


def _engine_arguments(config: Any, num_blocks: int) -> dict[str, object]:
    """What the engine runs with, as it resolved its arguments."""
    return {
        "dtype": str(config.model_config.dtype),
        "max_model_len": config.model_config.max_model_len,
        "enforce_eager": config.model_config.enforce_eager,
        "max_num_seqs": config.scheduler_config.max_num_seqs,
        "max_num_batched_tokens": config.scheduler_config.max_num_batched_tokens,
        "enable_chunked_prefill": config.scheduler_config.enable_chunked_prefill,
        "async_scheduling": config.scheduler_config.async_scheduling,
        "enable_prefix_caching": config.cache_config.enable_prefix_caching,
        "block_size": config.cache_config.block_size,
        "num_kv_blocks": num_blocks,
        "tensor_parallel_size": config.parallel_config.tensor_parallel_size,
        "pipeline_parallel_size": config.parallel_config.pipeline_parallel_size,
        "executor": str(config.parallel_config.distributed_executor_backend),
    }
