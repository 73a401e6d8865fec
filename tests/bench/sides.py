"""The sides of the generation benchmarks, each a process of its own.

All get one environment, made in ``side_environment``. The job passes threads and key-value cache to its
engine itself, as it does for its users; the other sides are given the same here. What each engine really ran
with is read back inside it (``Timings.conditions``).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from safe_r1.evaluation.results import read_completions
from safe_r1.runs import RunFolder
from tests.bench.engine_counts import read_engine
from tests.bench.engine_probe import probe_environment
from tests.bench.measure import Timings, measure
from tests.bench.processes import RAY_ENVIRONMENT, REPOSITORY, run_watched
from tests.bench.work import Bench, row_key

_HERE = Path(__file__).parent

# Completions by row key.
Texts = dict[str, str]
Side = Callable[[Bench, str], tuple[Timings, Texts]]


def run_job(bench: Bench, name: str) -> tuple[Timings, Texts]:
    """This project's job."""
    output = bench.folder / name
    timings = _run(["ray_jobs/evaluate.py", *bench.flags, "--output", str(output)], bench, name, {})
    [benchmark] = bench.plan.samples
    folder = RunFolder.locate(str(output), bench.plan.config.run, bench.plan.variant.name, benchmark)
    completions = read_completions(folder).items()
    return timings, {f"{key}\t{repeat}": row["completion"] for (key, repeat), row in completions}


def run_stream(bench: Bench, name: str) -> tuple[Timings, Texts]:
    """The part of the job that feeds the engine, on rows of given lengths: settings give one to all rows."""
    requests = bench.folder / f"{name}.jsonl"
    _write_rows(requests, [asdict(request) for request in bench.requests])
    work = {
        "requests": str(requests),
        "variant": bench.plan.config.variant,
        "engine": bench.plan.engine.model_dump(mode="json"),
        "device": bench.device,
        "sampling": asdict(bench.plan.sampling),
    }
    timings, result = _run_script("fill_rows.py", work, bench, name, {})
    return timings, {row["key"]: row["text"] for row in result["rows"]}


def run_bare(bench: Bench, name: str) -> tuple[Timings, Texts]:
    """``vllm.LLM`` on the same tokens with the same seeds."""
    prompts = bench.folder / f"{name}.jsonl"
    _write_rows(prompts, bench.prompts)
    work = {"prompts": str(prompts), "engine": bench.engine}
    timings, result = _run_script("bare_vllm.py", work, bench, name, bench.engine_environment)
    return timings, _texts(bench, result)


def run_harness(bench: Bench, name: str) -> tuple[Timings, Texts]:
    """lm-evaluation-harness on the multiple-choice questions among the samples, greedily."""
    questions = bench.folder / f"{name}.jsonl"
    rows = [(sample, repeat) for sample, repeat in bench.rows if sample.task == "mcq"]
    _write_rows(
        questions,
        [
            {
                "key": row_key(sample, repeat),
                "prompt": sample.messages[-1]["content"],
                "answer": sample.metadata["answer"],
            }
            for sample, repeat in rows
        ],
    )
    work = {
        "questions": str(questions),
        "max_tokens": bench.plan.max_tokens(rows[0][0].benchmark, rows[0][0].task),
        "engine": bench.engine,
    }
    timings, result = _run_script("lm_eval_mcq.py", work, bench, name, bench.engine_environment)
    return timings, _texts(bench, result)


def _texts(bench: Bench, result: dict) -> Texts:
    """Completions as the job keeps them: with the reasoning prefix that the prompt ends in."""
    prefixes = {str(row["key"]): str(row["prefix"]) for row in bench.prompts}
    return {row["key"]: prefixes[row["key"]] + row["text"] for row in result["rows"]}


def _run_script(
    script: str, work: Mapping[str, object], bench: Bench, name: str, environment: Mapping[str, str]
) -> tuple[Timings, dict]:
    """Run the script of another side; gives its timings and its result."""
    work_file = bench.folder / f"{name}.work.json"
    result_file = bench.folder / f"{name}.result.json"
    work_file.write_text(json.dumps(work), encoding="utf-8")
    timings = _run([str(_HERE / script), str(work_file), str(result_file)], bench, name, environment)
    return timings, json.loads(result_file.read_text(encoding="utf-8"))


def _run(arguments: Sequence[str], bench: Bench, name: str, environment: Mapping[str, str]) -> Timings:
    """Run a side in the environment that all sides share.

    Args:
        arguments: The script and its arguments.
        bench: The work.
        name: Of this run, for its files.
        environment: Of the engine, for a side that gives it none itself.
    """
    records = bench.folder / f"{name}.engine"
    environment = {**side_environment(bench, records), **environment}
    finished = run_watched(arguments, environment, bench.folder / f"{name}.log")
    return measure(finished, read_engine(records))


def side_environment(bench: Bench, records: Path) -> dict[str, str]:
    """What all sides add to the environment of the benchmark.

    Args:
        bench: The work.
        records: See ``probe_environment``.
    """
    return {
        **probe_environment(bench.plugin, records, REPOSITORY),
        **RAY_ENVIRONMENT,
        "HF_DATASETS_CACHE": str(bench.folder / "datasets"),
    }


def _write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
