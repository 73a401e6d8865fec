"""Models at URIs and on ModelScope: fetched once, verified, and gone on with after a kill."""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest

from safe_r1.errors import ConfigError, ModelError
from safe_r1.models import fetch as fetching
from safe_r1.models.checkpoints import pin, prepare, with_size
from safe_r1.models.fetch import fetch, find_snapshot, loadable
from safe_r1.models.prompts import load_tokenizer
from safe_r1.models.registry import VARIANTS, get_variant
from tests.unit.models.conftest import MakeFolder
from tests.unit.models.hubs import Hub, serve
from tests.unit.models.test_stored import write_weights

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
SOURCE = "modelscope:owner/model"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAFE_R1_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetching, "wait_exponential", lambda *args, **kwargs: lambda state: 0)
    load_tokenizer.cache_clear()
    with_size.cache_clear()
    return tmp_path / "cache"


@pytest.fixture
def published(make_folder: MakeFolder) -> Path:
    """A model folder as it is published, with more than loading takes."""
    folder = make_folder(TEMPLATE, name="published")
    write_weights(folder / "model.safetensors", {"BF16": 200_000})
    (folder / "pytorch_model.bin").write_bytes(b"the weights once more")
    (folder / "LICENSE").write_text("licence")
    (folder / "README.md").write_text("card")
    (folder / "original").mkdir()
    (folder / "original" / "params.json").write_text("{}")
    return folder


@pytest.fixture
def hub(published: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve(published) as hub:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def bucket(published: Path) -> Iterator[str]:
    """The same at a URI."""
    system = fsspec.filesystem("memory")
    system.put(f"{published}/", "/bucket/models/mine/", recursive=True)
    yield "memory://bucket/models/mine"
    system.rm("/bucket", recursive=True)


def same(folder: Path, published: Path) -> set[str]:
    """Names of the fetched files, whose contents are those that were published."""
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    assert all(file.read_bytes() == (published / name).read_bytes() for name, file in files.items())
    return set(files)


def test_a_model_on_modelscope_is_fetched_as_far_as_it_is_needed(hub: Hub, published: Path):
    folder = fetch(SOURCE, "master", weights=False)
    small = same(folder, published)
    assert {"config.json", "tokenizer.json", "chat_template.jinja", "LICENSE"} <= small
    assert not any(name.endswith((".safetensors", ".bin", ".md")) or "/" in name for name in small)
    assert fetch(SOURCE, "master", weights=True) == folder
    assert same(folder, published) - small == {"model.safetensors"}
    fetch(SOURCE, "master", weights=True)
    assert set(hub.reads.values()) == {1}


def test_a_model_at_a_uri_is_an_ordinary_variant(bucket: str, published: Path):
    named = get_variant(bucket)
    assert (named.name, named.source, named.params_b) == ("mine", bucket, 0)
    variant, identity = prepare(named)
    assert (variant.style, variant.name, variant.source, variant.family) == ("chat", "mine", bucket, "qwen2")
    assert variant.params_b == pytest.approx(0.0001, rel=0.01)
    assert with_size(named).params_b == variant.params_b
    assert identity.startswith("files:")
    assert prepare(variant) == (variant, identity)
    local, _ = prepare(get_variant(str(published)))
    assert (variant.prompt, variant.attention) == (local.prompt, local.attention)
    folder, revision = loadable(variant.source, variant.revision, weights=True)
    assert revision == "main"
    assert "model.safetensors" in same(Path(folder), published)


def test_an_export_at_a_uri_is_asked_as_its_base(published: Path, bucket: str):
    fsspec.filesystem("memory").pipe("/bucket/models/mine/safe_r1.json", b'{"base": "demo"}')
    variant, _ = prepare(get_variant(f"{bucket}/"))
    demo = VARIANTS["demo"]
    assert (variant.kind, variant.base, variant.name) == ("enhanced", "demo", "mine")
    assert variant.is_exported
    assert (variant.max_tokens_refusal, variant.context) == (demo.max_tokens_refusal, demo.context)


def test_tokenizer_and_weights_of_the_modelscope_variants_come_from_there(
    hub: Hub, published: Path, monkeypatch: pytest.MonkeyPatch
):
    named = [variant for variant in VARIANTS.values() if variant.source.startswith("modelscope:")]
    assert len(named) == 6
    assert all(variant.is_fetched and variant.revision == "master" for variant in named)
    assert get_variant(named[0].source) == get_variant(named[0].source.partition(":")[2]) == named[0]
    # The same with the id of this hub.
    variant, _ = prepare(replace(named[0], source=SOURCE))
    assert (variant.params_b, variant.style) == (named[0].params_b, "r1")
    tokenizer = load_tokenizer(variant.source, variant.revision)
    assert tokenizer.name_or_path == str(find_snapshot(SOURCE, variant.revision).folder)
    assert tokenizer.chat_template == TEMPLATE
    assert pin(get_variant(SOURCE)).revision == variant.revision


def test_files_that_change_under_a_job_are_refused(hub: Hub, published: Path, cache: Path):
    variant = pin(get_variant(SOURCE))
    fetch(variant.source, variant.revision, weights=False)
    (published / "LICENSE").write_text("another licence")
    fetch(variant.source, variant.revision, weights=True)  # this node knows what was meant
    shutil.rmtree(cache)
    with pytest.raises(ModelError, match="has changed since this job began: run it again"):
        fetch(variant.source, variant.revision, weights=True)
    assert (fetch(SOURCE, "master", weights=False) / "LICENSE").read_text() == "another licence"


def test_a_new_version_is_another_folder(bucket: str):
    first = fetch(bucket, "", weights=False)
    time.sleep(0.001)
    fsspec.filesystem("memory").pipe("/bucket/models/mine/config.json", b"{}")
    assert fetch(bucket, "", weights=False) != first


def test_a_file_that_is_not_what_was_listed_is_refused_and_fetched_anew(hub: Hub, published: Path):
    hub.wrong_hash = "0" * 64
    with pytest.raises(ModelError, match=r"has not the SHA-256 that its source lists; run the same"):
        fetch(SOURCE, "master", weights=True)
    hub.wrong_hash = None
    assert "model.safetensors" in same(fetch(SOURCE, "master", weights=True), published)


def test_weights_that_were_uploaded_in_part_are_refused(bucket: str, published: Path):
    whole = (published / "model.safetensors").read_bytes()
    fsspec.filesystem("memory").pipe("/bucket/models/mine/model.safetensors", whole[:-1])
    with pytest.raises(ModelError, match=r"model\.safetensors is no whole safetensors file"):
        fetch(bucket, "", weights=True)


def write_hashes(bucket: str, published: Path) -> None:
    done = subprocess.run(
        "sha256sum *.json *.jinja *.safetensors LICENSE",
        shell=True,
        cwd=published,
        capture_output=True,
        check=True,
    )
    fsspec.filesystem("memory").pipe("/bucket/models/mine/SHA256SUMS", done.stdout)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "LICENSE"])
def test_a_bit_that_is_another_is_refused_where_the_folder_lists_its_hashes(
    bucket: str, published: Path, name: str
):
    write_hashes(bucket, published)
    system = fsspec.filesystem("memory")
    content = bytearray((published / name).read_bytes())
    content[len(content) // 2] ^= 1
    system.pipe(f"/bucket/models/mine/{name}", bytes(content))
    with pytest.raises(ModelError, match=rf"{name} has not the SHA-256 that its source lists"):
        fetch(bucket, "", weights=True)
    system.pipe(f"/bucket/models/mine/{name}", (published / name).read_bytes())
    assert "model.safetensors" in same(fetch(bucket, "", weights=True), published)


def test_a_list_of_hashes_that_is_not_that_of_the_folder_is_refused(bucket: str, published: Path):
    write_hashes(bucket, published)
    system = fsspec.filesystem("memory")
    system.rm("/bucket/models/mine/tokenizer.json")
    with pytest.raises(ModelError, match=r"SHA256SUMS lists tokenizer\.json, which is not there"):
        fetch(bucket, "", weights=False)
    system.pipe("/bucket/models/mine/SHA256SUMS", b"SHA256 (config.json) = 00\n")
    with pytest.raises(ModelError, match="line 1 of SHA256SUMS is none of sha256sum's"):
        fetch(bucket, "", weights=False)
    # What is in other folders is not fetched, and need not be there; blank lines are none.
    system.pipe("/bucket/models/mine/SHA256SUMS", b"\n" + b"0" * 64 + b" *./onnx/model.onnx\n")
    fetch(bucket, "", weights=False)


def test_a_damaged_file_of_the_cache_is_fetched_anew(hub: Hub, published: Path):
    folder = fetch(SOURCE, "master", weights=True)
    os.truncate(folder / "model.safetensors", 100)
    (folder / "config.json").unlink()
    assert fetch(SOURCE, "master", weights=True) == folder
    assert "model.safetensors" in same(folder, published)


@pytest.mark.parametrize("takes_ranges", [True, False])
def test_a_part_is_gone_on_with(hub: Hub, published: Path, takes_ranges: bool):
    hub.takes_ranges = takes_ranges
    folder = find_snapshot(SOURCE, "master").folder
    folder.mkdir(parents=True)
    weights = (published / "model.safetensors").read_bytes()
    (folder / ".model.safetensors.part").write_bytes(weights[:1000])
    (folder / ".config.json.part").write_bytes(b"x" * 10_000)  # longer than the file
    fetch(SOURCE, "master", weights=True)
    assert "model.safetensors" in same(folder, published)
    assert hub.ranges == (["bytes=1000-"] if takes_ranges else [])


def test_without_network_the_files_of_before_are_used(hub: Hub, published: Path, cache: Path):
    folder = fetch(SOURCE, "master", weights=True)
    hub.status = 503
    assert fetch(SOURCE, "master", weights=True) == folder
    assert prepare(get_variant(SOURCE))[0].style == "chat"
    shutil.rmtree(cache)
    with pytest.raises(ModelError, match=r"ModelScope answers HTTP 503; nothing of it is cached in .*cache"):
        fetch(SOURCE, "master", weights=True)


def test_a_hub_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"cannot be reached at http://127\.0\.0\.1:9 .*MODELSCOPE_ENDPOINT"):
        prepare(get_variant(SOURCE))


def test_what_is_not_there_is_one_line(hub: Hub, bucket: str):
    with pytest.raises(ModelError, match="no such model or revision 'v2' on ModelScope"):
        prepare(get_variant("modelscope:owner/other@v2"))
    with pytest.raises(ModelError, match="there is no such folder"):
        prepare(get_variant("memory://bucket/nowhere"))
    with pytest.raises(ModelError, match=r"has no config\.json: expected a model in transformers' format"):
        prepare(get_variant("memory://bucket/models/mine/original"))


def test_a_disk_without_room_is_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    usage = shutil.disk_usage("/")._replace(free=1 << 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ModelError, match=r"are to be fetched and 0\.0 GiB are free .* set SAFE_R1_CACHE"):
        fetch(SOURCE, "master", weights=True)


def test_listed_names_stay_inside_the_folder(published: Path, monkeypatch: pytest.MonkeyPatch):
    from safe_r1.models.remote import RemoteFile

    names = ["config.json", "../evil.json", "/etc/evil.json", "a/evil.json", ".evil.json", "..\\evil.json"]
    names += ["additional_chat_templates/../evil.jinja", "../evil.safetensors"]
    names += ["additional_chat_templates/a.jinja"]
    needed = fetching._needed("s3://x/y", [RemoteFile(name, 1) for name in names])
    assert [file.name for file in needed] == ["additional_chat_templates/a.jinja", "config.json"]


@pytest.mark.parametrize(
    ("name", "source", "revision", "called"),
    [
        ("s3://bucket/path/r1-safe", "s3://bucket/path/r1-safe", "", "r1-safe"),
        ("gs://bucket/a b/m+1/", "gs://bucket/a b/m+1", "", "m-1"),
        ("hf:owner/model", "owner/model", "main", "owner--model"),
        ("hf:owner/model@v1", "owner/model", "v1", "owner--model"),
        ("hf:deepseek-ai/DeepSeek-R1", "deepseek-ai/DeepSeek-R1", "main", "r1"),
        ("modelscope:owner/model@v1", "modelscope:owner/model", "v1", "owner--model"),
        ("modelscope:owner/model", "modelscope:owner/model", "master", "owner--model"),
    ],
)
def test_names_of_places(name: str, source: str, revision: str, called: str):
    variant = get_variant(name)
    assert (variant.source, variant.revision, variant.name) == (source, revision, called)


def test_a_file_uri_is_a_folder(published: Path):
    assert get_variant(f"file://{published}") == get_variant(str(published))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nofs://bucket/model", "unknown scheme nofs; expected s3://"),
        ("s3://", "unknown variant"),
        ("s3:///", "expected the URI of a model's folder"),
        ("hf:model", "expected hf:OWNER/MODEL"),
        ("modelscope:a/b/c", "expected modelscope:OWNER/MODEL"),
        ("modelscope:owner/model@", "no revision after the @"),
        ("https://host/v1", "unknown variant .* endpoint:URL#MODEL"),
    ],
)
def test_names_that_cannot_be_read_are_one_line(name: str, said: str):
    with pytest.raises(ConfigError, match=said) as caught:
        get_variant(name)
    assert "\n" not in str(caught.value)


def start(*arguments: str) -> "subprocess.Popen[str]":
    program = "import sys; from safe_r1.models.fetch import fetch; print(fetch(*sys.argv[1:], weights=True))"
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_after_a_kill_the_same_call_goes_on(hub: Hub, published: Path):
    write_weights(published / "model.safetensors", {"BF16": 20_000_000})
    hub.stalls_at = 12_000_000
    process = start(SOURCE, "master")
    assert hub.stalled.wait(30)
    part = find_snapshot(SOURCE, "master").folder / ".model.safetensors.part"
    while not part.is_file() or part.stat().st_size < 8 << 20:  # what is written at once
        time.sleep(0.01)
    process.kill()
    process.wait()
    hub.release.set()
    kept = part.stat().st_size
    folder = fetch(SOURCE, "master", weights=True)
    assert "model.safetensors" in same(folder, published)
    assert hub.ranges == [f"bytes={kept}-"]
    assert not list(folder.glob(".*"))


@pytest.mark.slow
def test_processes_of_a_node_fetch_once(hub: Hub, published: Path):
    processes = [start(SOURCE, "master") for _ in range(3)]
    folders = {process.communicate()[0].strip() for process in processes}
    assert len(folders) == 1
    assert "model.safetensors" in same(Path(folders.pop()), published)
    assert set(hub.reads.values()) == {1}


@pytest.mark.slow
def test_a_served_model_has_a_hook_that_fetches_its_weights(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    import ray.serve.llm
    from ray.llm._internal.common.utils.import_utils import load_class

    from safe_r1.config import EngineConfig
    from safe_r1.inference.weights import model_environment
    from safe_r1.serve.config import ScalingConfig
    from safe_r1.serve.deployment import DeploymentSpec, model_deployment

    monkeypatch.setattr(ray.serve.llm, "build_llm_deployment", lambda config, **_: config)
    variant, _ = prepare(get_variant(SOURCE))
    config: Any = model_deployment(DeploymentSpec(variant, EngineConfig(), "gpu"), ScalingConfig())
    folder = find_snapshot(SOURCE, "master").folder
    assert config.model_loading_config.model_source == str(folder)
    assert "revision" not in config.engine_kwargs
    environment = config.runtime_env["env_vars"]
    assert environment.items() >= model_environment(variant).items()
    assert not (folder / "model.safetensors").is_file()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    # As on a node alone, without a placement group.
    monkeypatch.setattr("ray.util.get_current_placement_group", lambda: None)
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here"))
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "3")
    hook = load_class(config.callback_config.callback_class)(llm_config=config)
    asyncio.run(hook.run_callback("on_before_node_init"))
    assert "VLLM_CPU_KVCACHE_SPACE" not in os.environ
    assert (folder / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_mirror_of_the_hugging_face_hub(hub: Hub, published: Path, tmp_path: Path):
    program = (
        "import sys; "
        "from safe_r1.models.checkpoints import prepare; from safe_r1.models.registry import get_variant; "
        "variant, identity = prepare(get_variant(sys.argv[1])); "
        "print(variant.style, round(variant.params_b, 6), identity)"
    )

    def run(**environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", program, "hf:owner/model"],
            env={
                **os.environ,
                "HF_HUB_OFFLINE": "0",
                "HF_HOME": str(tmp_path / "hf"),
                "HF_ENDPOINT": hub.url,
                **environment,
            },
            capture_output=True,
            text=True,
        )

    said = f"chat 0.0001 owner/model@{'c' * 40}"
    online = run()
    assert online.stdout.strip() == said, online.stderr
    asked = sum(hub.reads.values())
    # Without network the size of a model without an index is not known.
    offline = run(HF_HUB_OFFLINE="1")
    assert offline.stdout.split()[0::2] == said.split()[0::2], offline.stderr
    assert sum(hub.reads.values()) == asked
    empty = run(HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "empty"))
    last = empty.stderr.strip().splitlines()[-1]
    assert "owner/model: HF_HUB_OFFLINE is set and nothing is cached in " in last
    unreachable = run(HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path / "empty"))
    last = unreachable.stderr.strip().splitlines()[-1]
    assert "owner/model: the hub at http://127.0.0.1:9 cannot be reached" in last
