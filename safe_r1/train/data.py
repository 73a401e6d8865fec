"""A corpus as packed sequences on disk, and which of them a worker computes at which step.

``FOLDER/HASH/{train,validation}/*.parquet`` with ``data.json`` written last; HASH stands for all that could
change a token. ``FOLDER/HASH/tokens/`` accounts for every row of the corpus, the dropped ones with their
reason. Every file depends on the corpus alone, not on the cluster, and appears at once, so a job that was
killed finishes with what it left.
"""

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from upath import UPath

from safe_r1 import errors
from safe_r1.errors import ConfigError, DataError, IntegrityError, SafeR1Error
from safe_r1.models.chat import load_tokenizer
from safe_r1.models.registry import Variant
from safe_r1.progress import Progress, ProgressCallback
from safe_r1.resources import connect
from safe_r1.runs import SUCCESS, RunFolder, sha256
from safe_r1.train.architecture import get_architecture
from safe_r1.train.config import PackConfig
from safe_r1.train.pack import FILLER_INDEX, INFO, Ints, Pack, count_packed
from safe_r1.train.tokens import Counts, Tokenize, count_tokens, length_range, select, tokenizer_identity

SPLITS = ("train", "validation")
# Changes whenever the same corpus would give other sequences.
_FORMAT = 1
# Shards packed together: enough documents to fit well, few enough for the memory of one task.
_BUCKET = 4
_CONSERVED = ("documents", "tokens", "label_tokens")


@dataclass(frozen=True)
class DataInfo:
    """Prepared data.

    Attributes:
        folder: What ``PackedReader`` reads.
        content: ``data.json``: the fingerprint, and the account of each split.
        was_complete: It had been prepared before.
    """

    folder: UPath
    content: dict[str, Any]
    was_complete: bool = False

    def num_sequences(self, split: str = "train") -> int:
        """Packed sequences of a split."""
        return self.content["splits"][split]["num_sequences"]


def prepare_data(
    corpus: str,
    folder: UPath,
    variant: Variant,
    pack: PackConfig,
    on_progress: ProgressCallback,
    trust_remote_code: bool = False,
) -> DataInfo:
    """Tokenize and pack a corpus, doing only what is missing.

    Args:
        corpus: Folder or URI that ``build_corpus`` wrote.
        folder: Where prepared data of any model and settings lie.
        variant: The model, with a source that can be loaded.
        pack: Length of the sequences, and what becomes of a longer row.
        on_progress: Called with the progress of each stage.
        trust_remote_code: Run code from the model's repository.

    Raises:
        ConfigError: A sequence would be longer than the model's context.
        DataError: The corpus is not finished, of another schema, changed, or gives nothing to train on.
        IntegrityError: Rows or tokens were lost.
    """
    check_context(pack, variant)
    shards, num_rows = read_corpus(UPath(corpus))
    identity = tokenizer_identity(load_tokenizer(variant.source, variant.revision, trust_remote_code))
    fingerprint = {
        "format": _FORMAT,
        "corpus": shards,
        "style": variant.style,
        "pack": pack.model_dump(),
        **identity,
    }
    work = RunFolder(UPath(folder) / sha256(fingerprint)[:12])
    if content := work.read_json(INFO):
        return DataInfo(work.path, content, was_complete=True)
    connect(1)
    tokens, packed = _make_jobs(work.path, shards, Tokenize(corpus, variant, pack, trust_remote_code))
    for stage, jobs in (("tokenizing", tokens), ("packing", packed)):
        _run(stage, jobs, sum(num_rows.values()), on_progress)
    splits = {split: _account(packed, split, num_rows.get(split, 0), pack.seq_len) for split in SPLITS}
    if not splits["train"]["num_sequences"]:
        raise DataError(_explain_empty(corpus, splits["train"], [job.target for job in tokens], pack))
    content = {"fingerprint": fingerprint, "splits": splits}
    work.write_json(INFO, content)
    return DataInfo(work.path, content)


def check_context(pack: PackConfig, variant: Variant) -> None:
    """A packed sequence fits into the model's context.

    Raises:
        ConfigError: It does not.
    """
    context = get_architecture(variant).context
    if pack.seq_len > context:
        raise ConfigError(
            f"pack.seq_len {pack.seq_len:,} is beyond the context of {variant.name}, {context:,} tokens: choose "
            f"--set pack.seq_len={context} or less"
        )


def read_corpus(folder: UPath) -> tuple[dict[str, str], dict[str, int]]:
    """The hash of each Parquet shard by its path in the corpus, and the rows of each split.

    Raises:
        DataError: There is no corpus, or it is not finished.
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
            f"{folder}: not a corpus (no corpus.json that names its shards): give the folder that build_corpus wrote"
        )
    return shards, (info or {})["splits"]


@dataclass(frozen=True)
class _Job:
    """One file to make.

    Attributes:
        target: The file.
        sources: The files of tokens whose rows it stands for.
        make: Writes it.
    """

    target: UPath
    sources: Sequence[UPath]
    make: Callable[[], None]


def _make_jobs(work: UPath, shards: Mapping[str, str], tokenize: Tokenize) -> tuple[list[_Job], list[_Job]]:
    """What tokenizes, and what packs: some shards at a time, since a corpus is in random order anyway."""
    paths = {name: work / "tokens" / name for name in shards}
    tokens = [
        _Job(path, [path], functools.partial(tokenize, path, name, shards[name]))
        for name, path in paths.items()
    ]
    packed = []
    for split in SPLITS:
        pack = Pack(tokenize.pack.seq_len, by_kind=split == "validation")
        parts = [path for name, path in paths.items() if name.split("/")[0] == split]
        for start in range(0, len(parts), _BUCKET):
            target, sources = (
                work / split / f"part-{start // _BUCKET:05d}.parquet",
                parts[start : start + _BUCKET],
            )
            packed.append(_Job(target, sources, functools.partial(pack, target, sources)))
    return tokens, packed


@dataclass(frozen=True)
class _Do:
    """Makes what is missing, as a step of Ray Data; an error that a user can repair comes back as a value."""

    jobs: Sequence[_Job]

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        job = self.jobs[item["job"]]
        try:
            if not job.target.exists():
                job.make()
        except SafeR1Error as error:
            return {"rows": 0, "dropped": 0, "tokens": 0, "kind": type(error).__name__, "error": str(error)}
        counts = sum(map(count_tokens, job.sources), Counts())
        kept, dropped, tokens = (_total(counts, what) for what in ("rows", "rows_dropped", "tokens"))
        return {"rows": kept + dropped, "dropped": dropped, "tokens": tokens, "kind": "", "error": ""}


def _run(stage: str, jobs: Sequence[_Job], total: int, on_progress: ProgressCallback) -> None:
    """Do all jobs, in any order.

    Raises:
        SafeR1Error: The first error of a job.
    """
    import ray

    done = Counter[str]()
    on_progress(Progress(stage, 0, total))
    dataset: Any = ray.data.from_items(
        [{"job": number} for number in range(len(jobs))], override_num_blocks=len(jobs)
    )
    for batch in dataset.map(_Do(jobs)).iter_batches(batch_size=1, prefetch_batches=0):
        if batch["error"][0]:
            raise getattr(errors, batch["kind"][0])(batch["error"][0])
        done.update({name: int(batch[name][0]) for name in ("rows", "dropped", "tokens")})
        on_progress(Progress(stage, done["rows"], total, done["dropped"], done["tokens"]))


def _total(counts: Counts, what: str) -> int:
    return sum(select(counts, what).values())


def _account(jobs: Sequence[_Job], split: str, num_rows: int, seq_len: int) -> dict[str, Any]:
    """What became of the rows of a split, as ``data.json`` tells it.

    Raises:
        IntegrityError: Rows read are not rows packed and dropped, or documents changed on the way.
    """
    jobs = [job for job in jobs if job.target.parent.name == split]
    counts = sum((count_tokens(source) for job in jobs for source in job.sources), Counts())
    files = [count_packed(job.target) for job in jobs]
    packed = sum(files, Counts())
    kept, dropped = _total(counts, "rows"), _total(counts, "rows_dropped")
    if num_rows != kept + dropped or any(select(counts, what) != select(packed, what) for what in _CONSERVED):
        found = "; ".join(
            f"{what} {_total(counts, what):,} → {_total(packed, what):,}" for what in _CONSERVED
        )
        raise IntegrityError(
            f"{split}: {num_rows:,} rows in the corpus, {kept:,} packed and {dropped:,} dropped; {found}: remove the folder "
            "and run again"
        )
    num_sequences, num_tokens = _total(packed, "sequences"), _total(packed, "tokens")
    return {
        "num_rows": num_rows,
        "num_rows_packed": kept,
        "num_rows_dropped": dropped,
        "num_documents": _total(packed, "documents"),
        "num_cut": _total(counts, "cut"),
        "num_sequences": num_sequences,
        "num_tokens": num_tokens,
        "num_label_tokens": _total(packed, "label_tokens"),
        "efficiency": round(num_tokens / (num_sequences * seq_len or 1), 4),
        **{
            what: select(counts, what)
            for what in ("rows", "rows_dropped", *_CONSERVED, "documents_dropped", "cut")
        },
        "shards": [[job.target.name, file["sequences", ""]] for job, file in zip(jobs, files, strict=True)],
    }


def _explain_empty(corpus: str, account: Mapping[str, Any], tokens: Sequence[UPath], pack: PackConfig) -> str:
    dropped = account["rows_dropped"]
    if dropped.keys() == {"no_assistant_turn"}:
        return f"{corpus}: none of the {account['num_rows']:,} rows has an assistant turn to learn; expected one after a user turn"
    if dropped.keys() <= {"too_long", "prompt_too_long"} and dropped:
        low, high = length_range(tokens)
        return (
            f"{corpus}: every row is longer than pack.seq_len={pack.seq_len:,}: {low:,} to {high:,} tokens; choose a longer "
            "sequence, or --set pack.too_long=cut where a prompt is shorter than that"
        )
    reasons = ", ".join(f"{num:,} {reason}" for reason, num in dropped.items())
    return f"{corpus}: nothing to train on; of {account['num_rows']:,} rows for training all are dropped ({reasons or 'none'})"


def num_steps(num_sequences: int, global_batch_size: int, epochs: int) -> int:
    """Optimizer steps that so many epochs make; what is left for less than a batch at the very end is not
    computed.

    Raises:
        ConfigError: The data is less than one batch.
    """
    if num_sequences < global_batch_size:
        raise ConfigError(
            f"the corpus packs into {num_sequences:,} sequences, fewer than one batch of {global_batch_size:,}: choose "
            f"--set global_batch_size={num_sequences} or less, or a shorter pack.seq_len"
        )
    return num_sequences * epochs // global_batch_size


def batch_indices(num_sequences: int, global_batch_size: int, seed: int, step: int) -> Ints:
    """The sequences of an optimizer step, whatever the number of workers and wherever the run was resumed.

    Every epoch has all sequences in an order of its own; its last incomplete batch is filled from the
    beginning of the next.

    Args:
        num_sequences: In the split; at least ``global_batch_size``.
        global_batch_size: Sequences of a step.
        seed: Of the order.
        step: Counted from 0 through all epochs.
    """
    epochs, places = np.divmod(
        np.arange(step * global_batch_size, (step + 1) * global_batch_size), num_sequences
    )
    return np.concatenate(
        [_order(num_sequences, seed, int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)]
    )


@functools.lru_cache(maxsize=2)
def _order(num_sequences: int, seed: int, epoch: int) -> Ints:
    # The raw numbers of a bit generator stay the same in every version of numpy; those of `permutation` may
    # not.
    return np.argsort(
        np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(num_sequences), kind="stable"
    )


def rank_indices(indices: Ints, rank: int, world: int, micro_batch_size: int) -> list[Ints]:
    """The part of a step that one data-parallel worker computes, in micro-batches.

    All workers have equally many of the same sizes, as collective operations want it. Where the workers do
    not divide the step, some get a filler for their last sequence; all together have each sequence once.

    Args:
        indices: The sequences of the step.
        rank: This worker.
        world: Workers that each compute sequences of their own.
        micro_batch_size: Sequences computed at once.
    """
    each = -(-len(indices) // world)
    slots = np.full(each * world, FILLER_INDEX)
    slots[: len(indices)] = indices
    mine = slots.reshape(each, world)[:, rank]
    return [mine[start : start + micro_batch_size] for start in range(0, each, micro_batch_size)]
