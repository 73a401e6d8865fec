"""``make bench-corpus``: how the corpus job grows with its rows, and its near-duplicate removal against
datatrove's MinHash.

1. Rows per second and peak memory of the whole job at several sizes.
2. Near-duplicate removal alone (sketches and clusters on Ray Data) against datatrove's four MinHash steps on
   the same rows, each as a process of its own, in turns; with each, the share of planted near duplicates
   found, and the other rows it drops. Aim: at least twice datatrove's speed at equal or better recall.
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
from pathlib import Path
from typing import Any

import psutil

from tests.bench.corpus_rows import PLANTED, base_rows, multiply
from tests.bench.results import begin, show, write

_HERE = Path(__file__).parent
_REPOSITORY = _HERE.parents[1]
_RECIPE = """
name = "bench"
licences = ["MIT"]
[[sources]]
name = "zh"
path = "zh.jsonl"
kind = "reasoning"
language = "zh"
licence = "MIT"
mapping = { prompt = "prompt", reasoning = "reasoning", answer = "answer", id = "id" }
[[sources]]
name = "en"
path = "en.jsonl"
kind = "reasoning"
language = "en"
licence = "MIT"
mapping = { prompt = "prompt", reasoning = "reasoning", answer = "answer", id = "id" }
[[decontamination.protected]]
name = "chisafetybench-sample"
benchmark = "chisafetybench-sample"
"""


def main() -> None:
    args = _arguments()
    folder = Path(tempfile.mkdtemp(prefix="safe-r1-bench-"))
    results = begin(args, "datatrove") | {"job": []}
    base = base_rows(args.data)
    for size in args.sizes:
        results["job"].append(_measure_job(base, size, folder / f"job-{size}"))
        show("job", results["job"][-1])
    results["near_duplicates"] = _compare(base, args.dedup_rows, args.pairs, folder)
    show("near duplicates", results["near_duplicates"]["summary"])
    write(results, args.output, "corpus", folder)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("bench-results"), help="folder of the results")
    parser.add_argument(
        "--data", type=Path, help="folder with gsm8k/ and star1/; without it, the package's seeds alone"
    )
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=[10_000, 50_000, 500_000], help="rows of the whole job"
    )
    parser.add_argument(
        "--dedup-rows", type=int, default=200_000, help="rows of the near-duplicate comparison"
    )
    parser.add_argument("--pairs", type=int, default=3, help="runs of each side")
    return parser.parse_args()


def _measure_job(base: list[dict[str, Any]], size: int, folder: Path) -> dict[str, Any]:
    """The whole job on ``size`` rows: seconds, rows per second, peak memory, recall of what was planted."""
    folder.mkdir()
    copies: dict[str, str] = {}
    with (
        (folder / "zh.jsonl").open("w", encoding="utf-8") as zh,
        (folder / "en.jsonl").open("w", encoding="utf-8") as en,
    ):
        for row in multiply(base, size):
            (zh if row["language"] == "zh" else en).write(json.dumps(row, ensure_ascii=False) + "\n")
            if row["copy_of"]:
                copies[str(row["id"])] = row["copy_of"]
    (folder / "recipe.toml").write_text(_RECIPE, "utf-8")
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
        "num_planted": len(copies),
        "num_near_or_exact": sum(row["rows"] for row in info["dropped"] if row["stage"] == "deduplicate"),
    }


def _run(arguments: list[str], log: Path) -> tuple[float, float, float]:
    """Seconds, and the peak memory of all its processes together and of the first alone, without what they
    share.
    """
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(_REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=_REPOSITORY, stdout=file, stderr=file, env=env
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


def _watch(process: subprocess.Popen, peaks: list[float]) -> None:
    while process.poll() is None:
        try:
            root = psutil.Process(process.pid)
            own = [_unshared(child) for child in (root, *root.children(recursive=True))]
            shared = sum(path.stat().st_blocks * 512 for path in Path("/dev/shm").glob("plasma*"))
            peaks[:] = max(peaks[0], sum(own) + shared), max(peaks[1], own[0])
        except psutil.Error:
            pass
        time.sleep(0.5)


def _unshared(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().uss
    except psutil.Error:
        return 0


def _compare(base: list[dict[str, Any]], size: int, pairs: int, folder: Path) -> dict[str, Any]:
    """Both sides in turns on the same prompts, for each language."""
    results: dict[str, Any] = {"rows": size, "planted_every": PLANTED, "languages": {}}
    for language in ("zh", "en"):
        rows = list(multiply([row for row in base if row["language"] == language], size))
        prompts = folder / f"dedup-{language}.jsonl"
        prompts.write_text(
            "".join(
                json.dumps({"id": row["id"], "prompt": row["prompt"]}, ensure_ascii=False) + "\n"
                for row in rows
            ),
            "utf-8",
        )
        runs: dict[str, list[dict[str, Any]]] = {"ours": [], "datatrove": []}
        for number in range(pairs):
            for side in sorted(runs, reverse=bool(number % 2)):
                place = folder / f"dedup-{language}-{side}-{number}"
                place.mkdir()
                script = _HERE / f"corpus_{side}.py"
                seconds, peak_gib, _ = _run([str(script), str(prompts), str(place), language], place / "log")
                result = json.loads((place / "result.json").read_text("utf-8"))
                runs[side].append(
                    _score(rows, result) | {"wall_s": round(seconds, 2), "peak_gib": round(peak_gib, 2)}
                )
        results["languages"][language] = runs
    results["summary"] = {
        language: {
            "speed_ratio": round(
                statistics.median(t["dedup_s"] / o["dedup_s"] for o, t in zip(*runs.values(), strict=True)), 2
            ),
            **{f"recall_{side}": statistics.median(run["recall"] for run in runs[side]) for side in runs},
            **{
                f"false_drops_{side}": statistics.median(run["false_drops"] for run in runs[side])
                for side in runs
            },
        }
        for language, runs in results["languages"].items()
    }
    return results


def _score(rows: list[dict[str, Any]], result: dict[str, Any]) -> dict[str, Any]:
    """Recall: planted pairs of which at most one row is kept. False drops: rows dropped that belong to no
    planted pair.
    """
    kept = set(result["kept"])
    pairs = [(row["id"], int(row["copy_of"])) for row in rows if row["copy_of"]]
    paired = {number for pair in pairs for number in pair}
    found = sum(not (copy in kept and original in kept) for copy, original in pairs)
    lost = sum(row["id"] not in kept and row["id"] not in paired for row in rows)
    return {
        "dedup_s": round(result["seconds"], 2),
        "recall": round(found / len(pairs), 4),
        "false_drops": lost,
    }


if __name__ == "__main__":
    main()
