"""``make bench-generation``: the evaluation job against bare vLLM and against lm-evaluation-harness.

1. Throughput: steady output tokens per second of the job over those of ``vllm.LLM`` alone, on the same tokens
   with the same seeds. Aim: at least 0.95.
2. Wall time of the multiple-choice questions over that of lm-evaluation-harness's vLLM backend, decoding
   greedily. Aim: at most 1.

Model, prompts, engine arguments and threads are the same on both sides and stand at the head of the results.
The sides alternate in order from pair to pair. A warm-up run of each side comes first, so that no side pays
for cold file caches.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from safe_r1.benchmarks.chisafetybench import FILES, HISTORY_FILE, MCQ_FILE
from tests.bench.measure import Comparison, Timings, compare
from tests.bench.results import begin, make_parser, parse, write
from tests.bench.sides import Bench, Texts, choose_benchmark, make_bench, run_bare, run_harness, run_job

Side = Callable[[Bench, str], tuple[Timings, Texts]]


def main() -> None:
    args = _arguments()
    folder = Path(tempfile.mkdtemp(prefix="safe-r1-bench-"))
    parts: dict[str, tuple[Bench, Side, str]] = {
        "throughput": (_throughput(args, folder), run_bare, "bare_vllm"),
        "mcq": (_mcq(args, folder), run_harness, "lm_eval"),
    }
    chosen = {part: work for part, work in parts.items() if args.only in (None, part)}
    conditions = {part: bench.conditions for part, (bench, _, _) in chosen.items()}
    results = begin(args, "lm-eval", conditions=conditions)
    for part, (bench, side, name) in chosen.items():
        comparison = _pairs(bench, side, name, part, args)
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
    parser.add_argument("--only", choices=("throughput", "mcq"), help="one part alone")
    parser.add_argument(
        "--no-warm-up", dest="warm_up", action="store_false", help="measure from the first run on"
    )
    smallest = ["generation.max_tokens=4", "engine.max_num_seqs=8"]
    return parse(parser, pairs=1, limit=8, warm_up=False, overrides=smallest)


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


def _pairs(bench: Bench, side: Side, name: str, part: str, args: argparse.Namespace) -> Comparison:
    """Run the job and the other side alternately, and compare them."""
    sides: dict[str, Side] = {"job": run_job, name: side}
    runs: dict[str, list[Timings]] = {"job": [], name: []}
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
    return compare(runs["job"], runs[name], name) | {"share_of_same_completions": statistics.median(same)}


def _share_of_same(ours: Texts, theirs: Texts) -> float:
    """Share of the other side's completions that the job gave word for word: both did the same work."""
    return sum(ours[key].strip() == text.strip() for key, text in theirs.items()) / len(theirs)


def _headline(part: str, result: Comparison, name: str) -> str:
    steady = result["ratio_steady"]
    speed = f", steady tokens/s job / {name} = {steady:.3f} (aim: at least 0.95)" if steady else ""
    aim = " (aim: at most 1)" if part == "mcq" else ""
    same = f"{100 * result['share_of_same_completions']:.1f} % of the completions are the same"
    return f"bench: {part}: wall time job / {name} = {result['ratio_wall']:.3f}{aim}{speed}; {same}"


if __name__ == "__main__":
    main()
