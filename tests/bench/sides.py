"""The three sides of the benchmark, each run as a process of its own and timed from outside."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safe_r1.benchmarks.chisafetybench import CHISAFETYBENCH, CHISAFETYBENCH_SAMPLE
from safe_r1.config import EvaluateConfig, load_config
from safe_r1.evaluation.plan import Plan, make_plan
from safe_r1.evaluation.results import read_completions
from safe_r1.inference.batch import Renderer, row_seed
from safe_r1.inference.engine import context_length, engine_arguments
from safe_r1.resources import Device, pick_device
from safe_r1.runs import RunFolder
from safe_r1.schema import Sample
from tests.bench.measure import Timings, steady_tokens_per_s

_HERE = Path(__file__).parent
_REPOSITORY = _HERE.parents[1]
_TIMEOUT_S = 3600

Texts = dict[str, str]


@dataclass(frozen=True)
class Bench:
    """What all sides work on.

    Attributes:
        plan: The job's own plan: model, samples, sampling.
        flags: The job's command line without ``--output``.
        device: Where the engine runs.
        folder: Scratch folder, kept for the logs.
    """

    plan: Plan
    flags: Sequence[str]
    device: Device
    folder: Path

    @property
    def rows(self) -> list[tuple[Sample, int]]:
        """Every sample of every repeat, in the job's order."""
        samples = [sample for group in self.plan.samples.values() for sample in group]
        return [(sample, repeat) for repeat in range(self.plan.config.repeats) for sample in samples]


def make_bench(
    folder: Path,
    variant: str,
    data: Path | None,
    limit: int | None,
    overrides: Sequence[str],
    repeats: int = 1,
) -> Bench:
    """CHiSafetyBench where its folder is known, else the embedded sample."""
    import torch

    benchmark = CHISAFETYBENCH if data else CHISAFETYBENCH_SAMPLE
    flags = ["--variant", variant, "--benchmark", benchmark.name, "--repeats", str(repeats)]
    flags += ["--data", str(data.resolve())] if data else []
    flags += ["--limit", str(limit)] if limit else []
    flags += [word for override in overrides for word in ("--set", override)]
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
    return Bench(
        plan, flags, pick_device(plan.variant, config.engine.device, float(torch.cuda.device_count())), folder
    )

    @property
    def engine(self) -> dict[str, Any]:
        """Arguments of ``vllm.LLM``: the job's own."""
        return {"model": self.plan.variant.source} | engine_arguments(
            self.plan.variant, self.plan.config.engine, self.device
        )


def run_job(bench: Bench, name: str) -> tuple[Timings, Texts]:
    """This project's job."""
    output = bench.folder / name
    command = [_REPOSITORY / "ray_jobs" / "evaluate.py", *bench.flags, "--output", output]
    wall_s = _run(command, bench, name)
    [benchmark] = bench.plan.samples
    config = bench.plan.config
    return read_job(RunFolder.locate(str(output), config.run, bench.plan.variant.name, benchmark), wall_s)


def read_job(folder: RunFolder, wall_s: float) -> tuple[Timings, Texts]:
    """Timings and completions of a finished job, from its run folder on a local disk.

    A row finished when its shard was written. What the job timed itself is in the last session of
    ``run.json``.
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
    _write_lines(prompts, _prompts(bench))
    result, wall_s = _run_script(
        "bare_vllm.py", {"engine": bench.engine, "prompts": str(prompts)}, bench, name
    )
    finishes = [(row["finished_s"], row["tokens"]) for row in result["rows"]]
    parts = {part: result[part] for part in ("engine_start_s", "generation_s")}
    texts = {row["key"]: row["text"] for row in result["rows"]}
    return Timings(wall_s, sum(tokens for _, tokens in finishes), _steady(finishes), parts), texts


def run_harness(bench: Bench, name: str) -> tuple[Timings, Texts]:
    """lm-evaluation-harness on the multiple-choice questions among the samples, greedily."""
    questions = bench.folder / f"{name}.jsonl"
    rows = [(sample, repeat) for sample, repeat in bench.rows if sample.task == "mcq"]
    lines = [
        {
            "key": f"{row.sample_id}\t{repeat}",
            "prompt": row.messages[-1]["content"],
            "answer": row.metadata["answer"],
        }
        for row, repeat in rows
    ]
    _write_lines(questions, lines)
    work = {
        "engine": bench.engine,
        "questions": str(questions),
        "max_tokens": bench.plan.max_tokens(rows[0][0]),
    }
    result, wall_s = _run_script("lm_eval_mcq.py", work, bench, name)
    parts = {part: result[part] for part in ("engine_start_s", "generation_s")}
    return Timings(wall_s, result["tokens"], None, parts), {row["key"]: row["text"] for row in result["rows"]}


def _prompts(bench: Bench) -> list[dict[str, Any]]:
    """The rows as the engine takes them, rendered by the job's own step."""
    plan = bench.plan
    engine = plan.config.engine
    render = Renderer(
        plan.variant, plan.sampling, context_length(plan.variant, engine), engine.trust_remote_code
    )
    prompts = []
    for sample, repeat in bench.rows:
        seed = row_seed(plan.config.generation.seed, sample.sample_id, repeat)
        request = {"messages": list(sample.messages), "max_tokens": plan.max_tokens(sample), "seed": seed}
        row = render(request | {"key": f"{sample.sample_id}\t{repeat}"})
        prompts.append(
            {
                "key": row["key"],
                "prompt_token_ids": row["tokenized_prompt"],
                "sampling": row["sampling_params"],
            }
        )
    return prompts


def _steady(finishes: Sequence[tuple[float, int]]) -> float | None:
    try:
        return steady_tokens_per_s(finishes)
    except ValueError:
        return None


def _run_script(script: str, work: dict[str, Any], bench: Bench, name: str) -> tuple[dict[str, Any], float]:
    work_file, result_file = bench.folder / f"{name}.work.json", bench.folder / f"{name}.result.json"
    work_file.write_text(json.dumps(work), encoding="utf-8")
    wall_s = _run([_HERE / script, work_file, result_file], bench, name)
    return json.loads(result_file.read_text(encoding="utf-8")), wall_s


def _run(arguments: Sequence[Any], bench: Bench, name: str) -> float:
    """Runs a script with this Python and gives its wall time in seconds.

    Raises:
        RuntimeError: It failed; the message names its log and shows the end.
    """
    env = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(bench.folder / "datasets"),
        "DO_NOT_TRACK": "1",
    }
    if bench.device == "cpu":
        env["VLLM_CPU_KVCACHE_SPACE"] = str(bench.plan.config.engine.cpu_kv_cache_gib)
    log = bench.folder / f"{name}.log"
    command = [sys.executable, *map(str, arguments)]
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            command, env=env, cwd=_REPOSITORY, stdout=file, stderr=file, timeout=_TIMEOUT_S, check=False
        )
    wall_s = time.monotonic() - started
    if done.returncode:
        raise RuntimeError(
            f"{name} ended with exit code {done.returncode}; the end of {log}:\n{log.read_text()[-3000:]}"
        )
    return wall_s


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
