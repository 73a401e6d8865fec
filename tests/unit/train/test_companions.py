"""The files beside the weights of an exported model: end tokens, code, data types, stray files."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from safe_r1.errors import ModelError
from safe_r1.models.registry import get_variant
from safe_r1.models.variant import Variant
from safe_r1.train.companions import companion_files, original_dtype
from tests.tiny_models import make_tiny

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def chatml_base(tmp_path: Path) -> Path:
    """A base model with a ChatML template, whose end token is that of a document as with Qwen's bases."""
    folder = make_tiny("qwen2", tmp_path / "base", vocab_size=1544)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    return folder


def written(files: dict[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def files_of(folder: Path, dtype: torch.dtype = torch.float32, **kwargs: Any) -> dict[str, bytes]:
    return companion_files(folder, get_variant(str(folder)), dtype, **kwargs)


def test_a_chatml_base_stops_at_the_end_of_a_turn_everywhere(chatml_base: Path, tmp_path: Path):
    before = AutoTokenizer.from_pretrained(chatml_base)
    end = before.convert_tokens_to_ids("<|im_end|>")
    assert before.eos_token_id != end
    out = written(files_of(chatml_base), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert (tokenizer.eos_token_id, tokenizer.eos_token) == (end, "<|im_end|>")
    # The end of a document still ends a completion.
    assert GenerationConfig.from_pretrained(out).eos_token_id == [end, before.eos_token_id]
    assert AutoConfig.from_pretrained(out).eos_token_id == [end, before.eos_token_id]
    assert get_variant(str(out)).prompt_format.stop_token_ids == ()
    dialogue = [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]
    assert tokenizer.apply_chat_template(dialogue, tokenize=False) == before.apply_chat_template(
        dialogue, tokenize=False
    )


def test_a_base_without_generation_settings_gets_them(chatml_base: Path):
    (chatml_base / "generation_config.json").unlink()
    end = AutoTokenizer.from_pretrained(chatml_base).convert_tokens_to_ids("<|im_end|>")
    assert json.loads(files_of(chatml_base)["generation_config.json"]) == {"eos_token_id": end}


def test_a_model_that_stops_by_itself_keeps_its_files_byte_for_byte(tiny_qwen2: Path):
    files = files_of(tiny_qwen2)
    for name in ("generation_config.json", "tokenizer_config.json", "tokenizer.json", "chat_template.jinja"):
        assert files[name] == (tiny_qwen2 / name).read_bytes()


def test_stray_files_stay_behind(tiny_qwen2: Path, tmp_path: Path):
    folder = Path(shutil.copytree(tiny_qwen2, tmp_path / "model"))
    stray = (
        "trainer_state.json",
        "all_results.json",
        "notes.txt",
        "old.model",
        "adapter_config.json",
        "run.py",
    )
    for name in stray:
        (folder / name).write_text("{}")
    (folder / "LICENSE.txt").write_text("MIT")
    files = files_of(folder)
    assert not set(stray) & set(files)
    assert files["LICENSE.txt"] == b"MIT"
    assert not [name for name in files if name.endswith((".safetensors", ".safetensors.index.json"))]


def remote_code(folder: Path) -> Path:
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": "configuration_own.OwnConfig",
        "AutoModelForCausalLM": "modeling_own.OwnModel",
        "AutoTokenizer": ["owner/repo--tokenization_own.OwnTokenizer", None],
    }
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("configuration_own", "modeling_own", "helpers"):
        (folder / f"{name}.py").write_text(f"# {name}")
    return folder


def variant_of(folder: Path) -> Variant:
    # Its code is never run here.
    return replace(get_variant(str(folder)), source=str(folder))


def test_code_of_a_model_comes_along_or_its_references_go(tiny_qwen2: Path, tmp_path: Path):
    variant = variant_of(tiny_qwen2)
    folder = remote_code(Path(shutil.copytree(tiny_qwen2, tmp_path / "model")))
    with_code = companion_files(folder, variant, torch.float32, trust_remote_code=True)
    assert {"configuration_own.py", "modeling_own.py", "helpers.py"} <= set(with_code)
    assert "auto_map" in json.loads(with_code["config.json"])
    without = companion_files(folder, variant, torch.float32)
    assert not [name for name in without if name.endswith(".py")]
    assert "auto_map" not in json.loads(without["config.json"])
    (folder / "modeling_own.py").unlink()
    with pytest.raises(ModelError, match=r"modeling_own\.py"):
        companion_files(folder, variant, torch.float32, trust_remote_code=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_data_type_is_that_of_the_files(dtype: torch.dtype, tmp_path: Path):
    folder = make_tiny("qwen2", tmp_path / "model", dtype=dtype)
    # A configuration may say nothing, or something else.
    for configured in (None, torch.bfloat16, torch.float32):
        assert original_dtype(folder, configured) == dtype


def test_without_weights_the_configuration_tells_the_data_type(tmp_path: Path):
    assert original_dtype(tmp_path, torch.float16) == torch.float16
    assert original_dtype(tmp_path, torch.int8) == torch.bfloat16
    assert original_dtype(tmp_path, None) == torch.bfloat16
