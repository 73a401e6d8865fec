"""The rows of a run whose stages are finished: checked, joined and read in parts.

Counts, labels and lengths of all rows are in memory, their texts are not: workers reduce each shard to
columns that are small, and texts are read of the rows that a report shows.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
from upath import UPath

from safe_r1.evaluation.columns import (
    FINISHED_COLUMNS,
    CompletionColumns,
    CountTokens,
    finished_columns,
    light_completion,
    light_finished,
    light_verdict,
    verdict_columns,
)
from safe_r1.evaluation.sample_index import Ints, SampleIndex, index_samples
from safe_r1.evaluation.stage_index import (
    StageIndex,
    check_keys,
    index_completions,
    index_finished,
    index_verdicts,
    key_of,
)
from safe_r1.evaluation.units import read_samples
from safe_r1.evaluation.workers import Workers
from safe_r1.metrics.lengths import Lengths, summarize_lengths
from safe_r1.metrics.rows import ScoredRow, check_variants
from safe_r1.runs import Row, RunFolder, read_table
from safe_r1.schema import COMPLETION_SCHEMA, VERDICT_SCHEMA, Completion, Part, Sample, Verdict

_CHUNK = 4096
_MAX_TAGS = 5


@dataclass(frozen=True)
class Totals:
    """Sums over all completions of a run.

    Attributes:
        prompt_tokens, completion_tokens: Tokens.
        served_by: Completions by what an endpoint said it is.
        unknown_thinking: Completions by the tag with which they seem to begin to think, where it is not
            known; ``no tag`` for those without one.
    """

    prompt_tokens: int
    completion_tokens: int
    served_by: dict[str, int]
    unknown_thinking: dict[str, int]


@dataclass(frozen=True)
class RunRows:
    """All rows of a run, each key once.

    Attributes:
        folder: The run.
        samples: Its samples.
        num_repeats: Completions of each sample.
        completions, verdicts: Keys and places of the rows.
        answers, reasonings: For each completion the place of its verdict in ``verdicts``; -1 where the
            reasoning has none. Shape (completions,).
        completion_columns: Small columns of the completions, in the order of ``completions``.
        verdict_columns: Those of the verdicts.
        finished: For each completion its place in ``finished_columns``; -1 where the model was not asked to
            end it. Shape (completions,).
        finished_columns: Small columns of the finished answers.
    """

    folder: RunFolder
    samples: SampleIndex
    num_repeats: int
    completions: StageIndex
    verdicts: StageIndex
    answers: Ints
    reasonings: Ints
    completion_columns: pa.Table
    verdict_columns: pa.Table
    finished: Ints
    finished_columns: pa.Table

    @property
    def num_rows(self) -> int:
        """Number of completions."""
        return len(self.completions)

    @property
    def has_finished(self) -> bool:
        """Whether the model was asked to end any answer."""
        return len(self.finished_columns) > 0

    def chunks(self) -> Iterator[list[ScoredRow]]:
        """The rows without their texts, whole questions at a time, in the order of the questions."""
        order, starts = self._by_question()
        bounds = [0, *starts[np.searchsorted(starts, np.arange(_CHUNK, len(order), _CHUNK))], len(order)]
        for start, end in pairwise(bounds):
            if start < end:
                yield self._scored(order[start:end])

    def _by_question(self) -> tuple[Ints, Ints]:
        """Completions by question, sample and repeat; and where each question starts, and the end."""
        position = self.completions.position
        question = self.samples.question[position]
        order = np.lexsort((self.completions.repeat, position, question))
        starts = np.flatnonzero(np.diff(question[order], prepend=-1))
        return order, np.append(starts, len(order))

    def _scored(self, places: Ints) -> list[ScoredRow]:
        completions = self.completion_columns.take(places).to_pylist()
        answers = self.verdict_columns.take(self.answers[places]).to_pylist()
        reasonings = _taken(self.verdict_columns, self.reasonings[places])
        finished = _taken(self.finished_columns, self.finished[places])
        position = self.completions.position[places].tolist()
        repeat = self.completions.repeat[places].tolist()
        samples = {place: self.samples.sample(place) for place in set(position)}
        rows: list[ScoredRow] = []
        for number, (row, answer) in enumerate(zip(completions, answers, strict=True)):
            sample = samples[position[number]]
            completion = light_completion(sample.sample_id, repeat[number], row)
            thought, end = reasonings[number], finished[number]
            rows.append(
                ScoredRow(
                    sample,
                    completion,
                    light_verdict(completion, "answer", answer),
                    light_verdict(completion, "reasoning", thought) if thought else None,
                    light_finished(completion, end) if end else None,
                )
            )
        return rows

    def load(self, questions: Ints) -> tuple[list[Sample], list[Completion], list[Verdict]]:
        """All texts of some questions.

        Args:
            questions: Their numbers, in the order of ``chunks``.
        """
        order, starts = self._by_question()
        places = np.concatenate([order[:0], *(order[starts[each] : starts[each + 1]] for each in questions)])
        positions = np.unique(self.completions.position[places])
        shard_of = self.samples.shard[positions]
        samples: dict[int, Sample] = {}
        for number in np.unique(shard_of):
            mine = positions[shard_of == number]
            found = read_samples(self.samples.shards[number], self.samples.row[mine])
            samples |= zip(mine.tolist(), found, strict=True)
        reasonings = self.reasonings[places]
        of_verdicts = np.concatenate([self.answers[places], reasonings[reasonings >= 0]])
        return (
            [samples[place] for place in positions.tolist()],
            [Completion(**row) for row in _load(self.completions, np.sort(places), COMPLETION_SCHEMA)],
            [Verdict(**row) for row in _load(self.verdicts, np.sort(of_verdicts), VERDICT_SCHEMA)],
        )

    def judges(self) -> list[str]:
        """Names of what gave the verdicts: judges, keys, checks."""
        return self.verdict_columns.column("judge").drop_null().unique().to_pylist()

    def results_hash(self) -> str:
        """Hash over the hashes of all rows in order: equal for two runs exactly where all their rows are."""
        total = hashlib.sha256()
        # Without a table where there are none: earlier runs keep their hash.
        tables = [self.completion_columns, self.verdict_columns, *[self.finished_columns] * self.has_finished]
        for table in tables:
            total.update(len(table).to_bytes(8, "big"))
            for chunk in table.column("digest").chunks:
                total.update(b"".join(chunk.to_pylist()))
        return total.hexdigest()

    def totals(self) -> Totals:
        """Sums over all completions."""
        table = self.completion_columns
        served_by = Counter(table.column("served_by").drop_null().to_pylist())
        unknown_thinking = Counter(table.column("unknown_thinking").drop_null().to_pylist())
        return Totals(
            int(table.column("prompt_tokens").to_numpy().sum()),
            int(table.column("completion_tokens").to_numpy().sum()),
            dict(served_by),
            dict(unknown_thinking.most_common(_MAX_TAGS)),
        )

    def lengths(self) -> dict[str, Lengths]:
        """Lengths of completions in tokens by part: ``completion``, and ``reasoning`` where it is counted."""
        table = self.completion_columns
        has_one = ~table.column("failed").to_numpy() & table.column("blocked").is_null().to_numpy()
        whole = table.column("completion_tokens").to_numpy()[has_one]
        # An engine gives one token at least: without any, as of given answers, nobody has counted.
        whole = whole[whole > 0]
        reasoning = table.column("reasoning_tokens").drop_null().to_numpy()
        parts = {"completion": whole, "reasoning": reasoning}
        return {part: summarize_lengths(each) for part, each in parts.items() if len(each)}


def read_run(
    folder: RunFolder,
    samples: SampleIndex,
    workers: Workers,
    parts: Sequence[Part] | None,
    count_tokens: CountTokens | None,
    num_repeats: int | None = None,
    verdicts_of: RunFolder | None = None,
) -> RunRows:
    """Read a run whose stages are finished.

    Args:
        folder: The run.
        samples: Its samples.
        workers: Where shards are read.
        parts: Parts that the run judges; None: whatever has a verdict.
        count_tokens: Counts the tokens of reasonings; None where they are not counted.
        num_repeats: Completions of each sample; None: as many as there are.
        verdicts_of: Folder of the verdicts of a further judge; None: the run's own.

    Raises:
        IntegrityError: Completions or verdicts are missing or surplus, or of several variants.
    """
    completions = index_completions(folder, samples)
    verdicts = index_verdicts(verdicts_of or folder, samples)
    repeats = num_repeats or int(completions.repeat.max(initial=0)) + 1
    keys = key_of(completions, repeats)
    name = folder.path.name
    check_keys(f"{name}: completions", samples, repeats, np.arange(len(samples) * repeats), keys)
    columns = _columns(completions, workers, CompletionColumns(count_tokens))
    expected = keys
    if parts is not None:
        has_reasoning = columns.column("has_reasoning").to_numpy()
        is_judged = samples.has_judged_reasoning(completions.position) & ("reasoning" in parts)
        expected = keys[has_reasoning & is_judged]
    of_verdicts = key_of(verdicts, repeats)
    is_answer = verdicts.part == 0
    # Before any figure: a verdict that is missing would change a rate without a trace.
    check_keys(f"{name}: verdicts", samples, repeats, keys, of_verdicts[is_answer])
    found = of_verdicts[~is_answer]
    check_keys(
        f"{name}: verdicts on the reasoning",
        samples,
        repeats,
        expected if parts is not None else np.intersect1d(found, keys),
        found,
    )
    answers = np.flatnonzero(is_answer)
    reasonings = np.full(len(keys), -1)
    reasonings[np.searchsorted(keys, found)] = np.flatnonzero(~is_answer)
    scores = _columns(verdicts, workers, verdict_columns)
    finished, choices = _finished(folder, samples, repeats, keys, workers)
    # Of all rows together: two variants may lie in different parts of `RunRows.chunks`.
    check_variants(
        name for table in (columns, scores, choices) for name in table.column("variant").unique().to_pylist()
    )
    return RunRows(
        folder,
        samples,
        repeats,
        completions,
        verdicts,
        answers,
        reasonings,
        columns,
        scores,
        finished,
        choices,
    )


def _finished(
    folder: RunFolder, samples: SampleIndex, num_repeats: int, keys: Ints, workers: Workers
) -> tuple[Ints, pa.Table]:
    """For each completion the place of its finished answer, or -1; and the columns of these."""
    index = index_finished(folder, samples)
    of_finished = key_of(index, num_repeats)
    foreign = np.setdiff1d(of_finished, keys)
    check_keys(f"{folder.path.name}: finished answers", samples, num_repeats, foreign[:0], foreign)
    places = np.full(len(keys), -1)
    places[np.searchsorted(keys, of_finished)] = np.arange(len(of_finished))
    return places, _columns(index, workers, finished_columns)


def read_results_hash(folder: RunFolder) -> str:
    """Hash of the rows of a finished run as they are now, which ``run.json`` has of when it was published.

    Raises:
        IntegrityError: See ``read_run``.
    """
    # Without Ray, as all that is read of finished runs.
    return read_run(folder, index_samples(folder), Workers(0), parts=None, count_tokens=None).results_hash()


def _columns(index: StageIndex, workers: Workers, read: Callable[[UPath], pa.Table]) -> pa.Table:
    """Small columns of a stage, in the order of its index."""
    if not index.shards:
        return FINISHED_COLUMNS.empty_table()
    tables = dict(workers.map(read, index.shards, sum(index.num_rows)))
    table = pa.concat_tables([tables[number] for number in range(len(tables))])
    return table.take(index.places()).combine_chunks()


def _taken(table: pa.Table, places: Ints) -> list[Row | None]:
    """Rows of a table; None for each place that is -1."""
    rows = iter(table.take(places[places >= 0]).to_pylist())
    return [next(rows) if place >= 0 else None for place in places.tolist()]


def _load(index: StageIndex, places: Ints, schema: pa.Schema) -> list[Row]:
    """Whole rows of a stage, in the order of their places in its index."""
    rows: dict[int, Row] = {}
    for number in np.unique(index.shard[places]):
        mine = places[index.shard[places] == number]
        found = read_table(index.shards[number], schema=schema).take(pa.array(index.row[mine])).to_pylist()
        rows |= zip(mine.tolist(), found, strict=True)
    return [rows[place] for place in places.tolist()]
