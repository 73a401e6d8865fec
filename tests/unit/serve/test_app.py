from dataclasses import replace

import pytest

from safe_r1.config import EngineConfig, GenerationConfig, JudgeConfig
from safe_r1.errors import ConfigError
from safe_r1.models.registry import VARIANTS
from safe_r1.resources import Cluster
from safe_r1.serve.app import check_address, check_config, plan_models
from safe_r1.serve.config import ScalingConfig, ServeConfig
from safe_r1.serve.deltas import DeltaReceiver
from safe_r1.serve.engine import ServedModel

CLUSTER = Cluster(gpu_total=0, cpu_total=8, memory_gib=64)
DEMO = VARIANTS["demo"]
OTHER = replace(DEMO, name="other", source="/models/other")
CONFIG = ServeConfig(
    engine=EngineConfig(max_model_len=1024, max_num_seqs=8),
    judge=JudgeConfig(kind="llm", engine=EngineConfig(max_model_len=4096, max_num_seqs=2)),
    scaling=ScalingConfig(max_replicas=3),
)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ServeConfig(host="0.0.0.0"), "--api-keys"),
        (ServeConfig(variants=("demo", "demo")), "twice"),
        (ServeConfig(judge=JudgeConfig(kind="lexicn")), "unknown judge 'lexicn'.*lexicon"),
    ],
)
def test_invalid_settings(config: ServeConfig, message: str):
    with pytest.raises(ConfigError, match=message):
        check_config(config)


def test_a_judging_model_has_the_engine_settings_of_the_judge(monkeypatch: pytest.MonkeyPatch):
    """The context of its prompts was once that of the served models."""
    monkeypatch.setattr("safe_r1.serve.engine.load_tokenizer", lambda *arguments: None)
    specs = plan_models(CONFIG, [DEMO], [OTHER], CLUSTER)
    receiver = DeltaReceiver("127.0.0.1")
    models = [ServedModel(spec, None, GenerationConfig(), receiver) for spec in specs]  # pyright: ignore[reportArgumentType]
    assert [(model.variant.name, model.context, model.slots) for model in models] == [
        ("demo", 1024, 24),
        ("other", 4096, 6),
    ]


def test_a_served_model_that_judges_is_deployed_once():
    [spec] = plan_models(CONFIG, [DEMO], [DEMO, DEMO], CLUSTER)
    assert (spec.engine.max_model_len, spec.engine.max_num_seqs) == (
        1024,
        8,
    )  # the service's, not the judge's
    with pytest.raises(ConfigError, match="both named 'demo'"):
        plan_models(CONFIG, [DEMO], [replace(OTHER, name="demo")], CLUSTER)


def test_the_address_of_a_serve_that_is_running_is_not_ignored():
    check_address(ServeConfig(port=8001), "127.0.0.1", 8001)
    with pytest.raises(ConfigError, match="--port 8000"):
        check_address(ServeConfig(port=8001), "127.0.0.1", 8000)
