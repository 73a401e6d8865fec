"""Completions and verdicts of a run in columns that are small: their keys, and where each row lies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from upath import UPath

from safe_r1.errors import IntegrityError
from safe_r1.evaluation.sample_index import Ints, SampleIndex, find
from safe_r1.runs import STAGE_SCHEMAS, RunFolder, damage_error, read_table
from safe_r1.schema import TRIED_AGAIN

Bools = npt.NDArray[np.bool_]
PARTS = ("answer", "reasoning")
_SHOWN_IDS = 5


@dataclass(frozen=True)
class StageIndex:
    """The rows of a stage, one for each key, by sample, then by repeat, then by part.

    Attributes:
        position: Position of the sample, shape (rows,), as all others.
        repeat: The repeat.
        part: Of a verdict the position in ``PARTS``; 0 in other stages.
        is_final: False for a row that the next session tries again.
        shard, row: File of the row, and its row there.
        shards: The files.
        num_rows: Rows of each file, those that do not count included.
    """

    position: Ints
    repeat: Ints
    part: Ints
    is_final: Bools
    shard: Ints
    row: Ints
    shards: list[UPath]
    num_rows: list[int]

    def __len__(self) -> int:
        return len(self.position)

    def places(self) -> Ints:
        """Place of each row among the rows of all files one after the other."""
        starts = np.concatenate([[0], np.cumsum(self.num_rows)]).astype(np.int64)
        return starts[self.shard] + self.row


def index_completions(folder: RunFolder, samples: SampleIndex) -> StageIndex:
    """One completion for each key; a failed one only where there is no other.

    Raises:
        DamagedFileError: A file is damaged, or a completion belongs to no sample of the run.
    """
    return _index(folder, "completions", samples, "error", _has_no_error)


def index_finished(folder: RunFolder, samples: SampleIndex) -> StageIndex:
    """One finished answer for each key; a failed one only where there is no other.

    Raises:
        DamagedFileError: A file is damaged, or one belongs to no sample of the run.
    """
    return _index(folder, "finished", samples, "error", _has_no_error)


def index_verdicts(folder: RunFolder, samples: SampleIndex) -> StageIndex:
    """One verdict for each key; one that may be tried again only where there is no other.

    Raises:
        DamagedFileError: A file is damaged, or a verdict belongs to no sample of the run, or to no part of a
            completion.
    """
    retried = pa.array(sorted(TRIED_AGAIN), pa.string())
    return _index(folder, "verdicts", samples, "unscored_reason", lambda column: find(column, retried) < 0)


def _has_no_error(column: pa.ChunkedArray) -> Bools:
    return column.is_null().to_numpy()


def key_of(index: StageIndex, num_repeats: int) -> Ints:
    """One number for each row's sample and repeat.

    Raises:
        IntegrityError: A row is of a repeat that the run does not have.
    """
    # The number would be that of another sample's row.
    if (surplus := np.flatnonzero((index.repeat < 0) | (index.repeat >= num_repeats))).size:
        first = surplus[0]
        shard = index.shards[int(index.shard[first])]
        raise IntegrityError(
            f"{shard}: a row of repeat {index.repeat[first]}, counted from 0; expected {num_repeats} of each "
            "question"
        )
    return index.position * num_repeats + index.repeat


def _index(
    folder: RunFolder,
    stage: str,
    samples: SampleIndex,
    column: str,
    final: Callable[[pa.ChunkedArray], Bools],
) -> StageIndex:
    names = ["sample_id", "repeat", column] + (["part"] if stage == "verdicts" else [])
    shards = folder.shards(stage)
    schema = STAGE_SCHEMAS[stage]
    wanted = pa.schema([schema.field(name) for name in names])
    empty = wanted.empty_table()
    tables = [_light(read_table(shard, schema=wanted), column, final) for shard in shards]
    table = pa.concat_tables([_light(empty, column, final), *tables])
    num_rows = [len(each) for each in tables]
    shard = np.repeat(np.arange(len(shards)), num_rows)
    position = samples.positions(table.column("sample_id"))
    if (position < 0).any():
        foreign = table.column("sample_id").filter(pa.array(position < 0)).unique().to_pylist()
        raise damage_error(
            shards[shard[position < 0][0]],
            f"{stage} of samples that are not of this run: {', '.join(foreign[:_SHOWN_IDS])}",
        )
    repeat = table.column("repeat").to_numpy().astype(np.int64)
    part = (
        find(table.column("part"), pa.array(PARTS)) if stage == "verdicts" else np.zeros(len(table), np.int64)
    )
    if (part < 0).any():
        unknown = table.column("part").filter(pa.array(part < 0)).unique().to_pylist()
        raise damage_error(
            shards[shard[part < 0][0]], f"{stage} on {unknown[:_SHOWN_IDS]}; expected {' or '.join(PARTS)}"
        )
    is_final = table.column("is_final").to_numpy().astype(bool)
    row = np.concatenate([np.arange(0), *map(np.arange, num_rows)])
    # A batch whose worker died after writing is computed again, and its rows may be in two shards: the first
    # row of a key counts, and a final one before one that may be tried again.
    order = np.lexsort((row, shard, ~is_final, part, repeat, position))
    keys = np.stack([position[order], repeat[order], part[order]])
    is_first = np.ones(len(order), bool)
    is_first[1:] = (keys[:, 1:] != keys[:, :-1]).any(axis=0)
    chosen = order[is_first]
    return StageIndex(
        position[chosen],
        repeat[chosen],
        part[chosen],
        is_final[chosen],
        shard[chosen],
        row[chosen],
        shards,
        num_rows,
    )


def _light(table: pa.Table, column: str, final: Callable[[pa.ChunkedArray], Bools]) -> pa.Table:
    # At once, as an error is a text.
    flags = pa.array(final(table.column(column)), pa.bool_())
    return table.drop_columns([column]).append_column("is_final", flags)


def check_keys(stage: str, samples: SampleIndex, num_repeats: int, expected: Ints, found: Ints) -> None:
    """Check that every expected key was found, and no other; keys as of ``key_of``.

    Raises:
        IntegrityError: Keys are missing or foreign; the message names some.
    """
    for problem, keys in (
        ("missing", np.setdiff1d(expected, found)),
        ("not of this run", np.setdiff1d(found, expected)),
    ):
        if len(keys):
            shown = ", ".join(_name(samples, num_repeats, key) for key in keys[:_SHOWN_IDS].tolist())
            raise IntegrityError(
                f"{stage}: {len(keys)} of {len(expected)} rows are {problem}, e.g. {shown}; run the "
                "same command again"
            )


def join_verdicts(
    name: str, samples: SampleIndex, repeats: int, keys: Ints, verdicts: StageIndex, expected: Ints | None
) -> tuple[Ints, Ints]:
    """Places of the verdicts on each completion's answer and reasoning; -1 where the reasoning has none.

    Args:
        name: The run, for messages.
        samples: Its samples.
        repeats: Completions of each sample.
        keys: Keys of the completions.
        verdicts: The verdicts.
        expected: Keys of the completions whose reasoning has a verdict; None: whichever has one.

    Raises:
        IntegrityError: Verdicts are missing or surplus: any of them would change a rate without a trace.
    """
    of_verdicts = key_of(verdicts, repeats)
    is_answer = verdicts.part == 0
    check_keys(f"{name}: verdicts", samples, repeats, keys, of_verdicts[is_answer])
    found = of_verdicts[~is_answer]
    wanted = np.intersect1d(found, keys) if expected is None else expected
    check_keys(f"{name}: verdicts on the reasoning", samples, repeats, wanted, found)
    reasonings = np.full(len(keys), -1)
    reasonings[np.searchsorted(keys, found)] = np.flatnonzero(~is_answer)
    return np.flatnonzero(is_answer), reasonings


def _name(samples: SampleIndex, num_repeats: int, key: int) -> str:
    position, repeat = divmod(key, num_repeats)
    return f"{samples.ids[position].as_py()}/{repeat}"


def split_by_shard(index: StageIndex) -> Sequence[Ints]:
    """Positions in the index of the rows of each shard that has any, in the order of their rows."""
    order = np.lexsort((index.row, index.shard))
    bounds = np.flatnonzero(np.diff(index.shard[order])) + 1
    return [each for each in np.split(order, bounds) if len(each)]
