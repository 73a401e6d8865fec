"""The files of prepared data and the Ray Data tasks that make them."""

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import cast

import pyarrow as pa
from upath import UPath

from safe_r1 import errors
from safe_r1.errors import SafeR1Error
from safe_r1.progress import Progress, ProgressCallback
from safe_r1.train.pack import PackShards
from safe_r1.train.token_shards import Counts, TokenizeShard, count_tokens, total

SPLITS = ("train", "validation")
# Shards packed together: enough documents for a tight fit, few enough for the memory of one task.
_SHARDS_PER_FILE = 4


@dataclass(frozen=True)
class OutputFile:
    """A file to make; picklable.

    Attributes:
        target: Its path.
        sources: The files of tokens whose documents it contains; for a file of tokens, the file itself.
        write: Writes it.
    """

    target: UPath
    sources: Sequence[UPath]
    write: Callable[[], None]


def plan_files(
    work: UPath, shards: Mapping[str, str], tokenize: TokenizeShard
) -> tuple[list[OutputFile], list[OutputFile]]:
    """The files of tokens, and the packed files made from them.

    A corpus is in random order, so packing a few shards at a time loses little compared with packing all.
    """
    paths = {name: work / "tokens" / name for name in shards}
    token_files = [
        OutputFile(path, [path], functools.partial(tokenize, path, name, shards[name]))
        for name, path in paths.items()
    ]
    packed_files: list[OutputFile] = []
    for split in SPLITS:
        # Validation reports a loss per kind, so its sequences must not mix kinds.
        pack = PackShards(tokenize.pack.seq_len, by_kind=split == "validation")
        split_paths = [path for name, path in paths.items() if name.split("/")[0] == split]
        for number, start in enumerate(range(0, len(split_paths), _SHARDS_PER_FILE)):
            target = work / split / f"part-{number:05d}.parquet"
            sources = split_paths[start : start + _SHARDS_PER_FILE]
            packed_files.append(OutputFile(target, sources, functools.partial(pack, target, sources)))
    return token_files, packed_files


@dataclass(frozen=True)
class _FileCounts:
    """Counts of the corpus rows behind one file, or a user error as its class and message."""

    rows: int = 0
    dropped: int = 0
    tokens: int = 0
    error_kind: str = ""
    error: str = ""


@dataclass(frozen=True)
class _MakeMissing:
    """A map function of Ray Data that makes the file of a row unless it exists.

    A user error is returned as a value: Ray would wrap an exception in its own type and log its traceback.
    """

    files: Sequence[OutputFile]

    def __call__(self, row: dict[str, int]) -> dict[str, object]:
        file = self.files[row["file"]]
        try:
            if not file.target.exists():
                file.write()
        except SafeR1Error as error:
            return asdict(_FileCounts(error_kind=type(error).__name__, error=str(error)))
        counts = sum(map(count_tokens, file.sources), Counts())
        dropped = total(counts, "rows_dropped")
        return asdict(_FileCounts(total(counts, "rows") + dropped, dropped, total(counts, "tokens")))


def make_files(stage: str, files: Sequence[OutputFile], num_rows: int, on_progress: ProgressCallback) -> None:
    """Make all missing files as tasks of Ray Data, in any order.

    Args:
        stage: Name of the stage.
        files: The files; they do not depend on each other.
        num_rows: Number of rows of the corpus.
        on_progress: Called after each file.

    Raises:
        SafeR1Error: The first error of a task.
    """
    import ray

    done = Counter[str]()
    on_progress(Progress(stage, 0, num_rows))
    # One block per file, so that each file is a task of its own.
    numbers = [{"file": number} for number in range(len(files))]
    dataset = ray.data.from_items(numbers, override_num_blocks=len(files)).map(_MakeMissing(files))  # pyright: ignore[reportArgumentType]
    # Without prefetching, progress is reported as soon as a file is made.
    for batch in dataset.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0):
        [row] = cast(pa.Table, batch).to_pylist()
        counts = _FileCounts(**row)
        if counts.error:
            raise getattr(errors, counts.error_kind)(counts.error)
        done.update(rows=counts.rows, dropped=counts.dropped, tokens=counts.tokens)
        on_progress(Progress(stage, done["rows"], num_rows, done["dropped"], done["tokens"]))
