"""Export of a checkpoint to a model folder in the hub's layout, one file of weights at a time.

The tensors of a file are read from the sharded checkpoint, converted to the original checkpoint's names and
data type, and written before the next ones are read: memory is needed for one file only, whatever the
model's size.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from upath import UPath

from safe_r1.errors import ModelError
from safe_r1.models.registry import Variant
from safe_r1.progress import Progress, ProgressCallback
from safe_r1.runs import write_bytes
from safe_r1.train.checkpoint import open_reader
from safe_r1.train.config import LoraConfig
from safe_r1.train.lora import base_layer_name, delta_weight

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MAX_FILE_BYTES = 5 * 10**9
# Everything of the original but its weights: tokenizer, chat template, generation settings, licence.
_COMPANIONS = ("*.json", "*.jinja", "*.model", "*.txt", "LICENSE*")
_NOT_COPIED = ("config.json", "model.safetensors.index.json")
# Routers compare scores that differ only in the last bits.
_KEPT_IN_FP32 = ("e_score_correction_bias",)


@dataclass(frozen=True)
class ExportSpec:
    """What to export, and where.

    Attributes:
        checkpoint: A complete checkpoint of the run.
        variant: The model that was trained, with a source that can be loaded.
        output: The model folder to write.
        card: Text of its model card.
        lora: Settings of the adapters, which are merged; None if all parameters were trained.
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

    Args:
        spec: What to export, and where.
        on_progress: Called with the number of weight files written.

    Raises:
        ModelError: The checkpoint lacks a weight of the model, or the original's files cannot be downloaded.
        StorageError: The folder cannot be written.
    """
    original = _original_files(spec.variant)
    model, dtype = _meta_model(spec)
    shapes = {name: value.shape for name, value in _untied_state(model).items()}
    saved = _saved_shapes(spec.checkpoint)
    # With adapters, peft renames the weights of adapted layers.
    missing = [name for name in shapes if name not in saved and base_layer_name(name) not in saved]
    if missing:
        raise ModelError(f"{spec.checkpoint} lacks {len(missing)} weights of the model, e.g. {min(missing)}")
    groups = _split_into_files(shapes, dtype)
    weight_map: dict[str, str] = {}
    total_size = 0
    for number, names in enumerate(groups):
        on_progress(Progress("exporting", number, len(groups)))
        trained = {name: _read_merged(spec, name, saved) for name in names}
        tensors = _to_original_format(model, dtype, trained)
        file = _file_name(number, len(groups))
        write_bytes(spec.output / file, save(tensors, metadata={"format": "pt"}))
        weight_map |= dict.fromkeys(tensors, file)
        total_size += sum(tensor.nbytes for tensor in tensors.values())
    if len(groups) > 1:
        index = {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(weight_map.items()))}
        write_bytes(spec.output / "model.safetensors.index.json", json.dumps(index, indent=1).encode())
    _write_companions(spec, original, dtype)
    on_progress(Progress("exporting", len(groups), len(groups)))


def _file_name(number: int, count: int) -> str:
    """The hub's name of a weight file, counted from 0 here and from 1 there."""
    return f"model-{number + 1:05d}-of-{count:05d}.safetensors" if count > 1 else "model.safetensors"


def _original_files(variant: Variant) -> Path:
    """A local folder with the companion files of the original model."""
    if variant.is_local:
        return Path(variant.source)
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(variant.source, revision=variant.revision, allow_patterns=list(_COMPANIONS))
        )
    except Exception as error:  # noqa: BLE001 - the client passes on any error of its transport
        raise ModelError(
            f"{variant.source}: cannot download its tokenizer files ({type(error).__name__})"
        ) from None


def _meta_model(spec: ExportSpec) -> "tuple[PreTrainedModel, torch.dtype]":
    """The model on the meta device, which takes no memory, and the data type of the original weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    variant = spec.variant
    config = AutoConfig.from_pretrained(
        variant.source, revision=variant.revision, trust_remote_code=spec.trust_remote_code
    )
    # Quantized weights are exported in bf16.
    dtype = config.dtype if config.dtype in (torch.bfloat16, torch.float16, torch.float32) else torch.bfloat16
    vars(config).pop("quantization_config", None)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=spec.trust_remote_code)
    model.tie_weights()
    return model, dtype


def _untied_state(model: "PreTrainedModel") -> dict[str, Tensor]:
    """The model's state without the second name of a tied weight."""
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    return {name: value for name, value in model.state_dict().items() if name not in tied}


def _saved_shapes(checkpoint: UPath) -> dict[str, torch.Size]:
    """Shapes of the weights in a checkpoint by their name in the model."""
    entries = open_reader(checkpoint).read_metadata().state_dict_metadata
    return {
        name.removeprefix("model."): entry.size
        for name, entry in entries.items()
        if name.startswith("model.") and isinstance(entry, TensorStorageMetadata)
    }


def _read(checkpoint: UPath, name: str, shape: torch.Size) -> Tensor:
    """One weight in fp32, put together from its shards."""
    content = {"model": {name: torch.empty(shape, dtype=torch.float32)}}
    load(content, storage_reader=open_reader(checkpoint), no_dist=True)
    return content["model"][name]


def _read_merged(spec: ExportSpec, name: str, saved: Mapping[str, torch.Size]) -> Tensor:
    """A trained weight, with its adapter merged if it has one."""
    if name in saved:
        return _read(spec.checkpoint, name, saved[name])
    assert spec.lora is not None, "a weight of a layer with an adapter"
    base = base_layer_name(name)
    weight = _read(spec.checkpoint, base, saved[base])
    # A bias of such a layer has no adapter.
    if name.endswith(".weight"):
        weight += delta_weight(name, spec.lora, lambda part: _read(spec.checkpoint, part, saved[part]))
    return weight


def _split_into_files(shapes: Mapping[str, torch.Size], dtype: torch.dtype) -> list[list[str]]:
    """Names of the weights of each file, in the model's order."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, shape in shapes.items():
        num_bytes = shape.numel() * dtype.itemsize
        if groups[-1] and size + num_bytes > _MAX_FILE_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += num_bytes
    return groups


def _to_original_format(
    model: "PreTrainedModel", dtype: torch.dtype, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Weights under their original names; experts that are trained as one tensor are split again."""
    from transformers.core_model_loading import revert_weight_conversion

    converted = {
        name: tensor if name.endswith(_KEPT_IN_FP32) else tensor.to(dtype) for name, tensor in tensors.items()
    }
    original = revert_weight_conversion(model, converted)
    # safetensors refuses tensors that share storage, as the slices of one expert tensor do.
    return {name: tensor.contiguous().clone() for name, tensor in original.items()}


def _write_companions(spec: ExportSpec, original: Path, dtype: torch.dtype) -> None:
    """Copy the original's other files, and write its configuration and the model card."""
    for file in _companion_files(original):
        write_bytes(spec.output / file.name, file.read_bytes())
    config = json.loads((original / "config.json").read_text(encoding="utf-8"))
    config.pop("quantization_config", None)
    config.pop("torch_dtype", None)  # the older name of `dtype`
    config["dtype"] = str(dtype).removeprefix("torch.")
    if config.get("num_nextn_predict_layers"):
        # Multi-token-prediction layers are not trained and not exported: loaders must not expect them.
        config["num_nextn_predict_layers"] = 0
    write_bytes(
        spec.output / "config.json", (json.dumps(config, indent=1, ensure_ascii=False) + "\n").encode()
    )
    write_bytes(spec.output / "README.md", spec.card.encode("utf-8", errors="replace"))


def _companion_files(original: Path) -> list[Path]:
    files = {file for pattern in _COMPANIONS for file in original.glob(pattern) if file.is_file()}
    return sorted(file for file in files if file.name not in _NOT_COPIED)
