import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from safe_r1.errors import ModelError
from safe_r1.models.checkpoints import pin, prepare, with_size
from safe_r1.models.hub import find_model
from safe_r1.models.registry import VARIANTS, get_variant
from tests.unit.models.conftest import MakeFolder

COMMIT = "c" * 40
R1_TEMPLATE = (
    "{% for m in messages %}{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"
)
LARGE = {"num_attention_heads": 64, "num_key_value_heads": 8, "num_hidden_layers": 80, "hidden_size": 8192}
INDEX = '{"metadata": {"total_size": 141107412992}}'


class TransportError(Exception):
    """An error of the hub's transport, which is none of the hub's own kinds."""


@dataclass
class FakeFile:
    rfilename: str
    size: int


@dataclass
class FakeInfo:
    sha: str = COMMIT
    siblings: list[FakeFile] = field(default_factory=list)


@pytest.fixture(autouse=True)
def _forget():
    find_model.cache_clear()
    with_size.cache_clear()


@pytest.fixture
def cached(make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A snapshot of ``owner/model`` in a hub cache, without its weights; the hub cannot be reached."""
    cache = tmp_path / "hub"
    repository = cache / "models--owner--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    snapshot = repository / "snapshots" / COMMIT
    snapshot.parent.mkdir()
    shutil.move(make_folder(R1_TEMPLATE, LARGE), snapshot)
    (snapshot / "model.safetensors.index.json").write_text(INDEX)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", _fail(TransportError("no network")))
    return snapshot


def _fail(error: Exception) -> Callable[..., None]:
    def fail(*args: object, **kwargs: object):
        raise error

    return fail


def test_an_unreachable_hub_is_one_clear_line(monkeypatch: pytest.MonkeyPatch):
    error = TransportError("Name or service not known")
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", _fail(error))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **kwargs: None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(ModelError, match=r"the hub at \S+ cannot be reached \(TransportError\)"):
        prepare(get_variant("r1-distill-qwen-1.5b"))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (GatedRepoError, "gated: accept its licence"),
        (RepositoryNotFoundError, "no such model on the hub .* and no such folder here"),
        (RevisionNotFoundError, "no branch, tag or commit 'main'"),
    ],
)
def test_what_the_hub_refuses_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, kind, message: str):
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", _fail(kind.__new__(kind)))
    with pytest.raises(ModelError, match=message):
        prepare(get_variant("owner/model"))


def test_a_hub_model_is_known_from_its_small_files(cached: Path, monkeypatch: pytest.MonkeyPatch):
    files = [FakeFile(file.name, file.stat().st_size) for file in cached.iterdir()]
    info = FakeInfo(siblings=[*files, FakeFile("model-00001-of-00002.safetensors", 4_000_000_000)])
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *args, **kwargs: info)
    wanted = []
    download = huggingface_hub.hf_hub_download

    def record(source: str, name: str, *, revision: str) -> str:
        wanted.append(name)
        return download(source, name, revision=revision)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", record)
    variant, identity = prepare(get_variant("owner/model"))
    assert (variant.style, variant.prompt_format.reasoning_prefix) == ("r1", "<think>\n")
    assert (variant.tensor_parallel_size, variant.gpu_gb, round(variant.params_b)) == (4, 80, 71)
    assert (variant.family, variant.context) == ("qwen2", 4096)
    assert (variant.source, variant.revision, identity) == ("owner/model", COMMIT, f"owner/model@{COMMIT}")
    assert set(wanted) == {"config.json", "model.safetensors.index.json"}


def test_a_hub_model_is_known_from_the_cache_without_network(cached: Path):
    variant, identity = prepare(get_variant("owner/model"))
    assert (variant.style, variant.tensor_parallel_size, identity) == ("r1", 4, f"owner/model@{COMMIT}")


def test_without_an_index_the_files_sizes_count(cached: Path, monkeypatch: pytest.MonkeyPatch):
    (cached / "model.safetensors.index.json").unlink()
    files = [FakeFile(file.name, file.stat().st_size) for file in cached.iterdir()]
    info = FakeInfo(siblings=[*files, FakeFile("model.safetensors", 70_000_000_000)])
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *args, **kwargs: info)
    variant = prepare(get_variant("owner/model"))[0]
    assert (variant.params_b, variant.tensor_parallel_size) == (35.0, 2)


def test_without_an_index_and_without_network_the_size_is_unknown(cached: Path):
    (cached / "model.safetensors.index.json").unlink()
    variant = prepare(get_variant("owner/model"))[0]
    assert (variant.params_b, variant.tensor_parallel_size, variant.style) == (0.0, 1, "r1")


def test_a_repository_without_a_config_is_refused(cached: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *args, **kwargs: FakeInfo())
    (cached / "config.json").unlink()
    with pytest.raises(ModelError, match=r"owner/model"):
        prepare(get_variant("owner/model"))


def test_estimates_know_a_hub_models_size_where_they_can(cached: Path):
    assert with_size(get_variant("owner/model")).tensor_parallel_size == 4
    unknown = get_variant("owner/other")
    assert with_size(unknown) == unknown
    assert with_size(VARIANTS["demo"]) == VARIANTS["demo"]


def test_pinning_reads_nothing_but_the_commit(cached: Path):
    pinned = pin(get_variant("owner/model"))
    assert (pinned.revision, pinned.prompt) == (COMMIT, None)


def test_a_folder_keeps_its_own_source_and_its_size(make_folder: MakeFolder):
    folder = make_folder(R1_TEMPLATE)
    (folder / "model.safetensors").write_bytes(b"\0" * 1000)
    variant, identity = prepare(get_variant(str(folder)))
    assert (variant.source, variant.params_b) == (str(folder), 5e-7)
    assert identity.startswith("sha256:")
    (folder / "chat_template.jinja").write_text(R1_TEMPLATE + " ", encoding="utf-8")
    assert prepare(variant)[1] != identity


def test_code_of_a_models_repository_runs_only_where_it_may(make_folder: MakeFolder):
    folder = make_folder(R1_TEMPLATE, {"model_type": "own"})
    settings = folder / "tokenizer_config.json"
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    settings.write_text(json.dumps(json.loads(settings.read_text("utf-8")) | own), encoding="utf-8")
    (folder / "tokenizer.json").rename(folder / "own.json")
    mark = folder.parent / "was_run"
    (folder / "own.py").write_text(
        "from pathlib import Path\nfrom transformers import PreTrainedTokenizerFast\n"
        f"Path({str(mark)!r}).touch()\n"
        "class Own(PreTrainedTokenizerFast):\n"
        "    def __init__(self, *args, **kwargs):\n"
        f"        super().__init__(*args, tokenizer_file={str(folder / 'own.json')!r}, **kwargs)\n"
    )
    variant = get_variant(str(folder))
    assert variant.prompt is None
    with pytest.raises(ModelError, match=r"no tokenizer for "):
        prepare(variant)
    assert not mark.exists()
    assert prepare(variant, trust_remote_code=True)[0].style == "r1"
    assert mark.exists()
