"""The weight files of an export: which weights each has, and how one is read, converted and written.

Files do not depend on each other, so that any process can write any of them. The weights of a file are read
from the sharded checkpoint in the data type of the export and converted to the names of the original model:
memory is needed for one file, whatever the model's size.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from upath import UPath

from safe_r1.errors import ModelError, StorageError
from safe_r1.models.fetch import loadable
from safe_r1.models.registry import Variant
from safe_r1.runs import is_local, writing
from safe_r1.train.checkpoint_storage import open_reader
from safe_r1.train.config import LoraConfig
from safe_r1.train.lora import base_layer_name, delta_weight
from safe_r1.train.weight_stream import write_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Routers compare scores that differ only in the last bits.
_KEPT_IN_FP32 = ("e_score_correction_bias",)
# What transformers asks of a file.
_METADATA = {"format": "pt"}


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
        max_file_bytes: Size of a weight file, unless a single weight is larger.
        others: Further files of the folder by name.
    """

    checkpoint: UPath
    variant: Variant
    output: UPath
    card: str
    lora: LoraConfig | None = None
    trust_remote_code: bool = False
    dtype: torch.dtype | None = None
    max_file_bytes: int = 5 * 10**9
    others: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class WrittenFile:
    """A weight file that was written.

    Attributes:
        name: Its name.
        sizes: Bytes of each weight, by its name in the file.
        sha256: Hash of the file in hexadecimal.
    """

    name: str
    sizes: dict[str, int]
    sha256: str


class WeightFiles:
    """The weight files of an export, each of which can be written by itself.

    Attributes:
        model: The model on the meta device, which takes no memory.
        configured: The data type that it is configured with, if any.
    """

    def __init__(self, spec: ExportSpec):
        self._spec = spec
        self.model, self.configured = _meta_model(spec.variant, spec.trust_remote_code)
        self._reader = open_reader(spec.checkpoint)
        self._saved = _saved_shapes(self._reader.read_metadata().state_dict_metadata)
        self._shapes = {name: value.shape for name, value in _untied_state(self.model).items()}

    def check(self) -> None:
        """Check that the checkpoint has all weights of the model.

        Raises:
            ModelError: It lacks one.
        """
        # With adapters, peft renames the weights of adapted layers.
        missing = [
            name
            for name in self._shapes
            if name not in self._saved and base_layer_name(name) not in self._saved
        ]
        if missing:
            raise ModelError(
                f"{self._spec.checkpoint} lacks {len(missing)} weights of the model, e.g. {min(missing)}"
            )

    def split(self, dtype: torch.dtype) -> list[list[str]]:
        """Names of the weights of each file, in the model's order.

        Args:
            dtype: Data type of the weights.
        """
        groups: list[list[str]] = [[]]
        size = 0
        for name, shape in self._shapes.items():
            num_bytes = shape.numel() * dtype.itemsize
            if groups[-1] and size + num_bytes > self._spec.max_file_bytes:
                groups.append([])
                size = 0
            groups[-1].append(name)
            size += num_bytes
        return groups

    def num_bytes(self, names: list[str], dtype: torch.dtype) -> int:
        """Size of weights."""
        return sum(self._shapes[name].numel() for name in names) * dtype.itemsize

    def write(self, names: list[str], dtype: torch.dtype, file: str) -> WrittenFile:
        """Write one file.

        Args:
            names: Its weights.
            dtype: Their data type.
            file: Its name.

        Raises:
            StorageError: It cannot be written.
        """
        tensors = _to_original_format(self.model, self._read(names, dtype))
        path = self._spec.output / file
        if is_local(path):
            try:
                with writing(path) as temporary:
                    save_file(tensors, temporary, metadata=_METADATA)
                    with open(temporary, "rb") as stream:
                        digest = hashlib.file_digest(stream, "sha256").hexdigest()
            except SafetensorError as error:
                raise StorageError(f"cannot write {path}: {error}; free disk space") from None
        else:
            digest = write_blocks(path, tensors, _METADATA)
        sizes = {name: tensor.nbytes for name, tensor in tensors.items()}
        return WrittenFile(file, sizes, digest)

    def _read(self, names: list[str], dtype: torch.dtype) -> dict[str, Tensor]:
        """Trained weights, with their adapters merged if they have some."""
        dtypes = {name: torch.float32 if name.endswith(_KEPT_IN_FP32) else dtype for name in names}
        # torch rounds an fp32 shard to the data type of the tensor that it is read into.
        content = {
            name: torch.empty(self._shapes[name], dtype=dtypes[name]) for name in names if name in self._saved
        }
        self._load(content)
        return {
            name: content[name] if name in content else self._merged(name).to(dtypes[name]) for name in names
        }

    def _merged(self, name: str) -> Tensor:
        """A weight of a layer with an adapter, in fp32."""
        assert self._spec.lora is not None, "a weight of a layer with an adapter"
        weight = self._in_fp32(base_layer_name(name))
        # A bias of such a layer has no adapter.
        if name.endswith(".weight"):
            weight += delta_weight(name, self._spec.lora, self._in_fp32)
        return weight

    def _in_fp32(self, name: str) -> Tensor:
        content = {name: torch.empty(self._saved[name], dtype=torch.float32)}
        self._load(content)
        return content[name]

    def _load(self, content: dict[str, Tensor]) -> None:
        if content:
            named = {f"model.{name}": value for name, value in content.items()}
            load(named, storage_reader=self._reader, no_dist=True)


def _meta_model(variant: Variant, trust_remote_code: bool) -> "tuple[PreTrainedModel, torch.dtype | None]":
    from transformers import AutoConfig, AutoModelForCausalLM

    source, revision = loadable(variant.source, variant.revision, weights=False)
    config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
    is_quantized = getattr(config, "quantization_config", None)
    dtype = config.dtype if isinstance(config.dtype, torch.dtype) and not is_quantized else None
    vars(config).pop("quantization_config", None)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    model.tie_weights()
    return model, dtype


def _untied_state(model: "PreTrainedModel") -> dict[str, Tensor]:
    """The model's state without the second name of a tied weight."""
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    return {name: value for name, value in model.state_dict().items() if name not in tied}


def _saved_shapes(saved: Mapping[str, object]) -> dict[str, torch.Size]:
    """Shapes of the weights in a checkpoint by their name in the model."""
    return {
        name.removeprefix("model."): entry.size
        for name, entry in saved.items()
        if name.startswith("model.") and isinstance(entry, TensorStorageMetadata)
    }


def _to_original_format(model: "PreTrainedModel", tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under their original names; experts that are trained as one tensor are split again."""
    from transformers.core_model_loading import revert_weight_conversion

    original = revert_weight_conversion(model, tensors)
    if original is not tensors:
        # The whole expert tensors go when their slices are copied.
        tensors.clear()
    # safetensors refuses tensors that share storage, as the slices of one expert tensor do.
    return {name: _with_own_storage(tensor) for name, tensor in original.items()}


def _with_own_storage(tensor: Tensor) -> Tensor:
    plain = tensor.contiguous()
    return plain.clone() if plain.untyped_storage().nbytes() != plain.nbytes else plain
