"""Export of a checkpoint to a model folder in the hub's layout, its weight files in many processes.

The index of the weights and the files beside them are written by one process when all weights are, the list
of all files' hashes last.
"""

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from upath import UPath

from safe_r1.errors import ModelError
from safe_r1.models.fetch import fetch
from safe_r1.models.hashes import HASHES_FILE, render_hashes
from safe_r1.models.variant import Variant
from safe_r1.progress import Progress, ProgressCallback
from safe_r1.runs import TEMPORARY_SUFFIX, write_bytes
from safe_r1.train.companions import companion_files, original_dtype, patterns
from safe_r1.train.export_weights import ExportSpec, WeightFiles, WrittenFile
from safe_r1.train.spread import RunAll, run_here

_INDEX_FILE = "model.safetensors.index.json"
# Bytes for each byte of a file: as it is read, and as experts that were one tensor are split. And those of
# the process, with torch and transformers.
_MEMORY_PER_BYTE = 2
_PROCESS_BYTES = 2**30


@dataclass(frozen=True)
class _WeightFile:
    """Name of a weight file, and of its weights in the model."""

    name: str
    weights: list[str]


def export(spec: ExportSpec, on_progress: ProgressCallback, run_all: RunAll = run_here) -> None:
    """Write the model folder.

    Args:
        spec: What to export, and where.
        on_progress: Called with the number of weight files written.
        run_all: Writes the weight files, in this process or in others.

    Raises:
        ModelError: The checkpoint lacks a weight of the model, or the original's files cannot be downloaded.
        StorageError: The folder cannot be written.
    """
    original = _original_files(spec.variant, spec.trust_remote_code)
    weights = WeightFiles(spec)
    weights.check()
    dtype = spec.dtype or original_dtype(original, weights.configured)
    groups = weights.split(dtype)
    files = [_WeightFile(_file_name(number, len(groups)), names) for number, names in enumerate(groups)]
    largest = max(weights.num_bytes(names, dtype) for names in groups)
    written: list[WrittenFile] = []
    on_progress(Progress("exporting", 0, len(files)))
    write = functools.partial(_write_file, spec, dtype)
    for file in run_all(write, files, _MEMORY_PER_BYTE * largest + _PROCESS_BYTES):
        written.append(file)
        on_progress(Progress("exporting", len(written), len(files)))
    # The configuration, without which no loader takes the folder, behind the index.
    others = {_INDEX_FILE: _index(written)} if len(written) > 1 else {}
    others |= _other_files(spec, original, dtype)
    for name, content in others.items():
        write_bytes(spec.output / name, content)
    hashes = {file.name: file.sha256 for file in written}
    hashes |= {name: hashlib.sha256(content).hexdigest() for name, content in others.items()}
    _remove_stale(spec.output, set(hashes))
    # Until now the list of an export that is replaced was there, by which the mixture of both is refused.
    write_bytes(spec.output / HASHES_FILE, render_hashes(hashes))


def _index(written: Sequence[WrittenFile]) -> bytes:
    """The index of the weights: which file has which."""
    files = {name: file.name for file in written for name in file.sizes}
    total_size = sum(sum(file.sizes.values()) for file in written)
    index = {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(files.items()))}
    return json.dumps(index, indent=1).encode()


def _write_file(spec: ExportSpec, dtype: torch.dtype, file: _WeightFile) -> WrittenFile:
    """Write one weight file, in any process."""
    return WeightFiles(spec).write(file.weights, dtype, file.name)


def _file_name(number: int, count: int) -> str:
    """The hub's name of a weight file, counted from 0 here and from 1 there."""
    return f"model-{number + 1:05d}-of-{count:05d}.safetensors" if count > 1 else "model.safetensors"


def _original_files(variant: Variant, trust_remote_code: bool) -> Path:
    """A local folder with the companion files of the original model."""
    if variant.is_local:
        return Path(variant.source)
    if variant.is_fetched:
        return fetch(variant.source, variant.revision, weights=False)
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


def _other_files(spec: ExportSpec, original: Path, dtype: torch.dtype) -> dict[str, bytes]:
    """The configuration, the tokenizer, the licence, the model card and the like, by name."""
    files = companion_files(original, spec.variant, dtype, spec.trust_remote_code)
    return files | {"README.md": spec.card.encode("utf-8", errors="replace"), **spec.others}


def _remove_stale(output: UPath, written: set[str]) -> None:
    """Remove weights and indexes of an earlier export, which loaders would prefer or mix in.

    Also what one has left of a file whose process was killed.
    """
    for path in output.iterdir():
        is_partial = ".safetensors." in path.name and path.name.endswith(TEMPORARY_SUFFIX)
        is_weights = path.name.endswith((".safetensors", ".safetensors.index.json"))
        if is_partial or (is_weights and path.name not in written):
            path.unlink()
