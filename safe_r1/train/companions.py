"""The other files of an exported model: which are taken over from the original, and what is changed in them.

An exported folder has to load and to stop anywhere: its end token is the one that the model was trained to
write, its configuration names no code that is not there, and nothing of the original's folder comes along
that is no part of a model.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from safe_r1.errors import ModelError
from safe_r1.models.prompts import end_of_turn, load_tokenizer
from safe_r1.models.registry import Variant

COMPANIONS = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "*.tiktoken",
    "chat_template.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
    "preprocessor_config.json",
    "processor_config.json",
    "LICENSE*",
    "LICENCE*",
    "NOTICE*",
)
"""Files of a model besides its weights and its configuration, as patterns; all else stays behind."""
CONFIG_FILE = "config.json"
_GENERATION_FILE = "generation_config.json"
_TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json")
_CODE = "*.py"
# Names of safetensors for data types that training and engines take; what is quantized becomes bf16.
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

Files = dict[str, bytes]
"""Content of files by their name in the folder."""


def patterns(trust_remote_code: bool) -> list[str]:
    """Patterns of the files to download of a model on the hub, besides its weights."""
    return [CONFIG_FILE, *COMPANIONS, *([_CODE] if trust_remote_code else [])]


def original_dtype(folder: Path, configured: torch.dtype | None) -> torch.dtype:
    """Data type of a model's weights: as they are stored, else as the configuration says, else bf16."""
    for file in sorted(folder.glob("model*.safetensors")):
        sizes: Counter[str] = Counter()
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - not a dict
                part = weights.get_slice(name)
                sizes[part.get_dtype()] += math.prod(part.get_shape())
        # Most of the numbers: routers and norms may be stored more exactly than the rest.
        return _DTYPES.get(max(sizes, key=lambda name: sizes[name]), torch.bfloat16)
    return configured if configured and configured in _DTYPES.values() else torch.bfloat16


def companion_files(
    original: Path, variant: Variant, dtype: torch.dtype, trust_remote_code: bool = False
) -> Files:
    """All files of an exported model but its weights and its card.

    Args:
        original: Folder with the original's files.
        variant: The model that was trained.
        dtype: Data type of the exported weights.
        trust_remote_code: The model's own code is used, so that it comes along; without it the model was
            loaded by transformers' own classes, and the references to its code go.

    Raises:
        ModelError: Code that the configuration names is missing.
    """
    files = {
        str(path.relative_to(original)): path.read_bytes()
        for pattern in COMPANIONS
        for path in original.glob(pattern)
        if path.is_file()
    }
    config: dict[str, Any] = json.loads((original / CONFIG_FILE).read_text(encoding="utf-8"))
    config.pop("quantization_config", None)
    config.pop("torch_dtype", None)  # the older name of `dtype`
    config["dtype"] = str(dtype).removeprefix("torch.")
    if config.get("num_nextn_predict_layers"):
        # Multi-token-prediction layers are not trained and not exported: loaders must not expect them.
        config["num_nextn_predict_layers"] = 0
    files[CONFIG_FILE] = _dump(config)
    files |= _code(original, files, trust_remote_code)
    files |= _with_end_token(files, variant, trust_remote_code)
    return files


def _code(original: Path, files: Mapping[str, bytes], trust_remote_code: bool) -> Files:
    """The model's own code with the files that name it, or these files without the references to it."""
    code = {path.name: path.read_bytes() for path in original.glob(_CODE)} if trust_remote_code else {}
    changed: Files = {}
    for name in (CONFIG_FILE, "tokenizer_config.json", "processor_config.json", "preprocessor_config.json"):
        settings = json.loads(files[name]) if name in files else {}
        references = settings.get("auto_map")
        if not references:
            continue
        if not trust_remote_code:
            del settings["auto_map"]
            changed[name] = _dump(settings)
            continue
        # The whole folder's, as these files import each other.
        changed |= code
        missing = sorted({f"{module}.py" for module in _modules(references)} - set(code))
        if missing:
            raise ModelError(
                f"{original}: {name} names code that is not there ({missing[0]}); restore the file, or "
                "remove auto_map where transformers knows the architecture"
            )
    return changed


def _modules(references: Mapping[str, object]) -> Iterable[str]:
    """Modules in the model's folder that an ``auto_map`` names; those of another repository are fetched."""
    for value in references.values():
        for name in value if isinstance(value, list) else [value]:
            if isinstance(name, str) and "--" not in name:
                yield name.partition(".")[0]


def _with_end_token(files: Mapping[str, bytes], variant: Variant, trust_remote_code: bool) -> Files:
    """The files that say where a model stops, changed where they leave out the end of its turns.

    A base model with a chat template stops at the end of a document. Trained on dialogues it ends its turns
    as the template does, and an engine that does not know that token would let it write the user's next turn.
    """
    if variant.prompt_format.style in ("plain", "raw"):
        return {}
    tokenizer = load_tokenizer(variant.source, variant.revision, trust_remote_code)
    end_text = end_of_turn(variant.prompt_format.style, tokenizer)
    ids = tokenizer(end_text, add_special_tokens=False)["input_ids"]
    added = (token for token in ids if token in tokenizer.added_tokens_decoder)
    end = next((token for token in ids if token == tokenizer.eos_token_id), None) or next(added, None)
    if end is None:
        # The template ends a turn in plain words, at which a stop string is needed anyway.
        return {}
    changed: Files = {}
    for name in (_GENERATION_FILE, CONFIG_FILE):
        settings = json.loads(files.get(name, b"{}"))
        known = settings.get("eos_token_id")
        known = known if isinstance(known, list) else [] if known is None else [known]
        if end not in known:
            changed[name] = _dump(settings | {"eos_token_id": [end, *known] if known else end})
    # A template that writes the tokenizer's end token elsewhere would give other prompts with another one.
    if tokenizer.eos_token_id != end and "eos_token" not in str(tokenizer.chat_template):
        text = tokenizer.added_tokens_decoder[end].content
        for name in _TOKENIZER_FILES:
            if name in files:
                changed[name] = _dump(json.loads(files[name]) | {"eos_token": text})
    return changed


def _dump(settings: Mapping[str, object]) -> bytes:
    return (json.dumps(settings, indent=1, ensure_ascii=False) + "\n").encode()
