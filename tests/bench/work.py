"""The work that the sides of a generation benchmark have in common: model, rows, engine, sampling."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from safe_r1.benchmarks.chisafetybench import CHISAFETYBENCH, CHISAFETYBENCH_SAMPLE, ChiSafetyBench
from safe_r1.config import EvaluateConfig
from safe_r1.evaluation.plan import EvaluationPlan, make_plan
from safe_r1.inference.device import pick_device
from safe_r1.inference.engine import context_length, engine_arguments, engine_environment
from safe_r1.inference.rendering import Renderer
from safe_r1.inference.requests import Request, row_seed
from safe_r1.resources import Device
from safe_r1.schema import Sample
from safe_r1.settings import load_config
from tests.bench.engine_probe import write_plugin


@dataclass(frozen=True)
class Bench:
    """Work that all sides do.

    Attributes:
        plan: The job's own plan: model, samples, sampling.
        flags: The job's command line without ``--output``.
        device: Where the engine runs.
        folder: Temporary folder, kept for the logs.
        plugin: See ``write_plugin``.
        lengths: Maximum length of a completion by row key; rows that are missing have the plan's.
    """

    plan: EvaluationPlan
    flags: Sequence[str]
    device: Device
    folder: Path
    plugin: Path
    lengths: Mapping[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> list[tuple[Sample, int]]:
        """Every sample of every repeat, in the job's order."""
        samples = [sample for group in self.plan.samples.values() for sample in group]
        return [(sample, repeat) for repeat in range(self.plan.config.repeats or 1) for sample in samples]

    @property
    def engine(self) -> dict[str, object]:
        """Arguments of ``vllm.LLM``: the job's own."""
        arguments = engine_arguments(self.plan.variant, self.plan.engine, self.device)
        return {"model": self.plan.variant.source, **arguments}

    @property
    def engine_environment(self) -> dict[str, str]:
        """What the job adds to the environment of its engine, and what the other sides get for theirs."""
        return engine_environment(self.plan.variant, self.plan.engine, self.device)

    @cached_property
    def requests(self) -> list[Request]:
        """The rows as the job asks them; those of ``lengths`` alone where it has any."""
        plan = self.plan
        requests: list[Request] = []
        for sample, repeat in self.rows:
            key = row_key(sample, repeat)
            if self.lengths and key not in self.lengths:
                continue
            messages = list(plan.benchmarks[sample.benchmark].as_asked(sample, repeat).messages)
            seed = row_seed(plan.config.generation.seed, sample.sample_id, repeat)
            requests.append(
                Request(
                    key, messages, self.lengths.get(key, plan.max_tokens(sample.benchmark, sample.task)), seed
                )
            )
        return requests

    @cached_property
    def prompts(self) -> list[dict[str, object]]:
        """The rows as the engine takes them, rendered by the job's own step."""
        plan = self.plan
        context = context_length(plan.variant, plan.engine)
        render = Renderer(plan.variant, plan.sampling, context, plan.engine.trust_remote_code)
        return [
            {
                "key": row["key"],
                "prompt_token_ids": row["tokenized_prompt"],
                "sampling": row["sampling_params"],
                "prefix": row["prefix"],
            }
            for row in map(render, self.requests)
        ]

    @property
    def conditions(self) -> dict[str, object]:
        """What the sides are given in common, for the head of the results."""
        tokens = json.dumps(self.prompts, ensure_ascii=False).encode()
        lengths = [request.max_tokens for request in self.requests]
        return {
            "device": self.device,
            "engine": self.engine,
            "engine_environment": self.engine_environment,
            "sampling": asdict(self.plan.sampling),
            "max_tokens": {"least": min(lengths), "most": max(lengths), "sum": sum(lengths)},
            "num_prompts": len(self.prompts),
            "prompts_sha256": hashlib.sha256(tokens).hexdigest(),
        }


def row_key(sample: Sample, repeat: int) -> str:
    """Identity of a row on all sides."""
    return f"{sample.sample_id}\t{repeat}"


def choose_benchmark(data: Path | None) -> ChiSafetyBench:
    """CHiSafetyBench if its folder is given, else the embedded sample."""
    return CHISAFETYBENCH if data else CHISAFETYBENCH_SAMPLE


def make_bench(
    folder: Path,
    benchmark: ChiSafetyBench,
    variant: str,
    data: Path | None,
    limit: int | None,
    overrides: Sequence[str],
    repeats: int = 1,
) -> Bench:
    """Plan the work.

    Args:
        folder: Temporary folder.
        benchmark: The questions and their answer key.
        variant: As for the job.
        data: Folder of the benchmark's files; None: the benchmark's own.
        limit: Number of questions; None: all.
        overrides: Further settings of the job.
        repeats: Completions of every question.
    """
    import torch

    def plan_with(settings: Sequence[str]) -> EvaluationPlan:
        return make_plan(
            load_config(
                EvaluateConfig,
                None,
                list(settings),
                variant=variant,
                benchmarks=[benchmark.name],
                repeats=repeats,
                data=str(data) if data else None,
                limit=limit,
            )
        )

    plan = plan_with(overrides)
    device = pick_device(plan.variant, plan.engine.device, float(torch.cuda.device_count()))
    if device == "cpu":
        # By itself, each side would choose by the memory that is free when it starts.
        overrides = [*overrides, f"engine.cpu_kv_cache_gib={plan.engine.cpu_kv_cache_gib}"]
        plan = plan_with(overrides)
    flags = ["--variant", variant, "--benchmark", benchmark.name, "--repeats", str(repeats)]
    flags += ["--data", str(data.resolve())] if data else []
    flags += ["--limit", str(limit)] if limit else []
    flags += [argument for override in overrides for argument in ("--set", override)]
    return Bench(plan, flags, device, folder, write_plugin(folder / "plugin"))
