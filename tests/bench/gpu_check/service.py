"""The service on ``demo``, questions in one request, against ``vllm.LLM`` alone, by the engines' counters."""

from tests.bench.gpu_check.engine import NEEDED
from tests.bench.gpu_check.rows import Part, missing, run

_AIM = 0.9
_WHAT = "service on demo"


def measure(part: Part) -> None:
    if reason := missing(*NEEDED, "ray.serve", "fastapi"):
        part.skipped(_WHAT, reason)
        return
    with part.attempt(_WHAT):
        _measure(part)


def _measure(part: Part) -> None:
    from tests.bench.conditions import check_same
    from tests.bench.serve import make_serve_bench, measure_generation, service_flags
    from tests.bench.sides import run_bare, side_environment
    from tests.serving import start_service

    in_flight = 8 if part.small else 64
    bench = make_serve_bench(
        part.folder,
        "demo",
        None,
        limit=8 if part.small else 128,
        max_tokens=4 if part.small else 96,
        in_flight=in_flight,
    )
    bare, texts = run_bare(bench, "service-bare")
    bare_speed = bare.engine.tokens_per_s
    part.measured("vllm.LLM on the same", f"{bare_speed:,.0f} output tokens/s", tokens_per_s=bare_speed)
    records = part.folder / "service.engine"
    flags = service_flags(bench, "demo", in_flight, judge_replicas=1)
    with start_service(flags, part.folder / "service-job.log", **side_environment(bench, records)) as service:
        generation = measure_generation(service, bench, texts, records)
    check_same({"service": [generation["conditions"]], "vllm.LLM": [bare.conditions]})
    speed = generation["engine"]["tokens_per_s"]
    ratio = speed / bare_speed
    num_failed = generation["num_failed"]
    is_met = part.small or ratio >= _AIM
    part.measured(
        _WHAT,
        f"{speed:,.0f} output tokens/s, × {ratio:.2f} of vllm.LLM; {num_failed} items failed",
        "none failed" if part.small else f"at least × {_AIM}; none failed",
        "failed" if num_failed else "ok" if is_met else "off",
        ratio=ratio,
        generation=generation,
    )


if __name__ == "__main__":
    run("service", measure)
