import json

import pytest

from safe_r1.errors import ConfigError, ModelError
from safe_r1.models.registry import VARIANTS, get_variant


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


def test_weights_fit_the_gpus():
    for variant in VARIANTS.values():
        gib = variant.gpu_gb * 1e9 / 2**30
        assert variant.weights_gib() < 0.8 * gib * variant.tensor_parallel_size, variant.name


@pytest.mark.parametrize("name", ["r1-distil-qwen-7b", "demoo"])
def test_a_misspelt_name_gets_near_ones(name):
    with pytest.raises(ConfigError, match="did you mean"):
        get_variant(name)


def test_a_hub_id_and_its_revision():
    variant = get_variant("owner/model@abc")
    assert (variant.source, variant.revision, variant.kind) == ("owner/model", "abc", "custom")
    assert get_variant("demo@x").revision == "x"


@pytest.mark.parametrize(
    ("template", "style"),
    [
        ("{% for m in messages %}<｜Assistant｜>", "r1"),
        ("{% for m in messages %}<|im_start|>", "chat"),
        (None, "plain"),
    ],
)
def test_a_folder_is_prompted_by_its_template(tmp_path, template, style):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2", "max_position_embeddings": 512}))
    if template:
        (tmp_path / "chat_template.jinja").write_text(template, encoding="utf-8")
    variant = get_variant(str(tmp_path))
    assert (variant.style, variant.family, variant.context) == (style, "qwen2", 512)


@pytest.mark.parametrize("content", [None, "{"])
def test_a_folder_without_a_model_is_refused(tmp_path, content):
    if content:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"config\.json"):
        get_variant(str(tmp_path))


def test_an_enhanced_folder_is_asked_as_its_base(tmp_path):
    folder = tmp_path / "demo-safe"
    folder.mkdir()
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
