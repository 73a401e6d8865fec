"""Fixtures that all tests share: tiny models, and the data folder beside the repository."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine makes any example late.
settings.register_profile("safe_r1", deadline=None)
settings.load_profile("safe_r1")

# Before anything imports ray, vllm or transformers: no network, no authentication token in the home folder,
# no telemetry, a Ray of its own beside one that runs on this machine, and time for its start on a busy one.
for _name, _value in {
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "RAY_ADDRESS": "local",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "180",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}.items():
    os.environ.setdefault(_name, _value)

REPOSITORY = Path(__file__).parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--very-long",
        default="1/1",
        metavar="K/N",
        help="of the files with very long tests, run those of every N-th file, from the K-th on",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect very long tests of other parts. Parts are made of files, whose tests share what they start."""
    first, step = map(int, str(config.getoption("--very-long")).split("/"))
    very_long = [item for item in items if item.get_closest_marker("very_long")]
    chosen = set(sorted({item.path for item in very_long})[first - 1 :: step])
    left_out = {item for item in very_long if item.path not in chosen}
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def tiny_qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random qwen2 with an R1-style tokenizer and chat template."""
    return _tiny("qwen2", tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random llama with an R1-style tokenizer and chat template."""
    return _tiny("llama", tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_answering(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of ``tiny_qwen2`` with a template that closes the reasoning, so that its text is an answer."""
    from tests.tiny_models import ANSWERING_TEMPLATE, make_tiny

    return make_tiny("qwen2", tmp_path_factory.mktemp("tiny-answering"), chat_template=ANSWERING_TEMPLATE)


@pytest.fixture(scope="session")
def tiny_deepseek_v3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random deepseek_v3 (MLA, experts) with an R1-style tokenizer and chat template."""
    return _tiny("deepseek_v3", tmp_path_factory)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of benchmark and label files that are not part of the repository."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the data that is not part of the repository, expected in {folder}")
    return folder


def _tiny(arch: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny_models import make_tiny  # imports torch: seconds that most tests do not need

    return make_tiny(arch, tmp_path_factory.mktemp(f"tiny-{arch}"))
