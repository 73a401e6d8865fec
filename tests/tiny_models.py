"""Tiny random checkpoints of the three architectures of the R1 family, for tests.

Each has a real tokenizer (byte-level BPE over Chinese and English) with R1's special tokens, R1's chat
template behaviour and R1's generation settings; the weights are random, so what it says means nothing. The
sizes are the smallest that vLLM's CPU attention and MLA kernels accept.

By hand: ``python tests/tiny_models.py deepseek_v3 /tmp/tiny``.
"""

import argparse
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    GenerationConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

ARCHITECTURES = ("qwen2", "llama", "deepseek_v3")

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"
THINK, END_THINK = "<think>", "</think>"

VOCAB_SIZE = 1536
_CORPUS = Path(__file__).with_name("tiny_corpus.txt")

# As the stock template: system texts go before the first turn, the reasoning of earlier assistant turns is
# dropped, and the generation prompt opens the reasoning.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}"
    "{% for m in messages %}"
    "{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}"
    "{% elif m.role == 'assistant' %}"
    "{{ '<｜Assistant｜>' + m.content.split('</think>')[-1] + eos_token }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"
)

# The same, with a generation prompt that closes the reasoning at once: whatever the model says is an answer.
# A random model hardly ever closes it by itself, and a run without any answer is not published.
ANSWERING_TEMPLATE = CHAT_TEMPLATE.replace("<think>\\n", "<think>\\n\\n</think>\\n\\n")

Settings = dict[str, Any]

_SHARED: Settings = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    # Far above the usual 0.02, so that the best token wins by more than the rounding between two engines.
    "initializer_range": 0.2,
}


def make_tiny(
    arch: str,
    folder: Path | str,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    chat_template: str = CHAT_TEMPLATE,
    **changes: Any,
) -> Path:
    """Writes a tiny random checkpoint with tokenizer, chat template and generation settings.

    Args:
        arch: One of ``ARCHITECTURES``.
        folder: Where to write; made if missing.
        seed: The same seed gives the same files.
        dtype: Type of the saved weights.
        chat_template: How it is prompted.
        changes: Settings of the configuration that shall differ.

    Returns:
        The folder, which transformers and vLLM load as it is.
    """
    folder = Path(folder)
    tokenizer = make_tokenizer(chat_template)
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(_config(arch, ids | changes), dtype=torch.float32)
    model.generation_config = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.95, **ids)
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_saying(text: str, folder: Path | str) -> Path:
    """Writes a checkpoint that answers everything with one text.

    The text is one token of its tokenizer. No layer adds anything, and all other tokens are alike: after
    any of them the text is the likeliest by far, and after the text the end.
    """
    folder = make_tiny("qwen2", folder, chat_template=ANSWERING_TEMPLATE, vocab_size=VOCAB_SIZE + 8)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False)])
    tokenizer.save_pretrained(folder)
    said = tokenizer.convert_tokens_to_ids(text)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    half = model.config.hidden_size // 2
    with torch.no_grad():
        weights = dict(model.named_parameters())
        for name, weight in weights.items():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.zero_()
        inputs = weights["model.embed_tokens.weight"].zero_()
        outputs = weights["lm_head.weight"].zero_()
        inputs[:, :half] = 1.0
        inputs[said] = inputs[said].flip(0)
        outputs[said, :half] = 1.0
        outputs[tokenizer.eos_token_id, half:] = 1.0
    model.save_pretrained(folder)
    return folder


def make_fp8(plain: Path | str, folder: Path | str, block: int = 128) -> Path:
    """The checkpoint in DeepSeek's FP8 layout: the matrices of the layers in 8 bits, one scale a block; the
    rest as it was.

    Gives ``folder``, and writes ``plain`` anew with the values that 8 bits can hold, so that both are the
    same model.
    """
    plain, folder = Path(plain), Path(folder)
    shutil.copytree(plain, folder)
    weights, quantized = load_file(plain / "model.safetensors"), {}
    for name, value in list(weights.items()):
        if value.ndim != 2 or ".layers." not in name or name.endswith("mlp.gate.weight"):
            quantized[name] = value
            continue
        scales = torch.empty(*(-(-size // block) for size in value.shape))
        eighths = torch.empty_like(value, dtype=torch.float8_e4m3fn)
        for row, column in itertools.product(*(range(size) for size in scales.shape)):
            place = (slice(row * block, (row + 1) * block), slice(column * block, (column + 1) * block))
            scales[row, column] = value[place].abs().max() / 448
            eighths[place] = (value[place] / scales[row, column]).to(torch.float8_e4m3fn)
            weights[name][place] = eighths[place].float() * scales[row, column]
        quantized |= {name: eighths, f"{name}_scale_inv": scales}
    save_file(weights, plain / "model.safetensors", {"format": "pt"})
    save_file(quantized, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text("utf-8"))
    settings = {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [block, block],
    }
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}), "utf-8")
    return folder


def make_tokenizer(chat_template: str = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """A byte-level BPE of ``VOCAB_SIZE`` entries over Chinese and English that adds a BOS, as R1's tokenizer
    does.

    For qwen2, transformers puts its own splitting and no BOS in place of what a tokenizer file says, for this
    one as for the R1 distills. The splitting is therefore Qwen2's everywhere: one text has the same tokens in
    the three models.
    """
    special = [AddedToken(token, special=True, normalized=False) for token in (BOS, EOS, PAD)]
    markers = [
        AddedToken(token, special=False, normalized=False) for token in (USER, ASSISTANT, THINK, END_THINK)
    ]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(markers),
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=15,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS.read_text(encoding="utf-8").splitlines(keepends=True), trainer)
    tokenizer.add_tokens(markers)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=PAD,  # never produced; without it transformers adds a token for qwen2
        chat_template=chat_template,
        model_max_length=4096,
    )


def _config(arch: str, changes: Settings) -> PreTrainedConfig:
    if arch == "qwen2":
        return Qwen2Config(**(_SHARED | _DENSE | changes))
    if arch == "llama":
        return LlamaConfig(**(_SHARED | _DENSE | changes))
    if arch == "deepseek_v3":
        return DeepseekV3Config(**(_SHARED | _DEEPSEEK | changes))
    raise ValueError(f"unknown architecture {arch!r}: expected one of {', '.join(ARCHITECTURES)}")


_DENSE: Settings = {"num_key_value_heads": 1, "intermediate_size": 128}

# kv_lora_rank and qk_rope_head_dim are R1's own: MLA takes no other. So is YaRN; with plain RoPE, vLLM 0.32
# on CPU rotates MLA's strided queries wrongly. One dense layer, then one with experts.
_DEEPSEEK: Settings = {
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 2,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "q_lora_rank": 64,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 64,
    "v_head_dim": 64,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 1024,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a tiny random checkpoint for tests.")
    parser.add_argument("arch", choices=ARCHITECTURES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(make_tiny(args.arch, args.folder, seed=args.seed))


if __name__ == "__main__":
    main()
