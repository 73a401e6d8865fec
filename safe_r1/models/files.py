"""Files of a model folder: reading its JSON, the size of its weights, and the user's cache folder."""

import codecs
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import platformdirs

from safe_r1.errors import ModelError

ORIGIN_FILE = "safe_r1.json"
"""In a model folder that fine-tuning wrote: ``base`` names the variant that it was made from."""
CONFIG_FILE = "config.json"
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
"""Lists of a model's weight files, in the order in which loaders look for them."""
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
"""Kinds of weight files, in the order in which loaders look for them."""

_TEXT_SUFFIXES = (".json", ".jinja")


def cache_folder() -> Path:
    """Where converted models and cached judgements live: ``SAFE_R1_CACHE``, else the user's cache folder."""
    return Path(os.environ.get("SAFE_R1_CACHE") or platformdirs.user_cache_dir("safe_r1"))


def read_json(path: Path) -> dict[str, object]:
    """A JSON file of a model, with or without a byte order mark.

    Raises:
        ModelError: The file is missing or damaged, or holds no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
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
    if isinstance(total, int | float) and total > 0:
        return int(total)
    for suffix in WEIGHT_SUFFIXES:
        found = {name: size for name, size in sizes.items() if Path(name).suffix.lower() == suffix}
        # Some repositories hold the weights twice, the second time under names such as consolidated.*.
        usual = {name: size for name, size in found.items() if name.startswith(("model", "pytorch_model"))}
        if chosen := usual or found:
            return sum(chosen.values())
    return 0


def folder_weight_bytes(folder: Path) -> int:
    """Bytes of the weights in a model folder; 0 where it holds none.

    Raises:
        ModelError: The index of its weights is damaged.
    """
    index = next((folder / name for name in INDEX_FILES if (folder / name).is_file()), None)
    sizes = {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}
    return weight_bytes(read_json(index) if index else {}, sizes)


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
    view.parent.mkdir(parents=True, exist_ok=True)
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
