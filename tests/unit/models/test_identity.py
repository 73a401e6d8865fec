"""The identity of a model folder: what changes it, and what does not."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from safe_r1.models.identity import folder_identity

pytestmark = pytest.mark.slow

SIZES = {"tiny": 3, "small": 2_000, "medium": 40_000, "large": 3_000_000}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of two safetensors files, whose largest tensors have 12 MB."""
    made = tmp_path / "model"
    made.mkdir()
    generator = np.random.default_rng(0)
    for shard in ("model-00001-of-00002", "model-00002-of-00002"):
        tensors = {
            f"{shard}.{layer}.{name}": generator.normal(size=num).astype(np.float32)
            for layer in range(3)
            for name, num in SIZES.items()
        }
        save_file(tensors, made / f"{shard}.safetensors")
    (made / "config.json").write_text("{}")
    (made / "modeling_own.py").write_text("x = 1")
    (made / "pytorch_model.bin").write_bytes(generator.bytes(3_000_000))
    (made / "model.gguf").write_bytes(generator.bytes(3_000_000))
    return made


@pytest.mark.slow
def test_every_tensor_counts(folder: Path):
    seen = {folder_identity(folder)}
    for file in sorted(folder.glob("*.safetensors")):
        tensors = load_file(file)
        for name, value in tensors.items():
            save_file({**tensors, name: value + 1}, file)
            seen.add(folder_identity(folder))
        save_file(tensors, file)
    assert len(seen) == 1 + 2 * 3 * len(SIZES)


@pytest.mark.parametrize("name", ["config.json", "modeling_own.py"])
def test_every_byte_of_settings_and_code_counts(folder: Path, name: str):
    before = folder_identity(folder)
    (folder / name).write_text((folder / name).read_text() + " ")
    assert folder_identity(folder) != before


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.gguf"])
@pytest.mark.parametrize("place", [0, 1_234_567, 2_999_999])
def test_other_weight_files_count_all_over(folder: Path, name: str, place: int):
    before = folder_identity(folder)
    content = bytearray((folder / name).read_bytes())
    content[place] ^= 1
    (folder / name).write_bytes(content)
    assert folder_identity(folder) != before


def test_a_checkpoint_of_torch_counts_wherever_a_value_changed(tmp_path: Path):
    # Its blocks lie far apart, but the archive's directory has a checksum of each tensor.
    tensors = {name: torch.zeros(num) for name, num in SIZES.items()}
    seen = set()
    for name in [None, *tensors]:
        changed = {key: value.clone() for key, value in tensors.items()}
        if name:
            changed[name][len(changed[name]) // 3] = 1
        torch.save(changed, tmp_path / "pytorch_model.bin")
        seen.add(folder_identity(tmp_path))
    assert len(seen) == 1 + len(tensors)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "added_tokens.json").write_text("{}"),
        lambda folder: (folder / "tokenizer.model").write_bytes(b"x"),
        lambda folder: (folder / "vocab.tiktoken").write_bytes(b"x"),
        lambda folder: (folder / "pytorch_model.bin").rename(folder / "other.bin"),
        lambda folder: (folder / "pytorch_model.bin").unlink(),
        lambda folder: _write(folder / "additional_chat_templates" / "rag.jinja", "x"),
        lambda folder: _write(folder / "package" / "layers.py", "x"),
        lambda folder: (folder / "sentencepiece.bpe").write_bytes(b"x"),
    ],
)
def test_files_that_come_and_go_count(folder: Path, change: Callable[[Path], object]):
    before = folder_identity(folder)
    change(folder)
    assert folder_identity(folder) != before


def test_place_time_and_papers_do_not_count(folder: Path, tmp_path: Path):
    before = folder_identity(folder)
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    for file in moved.iterdir():
        os.utime(file, (0, 0))
    (moved / "README.md").write_text("a card")
    (moved / ".gitattributes").write_text("x")
    (moved / "SHA256SUMS").write_text("")
    assert folder_identity(moved) == before
    linked = tmp_path / "links"
    linked.mkdir()
    for file in folder.iterdir():
        (linked / file.name).symlink_to(file)
    assert folder_identity(linked) == before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"\xff" * 64,
        (20).to_bytes(8, "little") + b"{not json" + b" " * 40,
        (2).to_bytes(8, "little") + b"[]",
        (64).to_bytes(8, "little") + json.dumps({"a": {"data_offsets": [0, 10**15]}}).encode().ljust(64),
        (64).to_bytes(8, "little") + json.dumps({"a": {"data_offsets": [5, 1]}}).encode().ljust(64),
    ],
)
def test_a_damaged_file_has_an_identity_too(tmp_path: Path, content: bytes):
    (tmp_path / "model.safetensors").write_bytes(content)
    before = folder_identity(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content + b"x")
    assert folder_identity(tmp_path) != before


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
