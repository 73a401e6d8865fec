"""``make bench-generation``: the evaluation job against bare vLLM and against lm-evaluation-harness.

1. ``throughput``: output tokens per second of engine time (from the engine's first step to its last, by its
   own counters) of the job over those of ``vllm.LLM`` alone, on the same tokens with the same seeds. Aim: at
   least 0.97, and the first token at most 12 s later.
2. ``mcq``: wall time of the multiple-choice questions over that of lm-evaluation-harness's vLLM backend,
   decoding greedily. Aim: at most 1 at 500 questions, 1.15 at 96.
3. ``fill``: rows of spread lengths, through the job's stream and through ``vllm.LLM``: the share of the
   engine's slots that are filled while rows are left, by its own count. Aim: at least 95%.

Model, prompts, engine arguments and threads are the same on both sides; what each engine really ran with is
read back inside it, printed, and the benchmark fails where sides differ. The sides alternate in order from
pair to pair. A warm-up run of each side comes first, so that no side pays for cold file caches.
"""

import argparse
import dataclasses
import json
import random
import statistics
import tempfile
from pathlib import Path

from tqdm import tqdm

from safe_r1.benchmarks.chisafetybench import FILES, HISTORY_FILE, MCQ_FILE
from tests.bench.conditions import check_same
from tests.bench.measure import Comparison, Timings, compare
from tests.bench.results import begin, make_parser, parse, show, write
from tests.bench.sides import Side, Texts, run_bare, run_harness, run_job, run_stream
from tests.bench.work import Bench, choose_benchmark, make_bench, row_key

# Lengths of the third part: median and spread of a lognormal distribution, and its bounds, in tokens.
_MEDIAN_TOKENS = 24
_SIGMA = 1.5
_TOKENS = (4, 256)


def main() -> None:
    args = _arguments()
    folder = Path(tempfile.mkdtemp(prefix="safe-r1-bench-"))
    makers = {"throughput": _throughput, "mcq": _mcq, "fill": _fill}
    benches = {part: make(args, folder) for part, make in makers.items() if args.only in (None, part)}
    sides: dict[str, tuple[Side, Side, str]] = {
        "throughput": (run_job, run_bare, "bare_vllm"),
        "mcq": (run_job, run_harness, "lm_eval"),
        "fill": (run_stream, run_bare, "bare_vllm"),
    }
    conditions = {part: bench.conditions for part, bench in benches.items()}
    results = begin(args, "lm-eval", conditions=conditions)
    for part, bench in benches.items():
        ours, theirs, name = sides[part]
        comparison = _pairs(bench, {"job": ours, name: theirs}, name, part, args)
        results[part] = {"device": bench.device} | comparison
        print(_headline(part, comparison, name), flush=True)
    write(results, args.output, "generation", folder)


def _arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--variant", default="demo", help="as for the job: a name, a hub id or a folder")
    parser.add_argument(
        "--data", type=Path, help="folder of CHiSafetyBench v1; without it, the embedded sample"
    )
    parser.add_argument("--pairs", type=int, default=3, help="measured runs of each side")
    parser.add_argument("--repeats", type=int, default=1, help="completions of every question")
    parser.add_argument("--limit", type=int, help="number of questions, stratified")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        help="any setting of the job, e.g. engine.max_num_seqs=32",
    )
    parser.add_argument("--only", choices=("throughput", "mcq", "fill"), help="one part alone")
    parser.add_argument("--fill-rows", type=int, default=200, help="rows of the third part")
    parser.add_argument("--fill-slots", type=int, default=16, help="the engine's slots in the third part")
    parser.add_argument(
        "--no-warm-up", dest="warm_up", action="store_false", help="measure from the first run on"
    )
    smallest = ["generation.max_tokens=4", "engine.max_num_seqs=8"]
    return parse(parser, pairs=1, limit=8, warm_up=False, overrides=smallest, fill_rows=24, fill_slots=4)


def _throughput(args: argparse.Namespace, folder: Path) -> Bench:
    """All questions, sampled as the variant asks for."""
    benchmark = choose_benchmark(args.data)
    return make_bench(folder, benchmark, args.variant, args.data, args.limit, args.overrides, args.repeats)


def _mcq(args: argparse.Namespace, folder: Path) -> Bench:
    """The multiple-choice questions alone, greedily, so that both sides have the same work."""
    benchmark = choose_benchmark(args.data)
    root = args.data or benchmark.data_path
    assert root is not None, "the embedded sample lies in the package"
    data = _mcq_data(root / "v1" if (root / "v1").is_dir() else root, folder / "data" / "v1")
    # The loader wants a risky question in each of the other files: they get one token each.
    greedy = ["generation.temperature=0", "generation.max_tokens_refusal=1"]
    overrides = [*args.overrides, *greedy]
    return make_bench(folder, benchmark, args.variant, data.parent, args.limit, overrides, args.repeats)


def _mcq_data(source: Path, target: Path) -> Path:
    """Copy the benchmark's files with one risky question in each of the other two."""
    target.mkdir(parents=True)
    for name in FILES:
        items = json.loads((source / name).read_text(encoding="utf-8-sig"))
        if name == HISTORY_FILE:
            items = items[:1]
        elif name != MCQ_FILE:
            items = [items[0] | {"infos": items[0]["infos"][:1]}]
        (target / name).write_text(json.dumps(items, ensure_ascii=False), encoding="utf-8")
    return target


def _fill(args: argparse.Namespace, folder: Path) -> Bench:
    """Rows whose lengths are drawn from a clipped lognormal distribution, as limits of their tokens."""
    benchmark = choose_benchmark(args.data)
    overrides = [
        *args.overrides,
        f"generation.max_tokens={_TOKENS[1]}",
        f"engine.max_num_seqs={args.fill_slots}",
    ]
    bench = make_bench(folder, benchmark, args.variant, args.data, None, overrides)
    repeats = -(-args.fill_rows // len(bench.rows))
    bench = make_bench(folder, benchmark, args.variant, args.data, None, overrides, repeats)
    draw = random.Random(0)
    lengths = {
        row_key(sample, repeat): round(
            min(max(_MEDIAN_TOKENS * draw.lognormvariate(0, _SIGMA), _TOKENS[0]), _TOKENS[1])
        )
        for sample, repeat in bench.rows[: args.fill_rows]
    }
    return dataclasses.replace(bench, lengths=lengths)


def _pairs(
    bench: Bench, sides: dict[str, Side], name: str, part: str, args: argparse.Namespace
) -> Comparison:
    """Run the job and the other side alternately, and compare them."""
    runs: dict[str, list[Timings]] = {side: [] for side in sides}
    same: list[float] = []
    numbers = range(-1 if args.warm_up else 0, args.pairs)
    with tqdm(total=2 * len(numbers), desc=part, unit="run") as bar:
        for number in numbers:
            texts: dict[str, Texts] = {}
            for current in sorted(sides, reverse=bool(number % 2)):
                timings, texts[current] = sides[current](bench, f"{part}-{current}-{number}")
                bar.set_postfix_str(f"{current} {timings.wall_s:.0f} s")
                bar.update()
                if number >= 0:
                    runs[current].append(timings)
            same.append(_share_of_same(texts["job"], texts[name]))
    conditions = check_same({side: [run.conditions for run in runs[side]] for side in runs})
    show(f"{part}, what every engine ran with", conditions)
    for side, (*_, last) in runs.items():
        show(f"{part}, seconds from the start of {side}", last.timeline_s)
        show(f"{part}, CPU seconds of {side} until its first token", last.start_cpu_s)
    return compare(runs["job"], runs[name], name) | {
        "conditions_read_back": conditions,
        "share_of_same_completions": statistics.median(same),
    }


def _share_of_same(ours: Texts, theirs: Texts) -> float:
    """Share of the other side's completions that the job gave word for word: both did the same work."""
    return sum(ours[key].strip() == text.strip() for key, text in theirs.items()) / len(theirs)


def _headline(part: str, result: Comparison, name: str) -> str:
    ours = result["job"]
    theirs = result[name]
    wall_aim = " (aim: at most 1 at 500 questions, 1.15 at 96)" if part == "mcq" else ""
    fill_aim = " (aim: at least 95 %)" if part == "fill" else ""
    ours_filled, theirs_filled = (_percent(side["median_fill"]) for side in (ours, theirs))
    return (
        f"bench: {part}: tokens/s of engine time {ours['median_engine_tokens_per_s']:.1f} against "
        f"{theirs['median_engine_tokens_per_s']:.1f}, job / {name} = {result['ratio_engine']:.3f} (aim: at "
        f"least 0.97), by CPU time of the engine {result['ratio_worker_cpu']:.3f}; wall time "
        f"{result['ratio_wall']:.3f}{wall_aim}; first token {result['later_first_token_s']:+.1f} s (aim: at "
        f"most +12); slots filled while rows are left {ours_filled}{fill_aim} against "
        f"{theirs_filled}; {100 * result['share_of_same_completions']:.1f} % of the "
        "completions are the same"
    )


def _percent(share: float | None) -> str:
    return "unknown (all were taken at once)" if share is None else f"{100 * share:.1f} %"


if __name__ == "__main__":
    main()
