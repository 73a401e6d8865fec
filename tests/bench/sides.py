"""The sides of the generation benchmarks, each a process of its own that is timed from outside.

All get the same engine arguments and the same engine environment (threads, KV cache): the job passes them to
its engine itself, the other sides get them here.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from safe_r1.benchmarks.chisafetybench import CHISAFETYBENCH, CHISAFETYBENCH_SAMPLE, ChiSafetyBench
from safe_r1.config import EvaluateConfig
from safe_r1.evaluation.plan import EvaluationPlan, make_plan
from safe_r1.evaluation.results import read_completions
from safe_r1.inference.device import pick_device
from safe_r1.inference.engine import context_length, engine_arguments, engine_environment
from safe_r1.inference.rendering import Renderer
from safe_r1.inference.requests import Request, row_seed
from safe_r1.resources import Device
from safe_r1.runs import RunFolder
from safe_r1.schema import Sample
from safe_r1.settings import load_config
from tests.bench.measure import Timings, steady_tokens_per_s

_HERE = Path(__file__).parent
_REPOSITORY = _HERE.parents[1]
_TIMEOUT_S = 3600
# Ray starts its workers at nice 15, and the other sides have the usual priority.
RAY_ENVIRONMENT = {"RAY_worker_niceness": "0"}

# Completions by row key.
Texts = dict[str, str]


@dataclass(frozen=True)
class Bench:
    """Work that all sides do.

    Attributes:
        plan: The job's own plan: model, samples, sampling.
        flags: The job's command line without ``--output``.
        device: Where the engine runs.
        folder: Temporary folder, kept for the logs.
    """

    plan: EvaluationPlan
    flags: Sequence[str]
    device: Device
    folder: Path

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
    def environment(self) -> dict[str, str]:
        """Environment variables of the engine's processes: the job's own."""
        return engine_environment(self.plan.variant, self.plan.engine, self.device)

    @cached_property
    def prompts(self) -> list[dict[str, object]]:
        """The rows as the engine takes them, rendered by the job's own step."""
        plan, engine = self.plan, self.plan.engine
        render = Renderer(
            plan.variant, plan.sampling, context_length(plan.variant, engine), engine.trust_remote_code
        )
        prompts: list[dict[str, object]] = []
        for sample, repeat in self.rows:
            request = Request(
                f"{sample.sample_id}\t{repeat}",
                list(plan.benchmarks[sample.benchmark].as_asked(sample, repeat).messages),
                plan.max_tokens(sample),
                row_seed(plan.config.generation.seed, sample.sample_id, repeat),
            )
            row = render(request)
            prompts.append(
                {
                    "key": row["key"],
                    "prompt_token_ids": row["tokenized_prompt"],
                    "sampling": row["sampling_params"],
                    "prefix": row["prefix"],
                }
            )
        return prompts

    @property
    def conditions(self) -> dict[str, object]:
        """What the sides have in common, for the head of the results."""
        tokens = json.dumps(self.prompts, ensure_ascii=False).encode()
        return {
            "device": self.device,
            "engine": self.engine,
            "engine_environment": self.environment,
            "ray_environment": RAY_ENVIRONMENT,
            "sampling": asdict(self.plan.sampling),
            "max_tokens": sorted({self.plan.max_tokens(sample) for sample, _ in self.rows}),
            "num_prompts": len(self.prompts),
            "prompts_sha256": hashlib.sha256(tokens).hexdigest(),
        }


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

    flags = ["--variant", variant, "--benchmark", benchmark.name, "--repeats", str(repeats)]
    flags += ["--data", str(data.resolve())] if data else []
    flags += ["--limit", str(limit)] if limit else []
    flags += [argument for override in overrides for argument in ("--set", override)]
    config = load_config(
        EvaluateConfig,
        None,
        list(overrides),
        variant=variant,
        benchmarks=[benchmark.name],
        repeats=repeats,
        data=str(data) if data else None,
        limit=limit,
    )
    plan = make_plan(config)
    device = pick_device(plan.variant, config.engine.device, float(torch.cuda.device_count()))
    return Bench(plan, flags, device, folder)


def run_job(bench: Bench, name: str) -> tuple[Timings, Texts]:
    """This project's job."""
    output = bench.folder / name
    command = ["ray_jobs/evaluate.py", *bench.flags, "--output", str(output)]
    wall_s = _run(command, bench, name, RAY_ENVIRONMENT)
    [benchmark] = bench.plan.samples
    config = bench.plan.config
    return read_job(RunFolder.locate(str(output), config.run, bench.plan.variant.name, benchmark), wall_s)


def read_job(folder: RunFolder, wall_s: float) -> tuple[Timings, Texts]:
    """Timings and completions of a finished job, from its run folder on a local disk.

    A row finished when its shard was written. The job's own timings are in the last session of ``run.json``.
    """
    import pyarrow.parquet as pq

    shards = [Path(str(path)) for path in (folder.path / "completions").glob("*.parquet")]
    finishes = [
        (shard.stat().st_mtime, tokens)
        for shard in shards
        for tokens in pq.read_table(shard, columns=["completion_tokens"])["completion_tokens"].to_pylist()
    ]
    session = (folder.read_json("run.json") or {})["sessions"][-1]
    parts = {
        name: seconds for name, seconds in session.items() if name.endswith("_s") and "_per_s" not in name
    }
    texts = {f"{key}\t{repeat}": row["completion"] for (key, repeat), row in read_completions(folder).items()}
    return Timings(wall_s, sum(tokens for _, tokens in finishes), _steady(finishes), parts), texts


def run_bare(bench: Bench, name: str) -> tuple[Timings, Texts]:
    """``vllm.LLM`` on the same tokens with the same seeds."""
    prompts = bench.folder / f"{name}.jsonl"
    _write_rows(prompts, bench.prompts)
    result, wall_s = _run_script("bare_vllm.py", {"prompts": str(prompts)}, bench, name)
    finishes = [(row["finished_s"], row["tokens"]) for row in result["rows"]]
    parts = {part: result[part] for part in ("engine_start_s", "generation_s")}
    return Timings(wall_s, sum(tokens for _, tokens in finishes), _steady(finishes), parts), _texts(
        bench, result
    )


def run_harness(bench: Bench, name: str) -> tuple[Timings, Texts]:
    """lm-evaluation-harness on the multiple-choice questions among the samples, greedily."""
    questions = bench.folder / f"{name}.jsonl"
    rows = [(sample, repeat) for sample, repeat in bench.rows if sample.task == "mcq"]
    _write_rows(
        questions,
        [
            {
                "key": f"{sample.sample_id}\t{repeat}",
                "prompt": sample.messages[-1]["content"],
                "answer": sample.metadata["answer"],
            }
            for sample, repeat in rows
        ],
    )
    work = {"questions": str(questions), "max_tokens": bench.plan.max_tokens(rows[0][0])}
    result, wall_s = _run_script("lm_eval_mcq.py", work, bench, name)
    parts = {part: result[part] for part in ("engine_start_s", "generation_s")}
    return Timings(wall_s, result["tokens"], None, parts), _texts(bench, result)


def _texts(bench: Bench, result: dict) -> Texts:
    """Completions as the job keeps them: with the reasoning prefix that the prompt ends in."""
    prefixes = {str(row["key"]): str(row["prefix"]) for row in bench.prompts}
    return {row["key"]: prefixes[row["key"]] + row["text"] for row in result["rows"]}


def _steady(finishes: Sequence[tuple[float, int]]) -> float | None:
    try:
        return steady_tokens_per_s(finishes)
    except ValueError:
        return None


def _run_script(script: str, work: Mapping[str, object], bench: Bench, name: str) -> tuple[dict, float]:
    """Run the script of another side in the engine's environment; gives its result and its wall time."""
    work_file, result_file = bench.folder / f"{name}.work.json", bench.folder / f"{name}.result.json"
    work_file.write_text(json.dumps({"engine": bench.engine} | dict(work)), encoding="utf-8")
    command = [str(_HERE / script), str(work_file), str(result_file)]
    wall_s = _run(command, bench, name, bench.environment)
    return json.loads(result_file.read_text(encoding="utf-8")), wall_s


def _run(arguments: Sequence[str], bench: Bench, name: str, environment: Mapping[str, str]) -> float:
    """Run a script with this Python and give its wall time in seconds.

    Raises:
        RuntimeError: It failed; the message names its log and shows the end.
    """
    shared = {"HF_DATASETS_CACHE": str(bench.folder / "datasets"), "PYTHONPATH": str(_REPOSITORY)}
    log = bench.folder / f"{name}.log"
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            [sys.executable, *arguments],
            env=os.environ | shared | dict(environment),
            cwd=_REPOSITORY,
            stdout=file,
            stderr=file,
            timeout=_TIMEOUT_S,
            check=False,
        )
    wall_s = time.monotonic() - started
    if done.returncode:
        raise RuntimeError(
            f"{name} ended with exit code {done.returncode}; the end of {log}:\n{log.read_text()[-3000:]}"
        )
    return wall_s


def _write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
