"""From a checkpoint of a run to a model folder in the hub's layout, one file of weights at a time.

A file's tensors are read from the sharded checkpoint, given the original checkpoint's names and type, and
written before the next ones are read: the largest model needs the memory of one file.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch.distributed.checkpoint.state_dict_loader import load
from upath import UPath

from safe_r1.errors import ModelError
from safe_r1.models.registry import Variant
from safe_r1.progress import Progress, ProgressCallback
from safe_r1.runs import write_bytes
from safe_r1.train.checkpoint import reader
from safe_r1.train.config import LoraConfig
from safe_r1.train.lora import base_name, product

_MAX_SHARD_BYTES = 5 * 10**9
# Everything of the original but its weights: tokenizer, chat template, generation settings, licence.
_COMPANIONS = ("*.json", "*.jinja", "*.model", "*.txt", "LICENSE*")
_NOT_COPIED = ("config.json", "model.safetensors.index.json")
# Routers compare scores that differ in the last bits.
_KEPT_IN_FP32 = ("e_score_correction_bias",)


@dataclass(frozen=True)
class ExportSpec:
    """What is exported where.

    Attributes:
        checkpoint: A complete checkpoint of the run.
        variant: The model that was trained, with a source that can be loaded.
        output: Folder of the model.
        card: Its model card.
        lora: The adapters' settings where there are any; they are merged.
        trust_remote_code: Run code from the model's repository.
    """

    checkpoint: UPath
    variant: Variant
    output: UPath
    card: str
    lora: LoraConfig | None = None
    trust_remote_code: bool = False


def export(spec: ExportSpec, on_progress: ProgressCallback) -> None:
    """Write the model folder.

    Raises:
        ModelError: The checkpoint lacks a weight of the model, or the original's files cannot be had.
        StorageError: The folder cannot be written.
    """
    original = _original_files(spec.variant)
    model, dtype = _skeleton(spec)
    shapes = {name: value.shape for name, value in _untied(model).items()}
    saved = _saved(spec.checkpoint)
    missing = [name for name in shapes if name not in saved and base_name(name) not in saved]
    if missing:
        raise ModelError(f"{spec.checkpoint} lacks {len(missing)} weights of the model, e.g. {min(missing)}")
    groups = _groups(shapes, dtype)
    weight_map: dict[str, str] = {}
    total = 0
    for number, names in enumerate(groups, 1):
        on_progress(Progress("exporting", number - 1, len(groups)))
        file = (
            f"model-{number:05d}-of-{len(groups):05d}.safetensors" if len(groups) > 1 else "model.safetensors"
        )
        tensors = _original_form(model, dtype, {name: _trained(spec, name, saved) for name in names})
        write_bytes(spec.output / file, save(tensors, metadata={"format": "pt"}))
        weight_map |= dict.fromkeys(tensors, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    if len(groups) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_bytes(spec.output / "model.safetensors.index.json", json.dumps(index, indent=1).encode())
    _write_companions(spec, original, dtype)
    on_progress(Progress("exporting", len(groups), len(groups)))


def _original_files(variant: Variant) -> Path:
    if variant.is_local:
        return Path(variant.source)
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(variant.source, revision=variant.revision, allow_patterns=list(_COMPANIONS))
        )
    except Exception as error:  # noqa: BLE001 - the client raises whatever its transport raises
        raise ModelError(
            f"{variant.source}: its tokenizer files cannot be fetched ({type(error).__name__})"
        ) from None


def _skeleton(spec: ExportSpec) -> tuple[Any, torch.dtype]:
    """The model without memory for its weights, and the type of the original's."""
    from transformers import AutoConfig, AutoModelForCausalLM

    variant = spec.variant
    config = AutoConfig.from_pretrained(
        variant.source, revision=variant.revision, trust_remote_code=spec.trust_remote_code
    )
    dtype = config.dtype if config.dtype in (torch.bfloat16, torch.float16, torch.float32) else torch.bfloat16
    vars(config).pop("quantization_config", None)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=spec.trust_remote_code)
    model.tie_weights()
    return model, dtype


def _untied(model: Any) -> dict[str, torch.Tensor]:
    """The state of a model without the second name of a tied weight."""
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    return {name: value for name, value in model.state_dict().items() if name not in tied}


def _saved(checkpoint: UPath) -> dict[str, torch.Size]:
    """Weights in a checkpoint by their name in the model."""
    entries = reader(checkpoint).read_metadata().state_dict_metadata
    return {
        name.removeprefix("model."): entry.size
        for name, entry in entries.items()
        if name.startswith("model.")
    }


def _read(checkpoint: UPath, name: str, shape: torch.Size) -> torch.Tensor:
    content = {"model": {name: torch.empty(shape, dtype=torch.float32)}}
    load(content, storage_reader=reader(checkpoint), no_dist=True)
    return content["model"][name]


def _trained(spec: ExportSpec, name: str, saved: Mapping[str, torch.Size]) -> torch.Tensor:
    """A weight as training left it, adapters merged."""
    if name in saved:
        return _read(spec.checkpoint, name, saved[name])
    assert spec.lora is not None, "a weight beside an adapter"
    weight = _read(spec.checkpoint, base_name(name), saved[base_name(name)])
    if name.endswith(".weight"):
        weight += product(name, spec.lora, lambda part: _read(spec.checkpoint, part, saved[part]))
    return weight


def _groups(shapes: Mapping[str, torch.Size], dtype: torch.dtype) -> list[list[str]]:
    """Names by file, in the model's order."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, shape in shapes.items():
        num_bytes = shape.numel() * dtype.itemsize
        if groups[-1] and size + num_bytes > _MAX_SHARD_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += num_bytes
    return groups


def _original_form(
    model: Any, dtype: torch.dtype, tensors: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Weights under their original names; experts that are trained as one tensor are many again."""
    from transformers.core_model_loading import revert_weight_conversion

    kept = {
        name: tensor if name.endswith(_KEPT_IN_FP32) else tensor.to(dtype) for name, tensor in tensors.items()
    }
    return {
        name: tensor.contiguous().clone() for name, tensor in revert_weight_conversion(model, kept).items()
    }


def _write_companions(spec: ExportSpec, original: Path, dtype: torch.dtype) -> None:
    for file in _companions(original):
        write_bytes(spec.output / file.name, file.read_bytes())
    config = json.loads((original / "config.json").read_text(encoding="utf-8"))
    config.pop("quantization_config", None)
    config.pop("torch_dtype", None)
    config["dtype"] = str(dtype).removeprefix("torch.")
    if config.get("num_nextn_predict_layers"):
        # The multi-token-prediction layers are not trained here, and loaders that look for them shall not.
        config["num_nextn_predict_layers"] = 0
    write_bytes(
        spec.output / "config.json", (json.dumps(config, indent=1, ensure_ascii=False) + "\n").encode()
    )
    write_bytes(spec.output / "README.md", spec.card.encode("utf-8", errors="replace"))


def _companions(original: Path) -> Iterable[Path]:
    files = {file for pattern in _COMPANIONS for file in original.glob(pattern) if file.is_file()}
    return sorted(file for file in files if file.name not in _NOT_COPIED)
