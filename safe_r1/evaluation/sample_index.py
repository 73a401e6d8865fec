"""The samples of a run in columns that are small: ids, kinds, and where each lies on the disk."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from safe_r1.errors import IntegrityError
from safe_r1.evaluation.results import sample_key
from safe_r1.metrics.strata import Population, Selection
from safe_r1.runs import Row, RunFolder, read_table
from safe_r1.schema import JUDGED_PARTS, SAMPLE_SCHEMA, Sample

Ints = npt.NDArray[np.int64]

_ROWS_PER_SHARD = 4096
# A column of a shard holds 2 GiB, and the hidden tests of one programming problem can be megabytes.
_CHARS_PER_SHARD = 16 << 20
_KEPT_METADATA = ("key_confidence", "has_history", "shuffle_options")


@dataclass(frozen=True)
class SampleIndex:
    """All samples of a run, without their texts.

    Attributes:
        ids: Their ids, in the order of the benchmark.
        kinds: Samples without id and texts, each once: all that counts and rates depend on.
        kind: For each sample the position of its kind, shape (samples,).
        question: For each sample the position of its question: its own, or that of the sample whose options
            it has reversed, shape (samples,).
        shards: Files of the samples.
        shard, row: File of each sample, and its row there, shape (samples,).
    """

    ids: pa.StringArray
    kinds: list[Sample]
    kind: Ints
    question: Ints
    shards: list[UPath]
    shard: Ints
    row: Ints

    def __len__(self) -> int:
        return len(self.ids)

    def positions(self, ids: pa.ChunkedArray) -> Ints:
        """Position of each id; -1 for an unknown one."""
        return find(ids, self.ids)

    def has_judged_reasoning(self, positions: Ints) -> npt.NDArray[np.bool_]:
        """Whether a judge labels the reasoning too, for the samples at some positions."""
        of_kind = ["reasoning" in JUDGED_PARTS.get(kind.task, ()) for kind in self.kinds]
        return np.asarray(of_kind, bool)[self.kind[positions]]

    def selection(self, population: Population) -> Selection:
        """The questions of the run among all of their benchmark."""
        is_original = self.question == np.arange(len(self))
        return Selection.of([self.kinds[kind] for kind in self.kind[is_original].tolist()], population)

    def sample(self, position: int) -> Sample:
        """A sample without its texts."""
        kind = self.kinds[self.kind[position]]
        metadata = kind.metadata
        if self.question[position] != position:
            metadata = metadata | {"swap_of": self.ids[int(self.question[position])].as_py()}
        return replace(kind, sample_id=self.ids[position].as_py(), metadata=metadata)


def find(texts: pa.ChunkedArray | pa.Array, among: pa.Array) -> Ints:
    """Position of each text among others; -1 where it is not there."""
    # Arrow makes its functions when it is imported, which type checkers do not see.
    found = pc.index_in(texts, value_set=among)  # pyright: ignore[reportAttributeAccessIssue]
    return found.fill_null(-1).to_numpy().astype(np.int64)


def store_samples(folder: RunFolder, samples: Sequence[Sample]) -> SampleIndex:
    """Write the samples that a folder does not hold yet, and index all of them."""
    num_known, known = _known_ids(folder)
    # All there, as in every later session: no set of a million ids is needed.
    is_complete = num_known == len(samples)
    builder = _Builder()
    for shard in _shards(_missing(samples, builder, known, is_complete)):
        folder.write_shard("samples", shard, SAMPLE_SCHEMA, sample_key)
    return builder.build(folder)


def index_samples(folder: RunFolder) -> SampleIndex:
    """Index the samples of a folder, in the order of its shards."""
    builder = _Builder()
    for shard in folder.shards("samples"):
        for row in read_table(shard, schema=SAMPLE_SCHEMA).to_pylist():
            builder.add(Sample.from_row(row))
    return builder.build(folder)


def _known_ids(folder: RunFolder) -> tuple[int, Iterable[str]]:
    columns = [read_table(shard, columns=["sample_id"]).column(0) for shard in folder.shards("samples")]
    return sum(map(len, columns)), (text for column in columns for text in column.to_pylist())


def _missing(
    samples: Sequence[Sample], builder: "_Builder", known: Iterable[str], is_complete: bool
) -> Iterator[Sample]:
    skipped = set() if is_complete else set(known)
    for sample in samples:
        builder.add(sample)
        if not is_complete and sample.sample_id not in skipped:
            yield sample


def _shards(samples: Iterable[Sample]) -> Iterator[list[Row]]:
    """The samples as rows, in shards of bounded number and size."""
    shard: list[Row] = []
    num_chars = 0
    for sample in samples:
        size = sum(map(len, sample.metadata.values())) + sum(len(turn["content"]) for turn in sample.messages)
        if shard and (len(shard) == _ROWS_PER_SHARD or num_chars + size > _CHARS_PER_SHARD):
            yield shard
            shard = []
            num_chars = 0
        shard.append(sample.to_row())
        num_chars += size
    if shard:
        yield shard


@dataclass
class _Builder:
    """Collects the small columns of samples that pass by."""

    ids: list[str] = field(default_factory=list)
    kinds: dict[tuple[object, ...], int] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    kind: list[int] = field(default_factory=list)
    originals: dict[int, str] = field(default_factory=dict)

    def add(self, sample: Sample) -> None:
        metadata = {name: sample.metadata[name] for name in _KEPT_METADATA if name in sample.metadata}
        # Of other tasks the answer is a text of the question's own.
        if sample.task == "mcq" and "answer" in sample.metadata:
            metadata["answer"] = sample.metadata["answer"]
        if "swap_of" in sample.metadata:
            self.originals[len(self.ids)] = sample.metadata["swap_of"]
            # Its presence makes the group; `SampleIndex.sample` fills the id in.
            metadata["swap_of"] = ""
        # Which options have the same text is all that matters of them, also between a question and its
        # reversed form: their ranks say it.
        ranks = {text: str(rank) for rank, text in enumerate(sorted(set(sample.options.values())))}
        options = {letter: ranks[text] for letter, text in sample.options.items()}
        key = (
            sample.benchmark,
            sample.task,
            sample.area,
            sample.category,
            *options.items(),
            *metadata.items(),
        )
        if key not in self.kinds:
            self.kinds[key] = len(self.samples)
            self.samples.append(
                replace(sample, sample_id="", messages=[], options=options, metadata=metadata)
            )
        self.ids.append(sample.sample_id)
        self.kind.append(self.kinds[key])

    def build(self, folder: RunFolder) -> SampleIndex:
        ids = pa.array(self.ids, pa.string())
        if len(ids.unique()) < len(ids):
            doubled = [text for text, number in Counter(self.ids).items() if number > 1]
            raise IntegrityError(
                f"{folder.path.name}: ids that several questions have: {len(doubled)}, e.g. "
                f"{', '.join(doubled[:5])}; expected one of its own for each"
            )
        kind = np.asarray(self.kind, np.int64)
        question = np.arange(len(ids))
        if self.originals:
            texts = pa.array(self.originals.values(), pa.string())
            found = find(texts, ids)
            lost = [text for text, place in zip(texts.to_pylist(), found, strict=True) if place < 0]
            if lost:
                raise IntegrityError(f"swapped questions without their original: {', '.join(lost[:5])}")
            question[list(self.originals)] = found
        self.ids.clear()
        shards = folder.shards("samples")
        columns = [read_table(shard, columns=["sample_id"]).column(0) for shard in shards]
        where = pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())
        places = find(ids, where.combine_chunks())
        if lost := int((places < 0).sum()):
            raise IntegrityError(f"{folder.path}: {lost} samples are not in its shards")
        lengths = np.asarray([len(column) for column in columns])
        starts = np.concatenate([[0], np.cumsum(lengths)])
        shard = np.searchsorted(starts, places, side="right") - 1
        return SampleIndex(ids, self.samples, kind, question, shards, shard, places - starts[shard])
