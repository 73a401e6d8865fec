"""Preparation of a corpus for training: tokenized and packed sequences on disk.

``FOLDER/HASH/{train,validation}/*.parquet``, with ``data.json`` written last; HASH covers everything that
could change a token. ``FOLDER/HASH/tokens/`` accounts for every row of the corpus, including dropped rows
and why. Each file depends on the corpus alone, not on the cluster, and is written atomically, so an
interrupted job continues with the files that it finished.
"""

from dataclasses import dataclass
from typing import cast

from upath import UPath

from safe_r1.errors import ConfigError, DataError
from safe_r1.models.chat import load_tokenizer
from safe_r1.models.registry import Variant
from safe_r1.progress import ProgressCallback
from safe_r1.resources import connect
from safe_r1.runs import SUCCESS, RunFolder, sha256
from safe_r1.train.architecture import get_architecture
from safe_r1.train.config import PackConfig
from safe_r1.train.data_files import SPLITS, make_files, plan_files
from safe_r1.train.data_summary import DataSummary, explain_empty, summarize_split
from safe_r1.train.loading import check_vocabulary
from safe_r1.train.packed import DATA_FILE
from safe_r1.train.token_shards import TokenizeShard
from safe_r1.train.tokens import tokenizer_identity

# Increased whenever the same corpus would give other sequences.
_FORMAT = 2


@dataclass(frozen=True)
class PreparedData:
    """Packed sequences of a corpus.

    Attributes:
        folder: What ``PackedReader`` reads.
        content: Content of ``data.json``.
        was_complete: True if an earlier job had prepared it.
    """

    folder: UPath
    content: DataSummary
    was_complete: bool = False

    def num_sequences(self, split: str = "train") -> int:
        """Number of packed sequences of a split."""
        return self.content["splits"][split]["num_sequences"]


def prepare_data(
    corpus: str,
    folder: UPath,
    variant: Variant,
    pack: PackConfig,
    on_progress: ProgressCallback,
    trust_remote_code: bool = False,
) -> PreparedData:
    """Tokenize and pack a corpus; finished files are reused.

    Args:
        corpus: Folder or URI that ``build_corpus`` wrote.
        folder: Parent folder of prepared data, for all models and settings.
        variant: The model, with a source that can be loaded.
        pack: Length of the sequences, and what to do with longer documents.
        on_progress: Called with the progress of each stage.
        trust_remote_code: Run code from the model's repository.

    Raises:
        ConfigError: Sequences are longer than the model's context.
        DataError: The corpus is unfinished, changed, has another schema, or contains nothing to train on.
        IntegrityError: Rows or tokens were lost.
    """
    check_context(pack, variant)
    shards, num_rows = read_corpus(UPath(corpus))
    tokenizer = load_tokenizer(variant.source, variant.revision, trust_remote_code)
    check_vocabulary(variant.name, tokenizer, get_architecture(variant).vocab_size)
    identity = tokenizer_identity(tokenizer)
    fingerprint: dict[str, object] = {
        "format": _FORMAT,
        "corpus": shards,
        "style": variant.prompt_format.identity,
        "pack": pack.model_dump(),
        **identity,
    }
    work = RunFolder(UPath(folder) / sha256(fingerprint)[:12])
    # Written last, so that its presence means complete data.
    if content := work.read_json(DATA_FILE):
        return PreparedData(work.path, cast(DataSummary, content), was_complete=True)
    # Each file is a task of its own, so one logical CPU suffices; a larger Ray is used in full.
    connect(1)
    tokenize = TokenizeShard(corpus, variant, pack, trust_remote_code)
    token_files, packed_files = plan_files(work.path, shards, tokenize)
    for stage, files in (("tokenizing", token_files), ("packing", packed_files)):
        make_files(stage, files, sum(num_rows.values()), on_progress)
    splits = {
        split: summarize_split(packed_files, split, num_rows.get(split, 0), pack.seq_len) for split in SPLITS
    }
    if not splits["train"]["num_sequences"]:
        raise DataError(explain_empty(corpus, splits["train"], [file.target for file in token_files], pack))
    summary = DataSummary(fingerprint=fingerprint, splits=splits)
    work.write_json(DATA_FILE, summary)
    return PreparedData(work.path, summary)


def check_context(pack: PackConfig, variant: Variant) -> None:
    """Check that a packed sequence fits into the model's context.

    Raises:
        ConfigError: It does not.
    """
    context = get_architecture(variant).context
    if pack.seq_len > context:
        raise ConfigError(
            f"pack.seq_len {pack.seq_len:,} is beyond the context of {variant.name}, {context:,} tokens: "
            f"choose --set pack.seq_len={context} or less"
        )


def read_corpus(folder: UPath) -> tuple[dict[str, str], dict[str, int]]:
    """SHA-256 of each Parquet shard by its path in the corpus, and the number of rows of each split.

    Raises:
        DataError: The folder holds no corpus, or an unfinished one.
    """
    info = RunFolder(folder).read_json("corpus.json")
    if info is not None and not (folder / SUCCESS).exists():
        raise DataError(
            f"{folder}: the corpus is not finished (no {SUCCESS}): run the same build_corpus command again"
        )
    hashes = (info or {}).get("shards", {})
    shards = {name: hashes[name] for name in sorted(hashes) if name.split("/")[0] in SPLITS}
    if not shards:
        raise DataError(
            f"{folder}: not a corpus (no corpus.json that lists its shards): give the folder that "
            "build_corpus wrote"
        )
    return shards, (info or {})["splits"]
