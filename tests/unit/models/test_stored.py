"""Models made from a table entry: size, GPUs and layout from their own files."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest

from safe_r1.config import EngineConfig
from safe_r1.errors import ResourceError
from safe_r1.inference.engine import check_resources, engine_arguments, engine_bundles
from safe_r1.models.files import bytes_per_number, read_safetensors_header
from safe_r1.models.registry import VARIANTS, Variant, as_exported, get_variant
from safe_r1.train.architecture import ARCHITECTURES, get_architecture
from tests.unit.models.test_size import config_of

SEVEN = [name for name, variant in VARIANTS.items() if variant.kind == "r1"]
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
# Settings, bytes of a parameter in the files (int4 with scales and embeddings in 16 bits), and in an engine.
STORED: dict[str, tuple[dict[str, object], float, float]] = {
    "bf16": ({"dtype": "bfloat16"}, 2.0, 2.0),
    "fp32": ({"dtype": "float32"}, 4.0, 2.0),
    "fp8": ({"quantization_config": FP8}, 1.02, 1.02),
    "gptq": ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, 0.56, 0.56),
    "awq": ({"quantization_config": {"quant_method": "awq", "w_bit": 4}}, 0.56, 0.56),
}


def write_folder(folder: Path, base: str, settings: Mapping[str, object], total_size: int) -> Path:
    """What fine-tuning leaves of a model, without weights and tokenizer."""
    config = config_of(ARCHITECTURES[base]) | {"model_type": VARIANTS[base].family}
    config.pop("quantization_config", None)
    config.pop("torch_dtype")
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config | dict(settings)))
    (folder / "safe_r1.json").write_text(json.dumps({"base": base}))
    index = {"metadata": {"total_size": total_size}, "weight_map": {}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_weights(file: Path, dtypes: Mapping[str, int]) -> None:
    """A safetensors file of zeros: the bytes of its tensor of each type."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for dtype, num_bytes in dtypes.items():
        header[dtype] = {"dtype": dtype, "shape": [num_bytes], "data_offsets": [end, end + num_bytes]}
        end += num_bytes
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


def fits(variant: Variant, weights_gib: float) -> bool:
    """Weights and four sequences of 16,384 tokens in 90% of each GPU, in the words of this test."""
    architecture = ARCHITECTURES[variant.base or ""]
    heads = max(1, architecture.num_kv_heads // variant.tensor_parallel_size)
    kv_dim = 512 + 64 if architecture.latent else heads * 2 * architecture.head_dim
    layers = -(-architecture.num_layers // variant.pipeline_parallel_size)
    cache_gib = 4 * 16384 * layers * kv_dim * 2 / 2**30
    gpu_gib = {80: 79.1, 141: 139.5}[variant.gpu_gb]
    return weights_gib / variant.num_gpus + cache_gib + 3.3 < 0.9 * gpu_gib


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("base", SEVEN)
def test_an_engine_holds_what_the_files_say(tmp_path: Path, base: str, stored: str):
    settings, on_disk, loaded = STORED[stored]
    params = ARCHITECTURES[base].total_params
    variant = get_variant(
        str(write_folder(tmp_path / f"{base}-safe", base, settings, round(params * on_disk)))
    )
    assert (variant.kind, variant.base, variant.layout) == ("enhanced", base, VARIANTS[base].layout)
    assert variant.params_b == pytest.approx(params / 1e9, rel=0.01)
    assert variant.weights_gib() == pytest.approx(params * loaded / 2**30, rel=0.01)
    assert fits(variant, params * loaded / 2**30)
    assert variant.tensor_parallel_size <= 8
    # The engine that is planned is one that the cluster takes, and one GPU less is none.
    engine = EngineConfig(max_model_len=16384)
    check_resources(variant, engine, "gpu", variant.num_gpus, 500, node_gpus=8)
    with pytest.raises(ResourceError, match=f"needs {variant.num_gpus} GPU"):
        check_resources(variant, engine, "gpu", variant.num_gpus - 1, 500, node_gpus=8)


def test_a_fine_tuned_r1_takes_two_nodes(tmp_path: Path):
    params = ARCHITECTURES["r1"].total_params
    folder = write_folder(tmp_path / "r1-safe", "r1", {"dtype": "bfloat16"}, 2 * params)
    variant = get_variant(str(folder))
    arguments = engine_arguments(variant, EngineConfig(), "gpu")
    assert (arguments["tensor_parallel_size"], arguments["pipeline_parallel_size"]) == (8, 2)
    assert len(engine_bundles(arguments, "gpu")) == 16
    with pytest.raises(ResourceError, match="156 GiB of weights on each of 8 GPUs"):
        check_resources(variant, EngineConfig(pipeline_parallel_size=1), "gpu", 8, 500, node_gpus=8)


@pytest.mark.parametrize("name", SEVEN)
def test_what_is_planned_before_fine_tuning_is_what_the_export_takes(tmp_path: Path, name: str):
    size = 2 * ARCHITECTURES[name].total_params
    found = get_variant(str(write_folder(tmp_path / "safe", name, {"dtype": "bfloat16"}, size)))
    planned = as_exported(VARIANTS[name])
    assert (planned.num_gpus, planned.gpu_gb) == (found.num_gpus, found.gpu_gb)
    assert planned.weights_gib() == pytest.approx(found.weights_gib(), rel=0.01)


def test_a_pruned_model_is_planned_by_its_own_dimensions(tmp_path: Path):
    base = "r1-distill-llama-70b"
    dimensions = {"num_hidden_layers": 40, "dtype": "bfloat16", "intermediate_size": 28672}
    dimensions |= {"vocab_size": 128256, "max_position_embeddings": 131072}
    variant = get_variant(str(write_folder(tmp_path / "pruned", base, dimensions, 72 * 10**9)))
    assert (variant.params_b, variant.num_gpus, variant.layout) == (36.0, 2, None)
    assert (variant.attention.num_layers, get_architecture(variant).num_layers) == (40, 40)


def test_the_files_of_the_weights_go_before_the_configuration(tmp_path: Path):
    base = "r1-distill-qwen-1.5b"
    folder = write_folder(tmp_path / "model", base, {"dtype": "bfloat16"}, 4 * 10**9)
    assert get_variant(str(folder)).params_b == 2.0
    write_weights(folder / "model-00001-of-00002.safetensors", {"BF16": 800})
    write_weights(folder / "model-00002-of-00002.safetensors", {"F32": 4000, "BF16": 100})
    assert bytes_per_number(folder) == 4.0
    variant = get_variant(str(folder))
    assert (variant.params_b, variant.bytes_per_param) == (1.0, 2.0)


def test_a_folder_named_like_an_entry_is_not_that_entry(tmp_path: Path):
    rest = {"intermediate_size": 8960, "vocab_size": 1000, "max_position_embeddings": 4096}
    folder = write_folder(tmp_path / "r1", "r1-distill-qwen-1.5b", rest, 10**9)
    (folder / "safe_r1.json").unlink()
    assert get_architecture(get_variant(str(folder))).family == "qwen2"


@pytest.mark.parametrize(
    "header",
    [
        "[]",
        "[1]",
        "1",
        '{"a": 1}',
        '{"a": {"dtype": "F32"}}',
        '{"a": {"dtype": "F32", "data_offsets": 1}}',
        '{"a": {"dtype": "F32", "data_offsets": [0, 9]}}',
        '{"a": {"dtype": "F32", "data_offsets": [8, 0]}}',
    ],
)
def test_a_damaged_header_says_nothing(tmp_path: Path, header: str):
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(8))
    assert read_safetensors_header(file) is None
    assert bytes_per_number(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"{}", struct.pack("<Q", 10) + b"{}", struct.pack("<Q", 1 << 60)])
def test_a_file_without_a_header_says_nothing(tmp_path: Path, content: bytes):
    (tmp_path / "model.safetensors").write_bytes(content)
    assert bytes_per_number(tmp_path) is None


def test_a_file_that_was_cut_off_is_seen(tmp_path: Path):
    file = tmp_path / "model.safetensors"
    write_weights(file, {"BF16": 100})
    assert list(read_safetensors_header(file) or {}) == ["BF16"]
    file.write_bytes(file.read_bytes()[:-1])
    assert read_safetensors_header(file) is None
