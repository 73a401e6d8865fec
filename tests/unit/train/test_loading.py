"""Damaged model folders: each is refused with the weight's name, and none is trained with random weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from safe_r1.errors import ModelError
from safe_r1.models.chat import load_tokenizer
from safe_r1.train.loading import check_vocabulary
from safe_r1.train.model import ModelSpec, load_model
from safe_r1.train.parallel import ParallelDims

HEAD = "lm_head.weight"
NORM = "model.layers.1.input_layernorm.weight"
Weights = dict[str, torch.Tensor]


def without(*names: str) -> Callable[[Weights], None]:
    def damage(weights: Weights) -> None:
        for name in names:
            del weights[name]

    return damage


def cut(weights: Weights) -> None:
    weights[HEAD] = weights[HEAD][:-8].clone()


def surplus(weights: Weights) -> None:
    weights["model.layers.7.mlp.up_proj.weight"] = torch.zeros(4, 4)


def filled(name: str, value: float) -> Callable[[Weights], None]:
    def damage(weights: Weights) -> None:
        weights[name].view(-1)[3] = value

    return damage


def load(folder: Path) -> None:
    load_model(ModelSpec(str(folder)), ParallelDims(), "cpu")


@pytest.fixture
def folder(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without(HEAD), rf"1 weights of the model are not in its files, and would be random: {HEAD}"),
        (without(HEAD, NORM), rf"2 weights of the model are not in its files.*: {HEAD}, {NORM}"),
        (surplus, r"1 weights in the files belong to no part of the model: model\.layers\.7"),
        (cut, rf"1 weights have another shape than the configuration says: {HEAD}"),
        (filled(NORM, float("nan")), rf"1 weights hold NaN or infinity: {NORM}"),
        (filled(HEAD, float("inf")), rf"1 weights hold NaN or infinity: {HEAD}"),
        (filled(HEAD, float("-inf")), rf"1 weights hold NaN or infinity: {HEAD}"),
    ],
)
def test_damaged_weights_are_refused_by_name(folder: Path, damage: Callable[[Weights], None], message: str):
    file = folder / "model.safetensors"
    weights = load_file(file)
    damage(weights)
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=message) as raised:
        load(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kept", [0, 4, 1000, -1])
def test_a_truncated_file_is_one_line(folder: Path, kept: int):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ModelError, match="cannot be loaded for training") as raised:
        load(folder)
    assert "\n" not in str(raised.value)


def test_a_shard_that_is_listed_and_not_there_is_one_line(folder: Path):
    names = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    places = {name: f"model-0000{2 if name == HEAD else 1}-of-00002.safetensors" for name in names}
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="cannot be loaded for training"):
        load(folder)


def test_a_whole_folder_and_shared_embeddings_are_loaded(tiny_llama: Path, tmp_path: Path):
    load(tiny_llama)
    # The head of shared embeddings is in no file, and is not missing.
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "tied"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    weights = load_file(folder / "model.safetensors")
    del weights[HEAD]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    load(folder)


def test_a_tokenizer_with_more_tokens_than_the_embedding_is_refused(tiny_llama: Path):
    tokenizer = load_tokenizer(str(tiny_llama))
    size = max(tokenizer.get_vocab().values()) + 1
    check_vocabulary("m", tokenizer, size)
    with pytest.raises(
        ModelError, match=rf"m: its tokenizer has tokens up to number {size - 1:,}, its embed"
    ):
        check_vocabulary("m", tokenizer, size - 1)
