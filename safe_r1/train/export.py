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
from safe_r1.train.companions import companion_files, original_dtype, patterns
from safe_r1.train.config import LoraConfig
from safe_r1.train.lora import base_layer_name, delta_weight

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MAX_FILE_BYTES = 5 * 10**9
_INDEX_FILE = "model.safetensors.index.json"
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
        dtype: Data type of the weights; None: as the original has them.
    """

    checkpoint: UPath
    variant: Variant
    output: UPath
    card: str
    lora: LoraConfig | None = None
    trust_remote_code: bool = False
    dtype: torch.dtype | None = None


def export(spec: ExportSpec, on_progress: ProgressCallback) -> None:
    """Write the model folder.

    Args:
        spec: What to export, and where.
        on_progress: Called with the number of weight files written.

    Raises:
        ModelError: The checkpoint lacks a weight of the model, or the original's files cannot be downloaded.
        StorageError: The folder cannot be written.
    """
    original = _original_files(spec.variant, spec.trust_remote_code)
    model, configured = _meta_model(spec)
    dtype = spec.dtype or original_dtype(original, configured)
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
        write_bytes(spec.output / _INDEX_FILE, json.dumps(index, indent=1).encode())
    written = _write_other_files(spec, original, dtype) | set(weight_map.values())
    _remove_stale(spec.output, written | ({_INDEX_FILE} if len(groups) > 1 else set()))
    on_progress(Progress("exporting", len(groups), len(groups)))


def _file_name(number: int, count: int) -> str:
    """The hub's name of a weight file, counted from 0 here and from 1 there."""
    return f"model-{number + 1:05d}-of-{count:05d}.safetensors" if count > 1 else "model.safetensors"


def _original_files(variant: Variant, trust_remote_code: bool) -> Path:
    """A local folder with the companion files of the original model."""
    if variant.is_local:
        return Path(variant.source)
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                variant.source, revision=variant.revision, allow_patterns=patterns(trust_remote_code)
            )
        )
    except Exception as error:  # noqa: BLE001 - the client passes on any error of its transport
        raise ModelError(
            f"{variant.source}: cannot download its tokenizer files ({type(error).__name__})"
        ) from None


def _meta_model(spec: ExportSpec) -> "tuple[PreTrainedModel, torch.dtype | None]":
    """The model on the meta device, which takes no memory, and the data type that it is configured with."""
    from transformers import AutoConfig, AutoModelForCausalLM

    variant = spec.variant
    config = AutoConfig.from_pretrained(
        variant.source, revision=variant.revision, trust_remote_code=spec.trust_remote_code
    )
    is_quantized = getattr(config, "quantization_config", None)
    dtype = config.dtype if isinstance(config.dtype, torch.dtype) and not is_quantized else None
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


def _write_other_files(spec: ExportSpec, original: Path, dtype: torch.dtype) -> set[str]:
    """Write the configuration, the tokenizer, the licence and the model card; returns their names."""
    files = companion_files(original, spec.variant, dtype, spec.trust_remote_code)
    files["README.md"] = spec.card.encode("utf-8", errors="replace")
    for name, content in files.items():
        write_bytes(spec.output / name, content)
    return set(files)


def _remove_stale(output: UPath, written: set[str]) -> None:
    """Remove weights and indexes of an earlier export, which loaders would prefer or mix in."""
    for path in output.iterdir():
        if path.name not in written and path.name.endswith((".safetensors", ".safetensors.index.json")):
            path.unlink()
