"""``make bench-corpus``: scaling of the corpus job, and near-duplicate removal against datatrove's MinHash.

1. Rows per second and peak memory of the whole job at several sizes.
2. Near-duplicate removal alone (sketches and clusters on Ray Data) against datatrove's four MinHash steps on
   the same rows, each as a process of its own, alternating, with as many workers and one thread each; with
   each, the share of planted near duplicates found, and the other rows it drops. Aim: at least twice
   datatrove's speed at equal or better recall.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import psutil

from tests.bench.conditions import Conditions, check_same
from tests.bench.corpus_rows import LANGUAGES, PLANTED, BaseRow, Language, Row, base_rows, multiply
from tests.bench.processes import RAY_ENVIRONMENT, REPOSITORY
from tests.bench.results import begin, make_parser, parse, show, write

_HERE = Path(__file__).parent
_SIDES = ("ours", "datatrove")
# Threads of each worker's numerical libraries, and the niceness of Ray's workers.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", **RAY_ENVIRONMENT}
_RECIPE = """
name = "bench"
licences = ["MIT"]
[[decontamination.protected]]
name = "chisafetybench-sample"
benchmark = "chisafetybench-sample"
"""
_SOURCE = """
[[sources]]
name = "{language}"
path = "{language}.jsonl"
kind = "reasoning"
language = "{language}"
licence = "MIT"
mapping = {{ prompt = "prompt", reasoning = "reasoning", answer = "answer", id = "id" }}
"""


class SideRun(TypedDict):
    """One run of one side; memory in GiB, ``conditions`` as read in one of its workers."""

    dedup_s: float
    recall: float
    false_drops: int
    wall_s: float
    peak_gib: float
    conditions: Conditions


def main() -> None:
    args = _arguments()
    folder = Path(tempfile.mkdtemp(prefix="safe-r1-bench-"))
    conditions = {"num_workers": os.cpu_count(), "environment": _ENVIRONMENT, "planted_every": PLANTED}
    results = begin(args, "datatrove", "multiprocess", conditions=conditions)
    base = base_rows(args.data)
    job = []
    for size in args.sizes:
        job.append(_measure_job(base, size, folder / f"job-{size}"))
        show("job", job[-1])
    results["job"] = job
    runs = _compare(base, args.dedup_rows, args.pairs, folder)
    summary = {language: _summary(sides) for language, sides in runs.items()}
    show("near duplicates", summary)
    results["near_duplicates"] = {
        "rows": args.dedup_rows,
        "planted_every": PLANTED,
        "languages": runs,
        "summary": summary,
    }
    write(results, args.output, "corpus", folder)


def _arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        help="folder with gsm8k/ and star1/, for English rows; without it, the package's Chinese seeds alone",
    )
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=[10_000, 50_000, 500_000], help="rows of the whole job"
    )
    parser.add_argument(
        "--dedup-rows", type=int, default=200_000, help="rows of the near-duplicate comparison"
    )
    parser.add_argument("--pairs", type=int, default=3, help="runs of each side")
    return parse(parser, sizes=[200], dedup_rows=200, pairs=1)


def _measure_job(base: Sequence[BaseRow], size: int, folder: Path) -> dict[str, float]:
    """The whole job on ``size`` rows: seconds, rows per second, peak memory, and what it dropped and kept."""
    folder.mkdir()
    rows = list(multiply(base, size))
    recipe = _RECIPE
    for language in _languages(base):
        _write_rows(folder / f"{language}.jsonl", [row for row in rows if row["language"] == language])
        recipe += _SOURCE.format(language=language)
    (folder / "recipe.toml").write_text(recipe, "utf-8")
    command = ["ray_jobs/build_corpus.py", "--recipe", str(folder / "recipe.toml"), "--data", str(folder)]
    seconds, peak_gib, driver_gib = _run([*command, "--output", str(folder / "out")], folder / "log")
    info = json.loads((folder / "out" / "corpus.json").read_text("utf-8"))
    return {
        "rows": size,
        "seconds": round(seconds, 1),
        "rows_per_s": round(size / seconds, 1),
        "peak_gib": round(peak_gib, 2),
        "peak_driver_gib": round(driver_gib, 2),
        "num_kept": info["num_kept"],
        "num_planted": sum(bool(row["copy_of"]) for row in rows),
        "num_near_or_exact": sum(row["rows"] for row in info["dropped"] if row["stage"] == "deduplicate"),
    }


def _languages(base: Sequence[BaseRow]) -> list[Language]:
    found = {row["language"] for row in base}
    return [language for language in LANGUAGES if language in found]


def _write_rows(path: Path, rows: Sequence[Row]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def _run(arguments: Sequence[str], log: Path) -> tuple[float, float, float]:
    """Run a script; gives seconds, and the peak memory in GiB of all its processes and of the first alone.

    Raises:
        RuntimeError: It failed; the message names its log and shows the end.
    """
    env = os.environ | _ENVIRONMENT
    env["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=REPOSITORY, stdout=file, stderr=file, env=env
        )
        peaks = [0.0, 0.0]
        watcher = threading.Thread(target=_watch, args=(process, peaks), daemon=True)
        watcher.start()
        code = process.wait()
    seconds = time.monotonic() - started
    watcher.join()
    if code:
        raise RuntimeError(f"exit code {code}; the end of {log}:\n{log.read_text('utf-8')[-3000:]}")
    return seconds, peaks[0] / 2**30, peaks[1] / 2**30


def _watch(process: subprocess.Popen[bytes], peaks: list[float]) -> None:
    """Raise ``peaks`` (all processes, the first alone) while the process runs."""
    while process.poll() is None:
        try:
            root = psutil.Process(process.pid)
            own = [_unshared(child) for child in (root, *root.children(recursive=True))]
            # Ray's object store lies in shared memory: no process counts it as its own.
            shared = sum(path.stat().st_blocks * 512 for path in Path("/dev/shm").glob("plasma*"))
            peaks[0] = max(peaks[0], sum(own) + shared)
            peaks[1] = max(peaks[1], own[0])
        except (psutil.Error, FileNotFoundError):
            pass
        time.sleep(0.5)


def _unshared(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().uss
    except psutil.Error:
        return 0


def _compare(
    base: Sequence[BaseRow], size: int, pairs: int, folder: Path
) -> dict[str, dict[str, list[SideRun]]]:
    """Both sides alternately on the same prompts, for each language; gives the runs of each side."""
    results: dict[str, dict[str, list[SideRun]]] = {}
    for language in _languages(base):
        rows = list(multiply([row for row in base if row["language"] == language], size))
        prompts = folder / f"dedup-{language}.jsonl"
        lines = [json.dumps({"id": row["id"], "prompt": row["prompt"]}, ensure_ascii=False) for row in rows]
        prompts.write_text("\n".join(lines) + "\n", "utf-8")
        runs: dict[str, list[SideRun]] = {side: [] for side in _SIDES}
        for number in range(pairs):
            for side in sorted(_SIDES, reverse=bool(number % 2)):
                place = folder / f"dedup-{language}-{side}-{number}"
                place.mkdir()
                script = _HERE / f"corpus_{side}.py"
                seconds, peak_gib, _ = _run([str(script), str(prompts), str(place), language], place / "log")
                result = json.loads((place / "result.json").read_text("utf-8"))
                runs[side].append(_score(rows, result, seconds, peak_gib))
        conditions = {side: [run["conditions"] for run in of_side] for side, of_side in runs.items()}
        show("what a worker of both sides ran with", check_same(conditions))
        results[language] = runs
    return results


def _summary(runs: dict[str, list[SideRun]]) -> dict[str, float]:
    """Medians over the pairs."""
    pairs = zip(runs["ours"], runs["datatrove"], strict=True)
    speed_ratio = statistics.median(theirs["dedup_s"] / ours["dedup_s"] for ours, theirs in pairs)
    summary: dict[str, float] = {"speed_ratio": round(speed_ratio, 2)}
    for side in _SIDES:
        summary[f"recall_{side}"] = statistics.median(run["recall"] for run in runs[side])
        summary[f"false_drops_{side}"] = statistics.median(run["false_drops"] for run in runs[side])
    return summary


def _score(rows: Sequence[Row], result: dict[str, Any], wall_s: float, peak_gib: float) -> SideRun:
    """Score one run.

    Recall: planted pairs of which at most one row is kept. False drops: dropped rows that belong to no
    planted pair.
    """
    kept = set(result["kept"])
    pairs = [(row["id"], int(row["copy_of"])) for row in rows if row["copy_of"]]
    paired = {number for pair in pairs for number in pair}
    found = sum(not (copy in kept and original in kept) for copy, original in pairs)
    lost = sum(row["id"] not in kept and row["id"] not in paired for row in rows)
    return SideRun(
        dedup_s=round(result["seconds"], 2),
        recall=round(found / len(pairs), 4),
        false_drops=lost,
        wall_s=round(wall_s, 2),
        peak_gib=round(peak_gib, 2),
        conditions=result["conditions"],
    )


if __name__ == "__main__":
    main()
