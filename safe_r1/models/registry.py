"""From anything that a user types to a model variant.

Nobody else branches on a model's name. A table entry (``safe_r1.models.table``) is complete; a folder is read
here; the files of a hub id are read when it is prepared (``safe_r1.models.checkpoints``).
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from safe_r1.errors import ConfigError, ModelError
from safe_r1.models.attention import read_attention, text_config
from safe_r1.models.endpoints import find_endpoint
from safe_r1.models.files import (
    CONFIG_FILE,
    ORIGIN_FILE,
    folder_weight_bytes,
    read_json,
    read_json_if_present,
    without_byte_order_marks,
)
from safe_r1.models.given import find_given
from safe_r1.models.layouts import Layout, States
from safe_r1.models.prompts import PromptFormat, Style, load_tokenizer, read_prompt_format
from safe_r1.models.size import engine_gpus, loaded_bytes_per_param, model_size
from safe_r1.models.table import DEFAULT_JUDGE, VARIANTS
from safe_r1.models.variant import Kind, Variant

__all__ = [
    "DEFAULT_JUDGE",
    "ORIGIN_FILE",
    "VARIANTS",
    "Kind",
    "Layout",
    "States",
    "Style",
    "Variant",
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
            (relative, absolute, or below ``~``), ``endpoint:URL#MODEL``, or a TOML file with an endpoint. A
            hub id that the table has is that entry. ``given`` and ``given:NAME`` are answers of the file.

    Raises:
        ConfigError: The name is none of them; the nearest names are offered.
        ModelError: The folder holds no readable model.
    """
    for read in (find_given, find_endpoint, _from_table, _from_folder, _from_hub_id):
        if variant := read(name):
            return variant
    near = difflib.get_close_matches(name, VARIANTS, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else "`safe-r1 models` lists the names."
    raise ConfigError(
        f"unknown variant {name!r}: {hint} A hub id (owner/model), an existing folder or "
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
    return _read_folder(folder.resolve()) if folder.is_dir() else None


def _from_hub_id(name: str) -> Variant | None:
    bare, revision = _split_revision(name)
    if not _HUB_ID.fullmatch(bare):
        return None
    # The hub finds an id whatever its case is.
    by_source = {entry.source.lower(): entry for entry in [DEFAULT_JUDGE, *VARIANTS.values()]}
    if entry := by_source.get(bare.lower()):
        return replace(entry, revision=revision or entry.revision)
    return Variant(
        name=bare.replace("/", "--"),
        source=bare,
        family="",
        kind="custom",
        params_b=0.0,
        prompt=None,
        revision=revision or "main",
        max_tokens_reasoning=8192,
        context_reasoning=16384,
    )


def _split_revision(name: str) -> tuple[str, str]:
    bare, at, revision = name.partition("@")
    if at and not revision and (bare in VARIANTS or _HUB_ID.fullmatch(bare)):
        raise ConfigError(f"variant {name!r}: no revision after the @; give a branch, a tag or a commit")
    return bare, revision


def _read_folder(folder: Path) -> Variant:
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
        return _as_stored(entry, config)
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
    return describe(variant, config, folder_weight_bytes(folder), prompt)


def _as_stored(variant: Variant, config: Mapping[str, object]) -> Variant:
    """The variant with the type of the weights in its folder: R1 is published in FP8 and exported in bf16."""
    loaded = loaded_bytes_per_param(config)
    if loaded == variant.bytes_per_param:
        return variant
    gpus = engine_gpus(read_attention(config), variant.weights_gib(loaded))
    return replace(variant, bytes_per_param=loaded, **asdict(gpus))


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


def describe(
    variant: Variant, config: Mapping[str, object], weight_bytes: int, prompt: PromptFormat | None
) -> Variant:
    """A model outside the table with all that its files say about it.

    Args:
        variant: The model, with its name and source.
        config: Its ``config.json``.
        weight_bytes: Bytes of its weights; 0 where unknown.
        prompt: How it is prompted; None where its tokenizer has not been read.
    """
    size = model_size(config, weight_bytes)
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
