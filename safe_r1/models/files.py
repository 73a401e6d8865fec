"""Files of a model folder: reading its JSON, the size of its weights, and the user's cache folder."""

import codecs
import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any

import platformdirs

from safe_r1.errors import ModelError, StorageError

ORIGIN_FILE = "safe_r1.json"
"""In a model folder that fine-tuning wrote: ``base`` names the variant that it was made from."""
CONFIG_FILE = "config.json"
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
"""Lists of a model's weight files, in the order in which loaders look for them."""
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
"""Kinds of weight files, in the order in which loaders look for them."""

MAX_HEADER = 100_000_000
"""Bytes of the longest header that the safetensors library reads."""

# safetensors' names of types.
_NUMBER_BYTES = {"F64": 8.0, "F32": 4.0, "F16": 2.0, "BF16": 2.0, "F8_E4M3": 1.0, "F8_E5M2": 1.0}
_TEXT_SUFFIXES = (".json", ".jinja")
# The largest tokenizers have some 30 MB.
_MAX_TEXT_BYTES = 512 << 20
_MAX_WEIGHT_BYTES = 1 << 60
SMALL_SUFFIXES = (".json", ".jinja", ".model", ".txt", ".tiktoken", ".py")
"""Kinds of files with a model's settings, tokenizer, templates and code."""
TEMPLATE_FOLDER = "additional_chat_templates"
"""The folder in which transformers saves named templates."""


def cache_folder() -> Path:
    """Where converted models and cached judgements live: ``SAFE_R1_CACHE``, else the user's cache folder."""
    return Path(os.environ.get("SAFE_R1_CACHE") or platformdirs.user_cache_dir("safe_r1"))


def make_cache(folder: Path) -> Path:
    """Create a folder of the cache.

    Raises:
        StorageError: It cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cache {folder}: cannot be created ({error.strerror or error}); set SAFE_R1_CACHE to a folder "
            "that can be written"
        ) from None
    return folder


def check_files(folder: Path) -> None:
    """Check that loaders can read the files of a model folder to their end.

    Raises:
        ModelError: One is a pipe, a socket or a device, or a file of settings is too large; or the folder
            cannot be listed.
    """
    try:
        found = [*folder.iterdir(), *(folder / TEMPLATE_FOLDER).glob("*")]
        modes = {file: file.stat() for file in found if file.exists()}
    except OSError as error:
        raise ModelError(f"{folder}: cannot be read ({error.strerror or error})") from None
    for file, stat in modes.items():
        if not (S_ISREG(stat.st_mode) or S_ISDIR(stat.st_mode)):
            raise ModelError(f"{file}: neither a file nor a folder; remove it from the model's folder")
        if file.suffix.lower() in _TEXT_SUFFIXES and stat.st_size > _MAX_TEXT_BYTES:
            raise ModelError(
                f"{file}: {stat.st_size:,} bytes; expected at most {_MAX_TEXT_BYTES:,} of such a file"
            )


def read_json(path: Path) -> dict[str, object]:
    """A JSON file of a model, with or without a byte order mark.

    Raises:
        ModelError: The file is missing or damaged, or holds no JSON object.
    """
    try:
        # A pipe would be waited for.
        if path.exists() and not path.is_file():
            raise ModelError(f"{path}: no file; expected a folder saved by transformers")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except RecursionError:
        raise ModelError(f"{path}: nested too deep; expected a folder saved by transformers") from None
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path}: not a readable model file ({error}); expected a folder saved by transformers"
        ) from None
    if not isinstance(content, dict):
        raise ModelError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def read_json_if_present(path: Path) -> dict[str, object]:
    """Like ``read_json``; empty where there is no such file."""
    return read_json(path) if path.is_file() else {}


def weight_bytes(index: Mapping[str, object], sizes: Mapping[str, int]) -> int:
    """Bytes of a model's weights: ``metadata.total_size`` of its index, else the sizes of its weight files.

    Args:
        index: Content of one of ``INDEX_FILES``, or empty.
        sizes: Size in bytes of each file at the top level of the folder, by name.

    Returns:
        0 where neither says anything.
    """
    metadata = index.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, Mapping) else None
    if isinstance(total, int | float) and 0 < total < _MAX_WEIGHT_BYTES:
        return int(total)
    return sum(sizes[name] for name in weight_files(sizes))


def weight_files(names: Collection[str]) -> list[str]:
    """The files of a model's weights, of the one kind that loaders choose.

    Args:
        names: All files at the top level of the folder.
    """
    for suffix in WEIGHT_SUFFIXES:
        found = [name for name in names if Path(name).suffix.lower() == suffix]
        # Some repositories hold the weights twice, the second time under names such as consolidated.*.
        usual = [name for name in found if name.startswith(("model", "pytorch_model"))]
        if chosen := usual or found:
            return chosen
    return []


def folder_weight_bytes(folder: Path, sizes: Mapping[str, int] | None = None) -> int:
    """Bytes of the weights in a model folder; 0 where it holds none.

    Args:
        folder: The folder.
        sizes: Size in bytes of each file of the model, where the folder does not hold all of them.

    Raises:
        ModelError: The index of its weights is damaged.
    """
    index = next((folder / name for name in INDEX_FILES if (folder / name).is_file()), None)
    if sizes is None:
        sizes = {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}
    return weight_bytes(read_json(index) if index else {}, sizes)


def bytes_per_number(folder: Path) -> float | None:
    """Bytes of a number in a model folder's weights, by the header of its largest safetensors file.

    Returns:
        That of most of its bytes: routers and norms may be stored more exactly than the rest. None where
        there is no such file, or its weights are of no floating-point type, as quantized ones.
    """
    files = [file for file in folder.glob("*.safetensors") if file.is_file()]
    if not files:
        return None
    header = read_safetensors_header(max(files, key=lambda file: (file.stat().st_size, file.name)))
    sizes: Counter[str] = Counter()
    for tensor in (header or {}).values():
        start, end = tensor["data_offsets"]
        sizes[str(tensor.get("dtype"))] += end - start
    return _NUMBER_BYTES.get(max(sizes, key=sizes.__getitem__)) if sizes else None


def read_safetensors_header(file: Path) -> dict[str, Mapping[str, Any]] | None:
    """The tensors of a safetensors file by name, from its header: its length in 8 bytes, then JSON.

    Returns:
        None where the file is no safetensors file, or ends before its last tensor does.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= min(size - 8, MAX_HEADER):
            return None
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            spans = [tensor["data_offsets"] for tensor in header.values()]
            is_whole = all(0 <= start <= end <= size - 8 - length for start, end in spans)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
    return header if is_whole else None


def without_byte_order_marks(folder: Path) -> Path:
    """The folder, or where a JSON or Jinja file in it begins with a byte order mark, a view of it without.

    transformers and vLLM refuse such a JSON file, and a mark before a template becomes a part of every
    prompt. The view lies in the cache folder: copies of the files concerned, and links to all others.
    """
    files = sorted(folder.iterdir())
    marked = {
        file.name: file.read_bytes().removeprefix(codecs.BOM_UTF8)
        for file in files
        if file.suffix in _TEXT_SUFFIXES and file.is_file() and _begins_with_mark(file)
    }
    if not marked:
        return folder
    names = [file.name for file in files]
    digest = hashlib.sha256(repr((str(folder.resolve()), names, marked)).encode()).hexdigest()
    view = cache_folder() / "utf8" / digest[:16] / folder.resolve().name
    if view.is_dir():
        return view
    make_cache(view.parent)
    with tempfile.TemporaryDirectory(dir=view.parent) as temporary:
        staged = Path(temporary) / view.name
        staged.mkdir()
        for name in names:
            if name in marked:
                (staged / name).write_bytes(marked[name])
            else:
                (staged / name).symlink_to((folder / name).resolve())
        move_into_place(staged, view)
    return view


def _begins_with_mark(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8


def move_into_place(staged: Path, folder: Path) -> None:
    """Rename a finished folder to its name in the cache, unless another process was faster."""
    if not (folder / CONFIG_FILE).is_file():
        shutil.rmtree(folder, ignore_errors=True)
        staged.rename(folder)
