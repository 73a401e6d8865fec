"""Export of a checkpoint: its files, however they are split and wherever they are written."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from upath import UPath

from safe_r1.errors import ModelError, StorageError
from safe_r1.models.registry import get_variant
from safe_r1.progress import Progress
from safe_r1.train.checkpoint import Checkpoints
from safe_r1.train.checkpoint_files import list_checkpoints
from safe_r1.train.export import export
from safe_r1.train.export_weights import ExportSpec
from safe_r1.train.model import ModelSpec, load_model
from safe_r1.train.parallel import ParallelDims


def make_checkpoint(model_folder: Path, folder: Path) -> UPath:
    model = load_model(ModelSpec(str(model_folder)), ParallelDims(), "cpu")
    optimizer = torch.optim.AdamW(model.parameters())
    checkpoints = Checkpoints(UPath(folder), 0)
    checkpoints.save(model, optimizer, 1, {})
    checkpoints.finish()
    return list_checkpoints(UPath(folder))[0][1]


def make_spec(
    model: Path, checkpoint: UPath, output: Path, max_file_bytes: int, dtype: torch.dtype | None = None
) -> ExportSpec:
    return ExportSpec(
        checkpoint, get_variant(str(model)), UPath(output), "card", dtype=dtype, max_file_bytes=max_file_bytes
    )


def hashes(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["tiny_qwen2", "tiny_deepseek_v3"])
def test_an_untrained_model_comes_back_whole_and_in_parts(
    arch: str, request: pytest.FixtureRequest, tmp_path: Path
):
    original: Path = request.getfixturevalue(arch)
    checkpoint = make_checkpoint(original, tmp_path / "checkpoints")
    wanted = load_file(original / "model.safetensors")
    for size in (10**9, 200_000):
        output = tmp_path / str(size)
        told: list[Progress] = []
        export(make_spec(original, checkpoint, output, size), told.append)
        files = sorted(output.glob("*.safetensors"))
        assert (len(files) > 1) == (size < 10**9)
        found = {name: tensor for file in files for name, tensor in load_file(file).items()}
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
        assert (told[0].done, told[-1].done, told[-1].total) == (0, len(files), len(files))
        if len(files) > 1:
            index = json.loads((output / "model.safetensors.index.json").read_text())
            assert set(index["weight_map"].values()) == {file.name for file in files}
            assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in found.values())
        model = AutoModelForCausalLM.from_pretrained(output)
        assert model.config.model_type in original.name


@pytest.mark.slow
def test_it_is_rounded_as_torch_rounds(tiny_qwen2: Path, tmp_path: Path):
    checkpoint = make_checkpoint(tiny_qwen2, tmp_path / "checkpoints")
    export(make_spec(tiny_qwen2, checkpoint, tmp_path / "out", 10**9, torch.bfloat16), lambda progress: None)
    found = load_file(tmp_path / "out" / "model.safetensors")
    for name, value in load_file(tiny_qwen2 / "model.safetensors").items():
        assert torch.equal(found[name], value.to(torch.bfloat16)), name


@pytest.mark.slow
def test_what_another_export_has_left_is_removed(tiny_qwen2: Path, tmp_path: Path):
    checkpoint = make_checkpoint(tiny_qwen2, tmp_path / "checkpoints")
    output = tmp_path / "out"
    export(make_spec(tiny_qwen2, checkpoint, output, 200_000), lambda progress: None)
    (output / "model-00001-of-00009.safetensors.0123abcd.tmp").write_bytes(b"killed")
    (output / "notes.txt").write_text("mine")
    export(make_spec(tiny_qwen2, checkpoint, output, 10**9), lambda progress: None)
    left = {name for name in hashes(output) if "safetensors" in name}
    assert left == {"model.safetensors"}
    assert (output / "notes.txt").exists()


@pytest.mark.slow
def test_errors_are_one_clear_line(tiny_qwen2: Path, tiny_llama: Path, tmp_path: Path):
    checkpoint = make_checkpoint(tiny_llama, tmp_path / "checkpoints")
    with pytest.raises(ModelError, match=r"lacks \d+ weights of the model"):
        export(make_spec(tiny_qwen2, checkpoint, tmp_path / "out", 10**9), lambda progress: None)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write"):
        export(make_spec(tiny_llama, checkpoint, tmp_path / "file", 10**9), lambda progress: None)
