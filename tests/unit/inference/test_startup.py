"""The steps of a start, from lines as vLLM's processes print them."""

import logging

from safe_r1.inference.startup import StartupReader, show_startup
from safe_r1.progress import STARTUP_LOGGER

# Of a real start on CPU; of the GPU's steps, by vLLM's format strings.
LINES = """\
(MainProcess pid=28620) INFO 11-29 11:12:26 [model.py:733] Resolved architecture: Qwen2ForCausalLM
(MainProcess pid=28620) INFO 11-29 11:12:26 [model.py:2152] Using max model len 1024
(MainProcess pid=28620) INFO 11-29 11:12:26 [model.py:733] Resolved architecture: Qwen2ForCausalLM
(EngineCore pid=28933) INFO 11-29 11:12:35 [core.py:133] Initializing a V1 LLM engine (v0.32.0)
(Worker pid=29008) WARNING 11-29 11:12:44 [cpu_worker.py:114] libiomp is not found in LD_PRELOAD.
(Worker pid=29008) INFO 11-29 11:12:44 [cpu_model_runner.py:68] Starting to load model m...
(Worker pid=29008) INFO 11-29 11:12:44 [default_loader.py:501] Loading weights took 0.01 seconds
(Worker_TP1 pid=29009) INFO 11-29 11:12:45 [default_loader.py:501] Loading weights took 0.01 seconds
(EngineCore pid=28933) INFO 11-29 11:12:45 [monitor.py:57] torch.compile took 12.34 s in total
(EngineCore pid=28933) INFO 11-29 11:12:45 [kv_cache_utils.py:2327] CPU KV cache size: 2,097,152 tokens, M
(Worker pid=29008) INFO 11-29 11:12:46 [gpu_model_runner.py:6581] Graph capturing finished in 7 secs, took
(EngineCore pid=28933) INFO 11-29 11:12:45 [core.py:402] init engine (profile, create kv cache) took 0.36 s
""".splitlines()
STEPS = [
    "libraries imported, settings checked",
    "its core process started",
    "loading the model",
    "weights loaded in 0.01 s",
    "compiled in 12.34 s",
    "key-value cache of 2,097,152 tokens",
    "CUDA graphs captured in 7 s",
    "profiled and warmed up in 0.36 s; rows follow",
]


def test_each_step_is_given_once():
    assert list(StartupReader().read(LINES, "worker")) == STEPS


def test_another_engine_starts_anew():
    reader = StartupReader()
    assert list(reader.read(LINES, "worker")) == STEPS
    assert list(reader.read(LINES, "worker")) == []
    assert list(reader.read(LINES, "its successor")) == STEPS


def test_the_text_of_a_row_is_never_a_step():
    rows = [
        "Loading weights took 3.2 seconds",
        "INFO Loading weights took 3.2 seconds",
        "(Worker pid=1) INFO 11-29 11:12:44 [a.py:1] prompt: 'Loading weights took 3.2 seconds'",
        "(Worker pid=1) INFO 11-29 11:12:44 [a.py:1] Loading weights took \x1b[31m seconds",
    ]
    assert list(StartupReader().read(rows, "worker")) == []


def test_what_ray_passes_on_and_our_own_steps_are_shown_while_it_lasts():
    from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher

    shown: list[str] = []
    batch = {"ip": "10.0.0.1", "pid": 7, "lines": LINES}
    with show_startup(shown.append):
        logging.getLogger(STARTUP_LOGGER).info("ray: connected")
        dispatcher.emit(batch)
        dispatcher.emit(batch)
        dispatcher.emit({"ip": "10.0.0.1", "pid": 8})
    dispatcher.emit(batch | {"pid": 9})
    logging.getLogger(STARTUP_LOGGER).info("later")
    assert shown == ["ray: connected (at 0 s)", *(f"engine: {step} (at 0 s)" for step in STEPS)]
