"""Small model folders with a real tokenizer, whose chat template each test chooses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

CONFIG = {
    "model_type": "qwen2",
    "max_position_embeddings": 4096,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "hidden_size": 64,
    "dtype": "bfloat16",
}

MakeFolder = Callable[..., Path]


@pytest.fixture(scope="session")
def bare_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer with R1's special tokens, ``<think>`` among the added ones, and no chat template."""
    from tests.tiny_models import make_tokenizer

    folder = tmp_path_factory.mktemp("bare-tokenizer")
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def make_folder(tmp_path: Path, bare_tokenizer: Path) -> MakeFolder:
    """Makes a model folder without weights: config, tokenizer, and a template in chat_template.jinja."""

    def make(
        template: str | None = None, config: dict[str, object] | None = None, name: str = "model"
    ) -> Path:
        folder = tmp_path / name
        shutil.copytree(bare_tokenizer, folder)
        (folder / "config.json").write_text(json.dumps({**CONFIG, **(config or {})}), encoding="utf-8")
        if template is not None:
            (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        return folder

    return make
