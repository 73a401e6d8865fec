"""From anything that a user types to a model variant.

Nobody else branches on a model's name. A table entry (``safe_r1.models.table``) is complete; a folder is read
here; the files of a hub id are read when it is prepared (``safe_r1.models.checkpoints``).
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from fsspec import available_protocols

from safe_r1.errors import ConfigError, ModelError
from safe_r1.models.attention import text_config
from safe_r1.models.endpoints import find_endpoint
from safe_r1.models.files import (
    CONFIG_FILE,
    ORIGIN_FILE,
    bytes_per_number,
    check_files,
    folder_weight_bytes,
    read_json,
    read_json_if_present,
    without_byte_order_marks,
)
from safe_r1.models.given import find_given
from safe_r1.models.layouts import Layout, States
from safe_r1.models.prompts import PromptFormat, Style, load_tokenizer, read_prompt_format
from safe_r1.models.remote import MODELSCOPE, is_uri
from safe_r1.models.size import ENGINE_BYTES_PER_PARAM, ModelSize, engine_gpus, model_size
from safe_r1.models.table import DEFAULT_JUDGE, VARIANTS
from safe_r1.models.variant import Kind, Variant
from safe_r1.records.location import HUB_PREFIX

__all__ = [
    "DEFAULT_JUDGE",
    "ORIGIN_FILE",
    "VARIANTS",
    "Kind",
    "Layout",
    "States",
    "Style",
    "Variant",
    "as_exported",
    "get_variant",
    "read_json",
]

# owner/model, as the hub spells it.
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_LONGEST_CONTEXT = 16384
_LONGEST_CONTEXT_REASONING = 36864
# Longest completions of a model that answers without thinking first, in tokens.
_CHAT_LIMITS = {"mcq": 256, "refusal": 1024, "reasoning": 2048}


def get_variant(name: str) -> Variant:
    """The variant of a table name, a hub id, a model folder or an endpoint.

    Args:
        name: A name of the table, ``NAME@REVISION``, ``owner/model``, ``owner/model@REVISION``, or a folder
            (relative, absolute, or below ``~``), a URI of one (``s3://…``), ``hf:`` or ``modelscope:`` and
            ``owner/model[@REVISION]``, ``endpoint:URL#MODEL``, or a TOML file with an endpoint. A hub id that
            the table has is that entry. ``given`` and ``given:NAME`` are answers of the file.

    Raises:
        ConfigError: The name is none of them; the nearest names are offered.
        ModelError: The folder holds no readable model.
    """
    for read in (find_given, find_endpoint, _from_table, _from_uri, _from_folder, _from_hub, _from_hub_id):
        if variant := read(name):
            return variant
    near = difflib.get_close_matches(name, VARIANTS, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else "`safe-r1 models` lists the names."
    raise ConfigError(
        f"unknown variant {name!r}: {hint} A hub id (owner/model), an existing folder, a URI (s3://…) or "
        "endpoint:URL#MODEL works too, and given:NAME for answers that the file of questions has."
    )


def _from_table(name: str) -> Variant | None:
    bare, revision = _split_revision(name)
    entries = {**VARIANTS, DEFAULT_JUDGE.name: DEFAULT_JUDGE}
    if entry := entries.get(bare):
        return replace(entry, revision=revision or entry.revision)
    return None


def _from_folder(name: str) -> Variant | None:
    folder = Path(name).expanduser()
    if folder.is_file():
        raise ConfigError(f"variant {name!r} is a file: give the folder that holds the model")
    return read_folder(folder.resolve()) if folder.is_dir() else None


def _from_uri(name: str) -> Variant | None:
    # A URL of the web is that of an endpoint, without the prefix that says so.
    if not is_uri(name) or name.startswith(("http://", "https://")):
        return None
    scheme, _, path = name.partition("://")
    path = path.rstrip("/")
    if scheme == "file":
        return _from_folder(path)
    if scheme not in available_protocols():
        raise ConfigError(
            f"variant {name!r}: unknown scheme {scheme}; expected s3://, gs:// or another of fsspec"
        )
    # Without a query, which may hold a key.
    label = re.sub(r"[^\w.-]+", "-", path.partition("?")[0].rpartition("/")[2]).strip(".-")
    if not label:
        raise ConfigError(
            f"variant {name!r}: expected the URI of a model's folder, such as s3://bucket/model"
        )
    return _unread(label, f"{scheme}://{path}", "")


def _from_hub(name: str) -> Variant | None:
    """The variant of an id with the hub that it is on."""
    prefix = next((each for each in (HUB_PREFIX, MODELSCOPE) if name.startswith(each)), None)
    if prefix is None:
        return None
    bare, revision = _split_revision(name.removeprefix(prefix))
    if not _HUB_ID.fullmatch(bare):
        raise ConfigError(f"variant {name!r}: expected {prefix}OWNER/MODEL or {prefix}OWNER/MODEL@REVISION")
    if prefix == HUB_PREFIX:
        return _of_hub_id(bare, revision)
    if entry := _entry_of(f"{MODELSCOPE}{bare}"):
        return replace(entry, revision=revision or entry.revision)
    return _unread(bare.replace("/", "--"), f"{MODELSCOPE}{bare}", revision or "master")


def _from_hub_id(name: str) -> Variant | None:
    bare, revision = _split_revision(name)
    if not _HUB_ID.fullmatch(bare):
        return None
    if entry := _entry_of(f"{MODELSCOPE}{bare}"):
        return replace(entry, revision=revision or entry.revision)
    return _of_hub_id(bare, revision)


def _of_hub_id(bare: str, revision: str) -> Variant:
    if entry := _entry_of(bare):
        return replace(entry, revision=revision or entry.revision)
    return _unread(bare.replace("/", "--"), bare, revision or "main")


def _entry_of(source: str) -> Variant | None:
    """The table's entry of a source; hubs find an id whatever its case is."""
    entries = {entry.source.lower(): entry for entry in [DEFAULT_JUDGE, *VARIANTS.values()]}
    return entries.get(source.lower())


def _unread(name: str, source: str, revision: str) -> Variant:
    """A model whose files are read when it is prepared."""
    return Variant(
        name=name,
        source=source,
        family="",
        kind="custom",
        params_b=0.0,
        prompt=None,
        revision=revision,
        max_tokens_reasoning=8192,
        context_reasoning=16384,
    )


def _split_revision(name: str) -> tuple[str, str]:
    bare, at, revision = name.partition("@")
    if at and not revision and (bare in VARIANTS or _HUB_ID.fullmatch(bare)):
        raise ConfigError(f"variant {name!r}: no revision after the @; give a branch, a tag or a commit")
    return bare, revision


def read_folder(folder: Path, sizes: Mapping[str, int] | None = None) -> Variant:
    """The variant of a model folder.

    Args:
        folder: The folder.
        sizes: Size in bytes of each file of the model, where the folder does not hold its weights.

    Raises:
        ModelError: It holds no readable model.
    """
    check_files(folder)
    config = read_json(folder / CONFIG_FILE)
    base = read_json_if_present(folder / ORIGIN_FILE).get("base")
    if isinstance(base, str) and base in VARIANTS:
        # Asked as its base is, so that the two can be compared.
        entry = replace(
            VARIANTS[base],
            name=folder.name,
            source=str(folder),
            kind="enhanced",
            base=base,
            revision="main",
        )
        return _as_stored(entry, config, folder, sizes)
    variant = Variant(
        name=folder.name,
        source=str(folder),
        family="",
        kind="custom",
        params_b=0.0,
        prompt=None,
    )
    try:
        prompt = folder_prompt_format(folder)
    except ModelError:
        # Such as a tokenizer with code of its own: prepare() reads it where that is allowed, or says why not.
        prompt = None
    return describe_folder(variant, folder, config, prompt, sizes)


def _as_stored(
    entry: Variant, config: Mapping[str, object], folder: Path, sizes: Mapping[str, int] | None
) -> Variant:
    """A model made from a variant, with the size and the GPUs of its own files.

    R1 is published in FP8 and exported in bf16; what was fine-tuned may be quantized or pruned later.

    Args:
        entry: As its base is, with the folder as its source.
        config: Its ``config.json``.
        folder: Where it is.
        sizes: See ``read_folder``.
    """
    size = model_size(config, folder_weight_bytes(folder, sizes), bytes_per_number(folder))
    attention = size.attention if size.attention.num_heads else entry.attention
    family = str(config.get("model_type") or entry.family)
    is_same = (family, attention) == (entry.family, entry.attention)
    stored = replace(entry, family=family, attention=attention, layout=entry.layout if is_same else None)
    if not size.params_b:
        return _with_engine(stored, entry.params_b, size.bytes_per_param)
    if is_same and size.bytes_per_param < ENGINE_BYTES_PER_PARAM:
        # Scales, and layers that are not quantized, take bytes of their own: they do not tell the parameters.
        return _with_engine(stored, entry.params_b, size.params_b * size.bytes_per_param / entry.params_b)
    return _with_engine(stored, size.params_b, size.bytes_per_param)


def as_exported(variant: Variant) -> Variant:
    """What fine-tuning makes of a variant, as an engine on GPU loads it: exports are not quantized."""
    if variant.bytes_per_param >= ENGINE_BYTES_PER_PARAM:
        return variant
    return _with_engine(variant, variant.params_b, ENGINE_BYTES_PER_PARAM)


def _with_engine(variant: Variant, params_b: float, bytes_per_param: float) -> Variant:
    """The variant with another size, and the GPUs of an engine that holds it."""
    sized = replace(variant, params_b=params_b, bytes_per_param=bytes_per_param)
    return replace(sized, **asdict(engine_gpus(sized.attention, sized.weights_gib())))


def folder_prompt_format(folder: Path, trust_remote_code: bool = False) -> PromptFormat:
    """How the model in a folder is prompted.

    Raises:
        ModelError: Its tokenizer cannot be loaded, or its template cannot be rendered.
    """
    tokenizer = load_tokenizer(str(without_byte_order_marks(folder)), "main", trust_remote_code)
    settings = read_json_if_present(folder / "generation_config.json")
    return read_prompt_format(tokenizer, engine_stop_ids(settings))


def engine_stop_ids(generation_config: Mapping[str, object]) -> list[int]:
    """The tokens at which an engine stops by a model's ``generation_config.json``."""
    ids = generation_config.get("eos_token_id")
    return [token for token in (ids if isinstance(ids, list) else [ids]) if isinstance(token, int)]


def describe_folder(
    variant: Variant,
    folder: Path,
    config: Mapping[str, object],
    prompt: PromptFormat | None,
    sizes: Mapping[str, int] | None = None,
) -> Variant:
    """Like ``describe``, for the model in a folder; ``sizes`` as for ``read_folder``."""
    size = model_size(config, folder_weight_bytes(folder, sizes), bytes_per_number(folder))
    return describe(variant, config, size, prompt)


def describe(
    variant: Variant, config: Mapping[str, object], size: ModelSize, prompt: PromptFormat | None
) -> Variant:
    """A model outside the table with all that its files say about it.

    Args:
        variant: The model, with its name and source.
        config: Its ``config.json``.
        size: Its size by ``model_size``.
        prompt: How it is prompted; None where its tokenizer has not been read.
    """
    longest = text_config(config).get("max_position_embeddings")
    longest = longest if isinstance(longest, int) and longest > 0 else _LONGEST_CONTEXT
    context = min(longest, _LONGEST_CONTEXT)
    described = replace(
        variant,
        family=str(config.get("model_type", "")),
        params_b=size.params_b,
        prompt=prompt,
        context=context,
        context_reasoning=min(longest, _LONGEST_CONTEXT_REASONING),
        bytes_per_param=size.bytes_per_param,
        attention=size.attention,
        **asdict(size.gpus),
    )
    if prompt is None or prompt.is_reasoning:
        return replace(described, max_tokens_reasoning=Variant.max_tokens_reasoning)
    limits = {task: min(limit, context // 2) for task, limit in _CHAT_LIMITS.items()}
    return replace(
        described,
        max_tokens_mcq=limits["mcq"],
        max_tokens_refusal=limits["refusal"],
        max_tokens_reasoning=limits["reasoning"],
    )
