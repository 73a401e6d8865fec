import json
import subprocess
import sys
from pathlib import Path

import pytest

from safe_r1.errors import ConfigError, ModelError
from safe_r1.models.registry import DEFAULT_JUDGE, VARIANTS, Variant, get_variant
from tests.unit.models.conftest import MakeFolder

R1_TEMPLATE = (
    "{% for m in messages %}{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"
)


def test_the_family_is_whole():
    kinds = [variant.kind for variant in VARIANTS.values()]
    assert (kinds.count("r1"), kinds.count("base"), kinds.count("enhanced"), kinds.count("demo")) == (
        7,
        7,
        6,
        1,
    )


def test_every_base_name_is_a_variant():
    assert all(variant.base in VARIANTS for variant in VARIANTS.values() if variant.base)


def test_r1_models_follow_the_model_card():
    for variant in VARIANTS.values():
        if variant.kind in ("r1", "enhanced"):
            assert (variant.temperature, variant.top_p, variant.style) == (0.6, 0.95, "r1")
            assert variant.prompt_format.reasoning_prefix == "<think>\n"


def test_weights_fit_the_gpus():
    for variant in VARIANTS.values():
        gib = variant.gpu_gb * 1e9 / 2**30
        assert variant.weights_gib() < 0.8 * gib * variant.num_gpus, variant.name


@pytest.mark.slow
def test_the_registry_needs_no_torch():
    program = (
        "import sys, safe_r1.models.registry as registry; registry.get_variant('demo'); "
        "print([name for name in ('torch', 'transformers', 'ray', 'huggingface_hub') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["r1-distil-qwen-7b", "demoo"])
def test_a_misspelt_name_gets_near_ones(name):
    with pytest.raises(ConfigError, match="did you mean"):
        get_variant(name)


@pytest.mark.parametrize(
    "name", ["./nowhere", "/nowhere/at/all", "~/no-such-folder", "a/b/c", "https://x/v1"]
)
def test_what_is_nothing_is_refused(name):
    with pytest.raises(ConfigError, match="unknown variant"):
        get_variant(name)


def test_a_hub_id_and_its_revision():
    variant = get_variant("owner/model@abc")
    assert (variant.source, variant.revision, variant.kind) == ("owner/model", "abc", "custom")
    assert get_variant("owner/model").revision == "main"
    assert get_variant("owner/model@refs/pr/7").revision == "refs/pr/7"
    assert get_variant("demo@x").revision == "x"
    for name in ("demo@", "owner/model@"):
        with pytest.raises(ConfigError, match="no revision after the @"):
            get_variant(name)


def test_how_a_hub_id_is_prompted_is_not_guessed():
    with pytest.raises(ModelError, match=r"^owner--model: its chat template is read when .* prepared"):
        _ = get_variant("owner/model").style


@pytest.mark.parametrize(
    ("name", "entry", "revision"),
    [
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", VARIANTS["r1-distill-qwen-7b"], "main"),
        ("deepseek-ai/deepseek-r1-distill-qwen-7b", VARIANTS["r1-distill-qwen-7b"], "main"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B@v2", VARIANTS["r1-distill-qwen-7b"], "v2"),
        ("deepseek-ai/DeepSeek-R1", VARIANTS["r1"], "main"),
        (
            "UnicomAI/Unichat-DeepSeek-R1-Distill-Qwen-7B-Safe-bf16",
            VARIANTS["r1-distill-qwen-7b-safe"],
            "master",
        ),
        ("Qwen/Qwen2.5-72B-Instruct", DEFAULT_JUDGE, "main"),
        ("qwen2.5-72b-instruct@abc", DEFAULT_JUDGE, "abc"),
    ],
)
def test_a_hub_id_of_the_table_is_its_entry(name: str, entry: Variant, revision: str):
    found = get_variant(name)
    assert (found.name, found.revision) == (entry.name, revision)
    assert (found.layout, found.prompt, found.params_b) == (entry.layout, entry.prompt, entry.params_b)


def test_a_folder_is_found_from_everywhere(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch):
    folder = make_folder()
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    for name in (
        str(folder),
        f"{folder}/",
        "model",
        "./model",
        "~/model",
        "../" + f"{folder.parent.name}/model",
    ):
        variant = get_variant(name)
        assert (variant.name, variant.source, variant.kind) == ("model", str(folder), "custom")
        assert variant.is_local


def test_a_file_is_no_model(tmp_path: Path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ConfigError, match="is a file: give the folder"):
        get_variant(str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize(
    ("template", "style"),
    [
        (R1_TEMPLATE, "r1"),
        ("{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}", "chat"),
        (None, "plain"),
    ],
)
def test_a_folder_is_prompted_by_its_template(make_folder: MakeFolder, template, style):
    folder = make_folder(template, {"model_type": "qwen2", "max_position_embeddings": 512})
    variant = get_variant(str(folder))
    assert (variant.style, variant.family, variant.context) == (style, "qwen2", 512)


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_folder_without_a_model_is_refused(tmp_path, content):
    if content:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"config\.json"):
        get_variant(str(tmp_path))


def test_a_folder_without_a_tokenizer_has_a_size_all_the_same(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "llama", "dtype": "bfloat16"}')
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(2_000_000_000)
    variant = get_variant(str(tmp_path))
    assert (variant.family, variant.params_b, variant.prompt) == ("llama", 1.0, None)


def test_a_folder_of_70b_parameters_is_not_given_one_gpu(make_folder: MakeFolder):
    config = {
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "num_hidden_layers": 80,
        "hidden_size": 8192,
    }
    folder = make_folder(R1_TEMPLATE, config)
    index = {"metadata": {"total_size": 141_107_412_992}, "weight_map": {}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    variant = get_variant(str(folder))
    assert (variant.tensor_parallel_size, variant.gpu_gb, round(variant.params_b, 2)) == (4, 80, 70.55)
    assert variant.weights_gib() == pytest.approx(VARIANTS["r1-distill-llama-70b"].weights_gib(), rel=1e-3)


def test_an_enhanced_folder_is_asked_as_its_base(make_folder: MakeFolder):
    folder = make_folder(name="demo-safe")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "safe_r1.json").write_text('{"base": "demo"}')
    found, base = get_variant(str(folder)), VARIANTS["demo"]
    assert (found.name, found.kind, found.base, found.source) == (
        "demo-safe",
        "enhanced",
        "demo",
        str(folder),
    )
    assert (found.max_tokens_refusal, found.temperature, found.style) == (
        base.max_tokens_refusal,
        base.temperature,
        base.style,
    )
    (folder / "safe_r1.json").write_text('{"base": null}')
    assert get_variant(str(folder)).kind == "custom"


@pytest.mark.parametrize(
    ("stored", "gpus"), [({"quantization_config": {"quant_method": "fp8"}}, 8), ({"dtype": "bfloat16"}, 16)]
)
def test_a_fine_tuned_r1_takes_the_gpus_of_the_type_it_was_exported_in(
    make_folder: MakeFolder, stored: dict[str, object], gpus: int
):
    r1 = {
        "num_hidden_layers": 61,
        "num_attention_heads": 128,
        "num_key_value_heads": 128,
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
    }
    folder = make_folder(R1_TEMPLATE, {**r1, **stored})
    (folder / "safe_r1.json").write_text('{"base": "r1"}')
    variant = get_variant(str(folder))
    assert (variant.num_gpus, variant.gpu_gb) == (gpus, 141)
    assert variant.tensor_parallel_size == 8  # of one node
    assert variant.weights_gib() < 0.9 * gpus * 141e9 / 2**30
