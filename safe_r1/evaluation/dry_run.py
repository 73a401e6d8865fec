"""Shows what an evaluation would do: settings, prompts and resources; starts and writes nothing."""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence

from safe_r1.attacks.adaptive.methods import most_target_calls
from safe_r1.benchmarks import Benchmark
from safe_r1.config import EvaluateConfig
from safe_r1.evaluation.plan import EvaluationPlan, make_plan
from safe_r1.evaluation.target import Target
from safe_r1.evaluation.targets import make_target
from safe_r1.evaluation.units import request_of
from safe_r1.inference.engine import describe_capacity
from safe_r1.inference.requests import Request
from safe_r1.runs import read_table
from safe_r1.schema import Sample
from safe_r1.settings import hide_credentials, public_settings


def dry_run(config: EvaluateConfig, show: Callable[[str], None]) -> None:
    """Show the resolved settings, prompts as they are sent, and the resources.

    Raises:
        SafeR1Error: See ``make_plan``.
    """
    plan = make_plan(config)
    target = make_target(plan)
    show(json.dumps(public_settings(config), ensure_ascii=False, indent=1))
    for name, samples in plan.samples.items():
        if search := plan.searches.get(name):
            most = most_target_calls(search)
            show(f"--- {name}: at most {most} calls of the model a question, by the attack {search.method}")
        else:
            _show_prompts(plan, target, plan.benchmarks[name], samples, show)
        folder = plan.folders[name]
        state = "complete" if folder.is_complete else "to do"
        show(f"--- {name}: {len(samples)} questions × {plan.repeats(name)} repeats → {folder.path} ({state})")
        for line in plan.benchmarks[name].explain():
            show(f"    {line}")
    judges = [plan.judge.label, *map(hide_credentials, config.further_judges)] if plan.judge else []
    judge = ", ".join(judges) or "none needed"
    missing = (row for name in plan.samples for row in _missing(plan, name))
    show(f"--- resources: {target.resources(missing)}; judge: {judge}")
    for line in target.capacity():
        show(f"    engine {line}")
    if plan.judge and plan.judge.model:
        for line in describe_capacity(plan.judge.model, config.judge.engine):
            show(f"    judge's engine {line}")


def _missing(plan: EvaluationPlan, name: str) -> Iterator[tuple[Request, int]]:
    """What a run would ask of one benchmark, and how long completions of it are in the mean."""
    folder = plan.folders[name]
    if folder.is_complete:
        return
    columns = ["sample_id", "repeat", "error"]
    shards = (read_table(shard, columns=columns).to_pylist() for shard in folder.shards("completions"))
    done = {(row["sample_id"], row["repeat"]) for rows in shards for row in rows if row["error"] is None}
    length = plan.benchmarks[name].workload.completion_tokens
    search = plan.searches.get(name)
    calls = most_target_calls(search) if search else 1
    for repeat in range(plan.repeats(name)):
        for sample in plan.samples[name]:
            if (sample.sample_id, repeat) not in done:
                seed = plan.config.generation.seed
                max_tokens = plan.max_tokens(name, sample.task)
                request = request_of(plan.benchmarks[name], sample, repeat, max_tokens, seed)
                yield from itertools.repeat((request, length), calls)


def _show_prompts(
    plan: EvaluationPlan,
    target: Target,
    benchmark: Benchmark,
    samples: Sequence[Sample],
    show: Callable[[str], None],
) -> None:
    """Show the first, the middle and the last prompt of a benchmark as the model gets them."""
    # A benchmark's tasks follow each other, so these three mostly show each form of prompt.
    picks = [samples[0], samples[len(samples) // 2], samples[-1]]
    for sample in {sample.sample_id: sample for sample in picks}.values():
        text, length = target.show_prompt(benchmark.as_asked(sample, 0).messages)
        max_tokens = plan.max_tokens(sample.benchmark, sample.task)
        show(f"--- {sample.sample_id}: {length}, at most {max_tokens} more\n{text}")
