"""What a run has still to ask of its target."""

from collections.abc import Iterator

import numpy as np

from safe_r1.evaluation.plan import EvaluationPlan
from safe_r1.evaluation.sample_index import Ints, SampleIndex
from safe_r1.evaluation.stage_index import Bools, index_completions, key_of
from safe_r1.evaluation.units import SampleRequests
from safe_r1.schema import Task


def missing_requests(
    plan: EvaluationPlan, samples: dict[str, SampleIndex], rows_per_batch: int
) -> list[SampleRequests]:
    """What is still to be asked, the longest completions first, then repeat by repeat.

    Long ones first, as the last rows leave the engine idle; repeat by repeat, as a run that is interrupted
    has all questions in its first repeats then.
    """
    batches: list[tuple[tuple[int, int], SampleRequests]] = []
    for name, index in samples.items():
        benchmark = plan.benchmarks[name]
        done = index_completions(plan.folders[name], index)
        num_repeats = plan.repeats(name)
        # Failed rows are generated again: the machine that failed them may be gone.
        is_done = np.zeros(len(index) * num_repeats, bool)
        is_done[key_of(done, num_repeats)[done.is_final]] = True
        limits: dict[Task, int] = {kind.task: plan.max_tokens(name, kind.task) for kind in index.kinds}
        for group, repeat, shard, positions in _groups(index, is_done.reshape(-1, num_repeats).T):
            for start in range(0, len(positions), rows_per_batch):
                rows = index.row[positions[start : start + rows_per_batch]]
                seed = plan.config.generation.seed
                batch = SampleRequests(benchmark, index.shards[shard], rows, repeat, limits, seed)
                batches.append(((limits[group], benchmark.workload.completion_tokens), batch))
    # Stable, also in reverse: batches of the same length keep their order.
    return [batch for _, batch in sorted(batches, key=lambda each: each[0], reverse=True)]


def _groups(index: SampleIndex, is_done: Bools) -> Iterator[tuple[Task, int, int, Ints]]:
    """Missing samples by repeat, task and file, in the order of the benchmark."""
    tasks: list[Task] = list(dict.fromkeys(kind.task for kind in index.kinds))
    task = np.asarray([tasks.index(kind.task) for kind in index.kinds])[index.kind]
    for repeat, done in enumerate(is_done):
        missing = np.flatnonzero(~done)
        group = task[missing] * len(index.shards) + index.shard[missing]
        for number in np.unique(group):
            number_of_task, shard = divmod(int(number), len(index.shards))
            yield tasks[number_of_task], repeat, shard, missing[group == number]
