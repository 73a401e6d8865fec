"""``make bench-training``: full fine-tuning by this project against TRL's SFTTrainer with packing, in turns.

The same model, conversations, sequence length, batch, precision and optimizer, one process each. Tokens per
second are those of all steps but the first; peak memory is that of the process. Aim: at least TRL's speed at
no more memory.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.results import begin, show, write

_HERE = Path(__file__).parent
_REPOSITORY = _HERE.parents[1]


def main() -> None:
    args = _arguments()
    results = begin(args, "trl")
    folder = Path(tempfile.mkdtemp(prefix="safe-r1-bench-"))
    settings = {
        "variant": args.variant,
        "corpus": str(args.corpus.resolve()),
        "seq_len": args.seq_len,
        "batch": args.batch,
        "steps": args.steps,
        "lr": 1e-5,
        "folder": str(folder),
    }
    sides: dict[str, list[dict[str, Any]]] = {"ours": [], "trl": []}
    for number in range(args.pairs):
        for side in sorted(sides, reverse=bool(number % 2)):
            sides[side].append(_run(side, settings | {"folder": str(folder / f"{side}-{number}")}))
            show(side, sides[side][-1])
    speed = [ours["tokens_per_s"] / trl["tokens_per_s"] for ours, trl in zip(*sides.values(), strict=True)]
    memory = [ours["peak_gib"] / trl["peak_gib"] for ours, trl in zip(*sides.values(), strict=True)]
    found = {"ratio_tokens_per_s": statistics.median(speed), "ratio_peak_memory": statistics.median(memory)}
    show("ours to TRL's", found)
    write(results | found | {"sides": sides}, args.output, "training", folder)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True, help="folder that build_corpus wrote")
    parser.add_argument("--output", type=Path, default=Path("bench-results"), help="folder of the results")
    parser.add_argument("--variant", default="demo")
    parser.add_argument("--seq-len", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=4, help="sequences of a step, computed one at a time")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=2, help="runs of each side")
    return parser.parse_args()


def _run(side: str, settings: dict[str, Any]) -> dict[str, Any]:
    folder = Path(settings["folder"])
    folder.mkdir()
    env = os.environ | {"PYTHONPATH": str(_REPOSITORY), "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, str(_HERE / f"train_{side}.py"), json.dumps(settings)]
    with (folder / "log").open("w", encoding="utf-8") as log:
        code = subprocess.run(
            command, cwd=_REPOSITORY, env=env, stdout=log, stderr=log, check=False
        ).returncode
    if code:
        raise RuntimeError(
            f"{side}: exit code {code}; the end of {folder / 'log'}:\n{(folder / 'log').read_text()[-3000:]}"
        )
    return json.loads((folder / "result.json").read_text("utf-8"))


def write_result(settings: dict[str, Any], steps: list[tuple[int, float]], losses: list[float]) -> None:
    """What a side measured: tokens and seconds of each step."""
    import resource

    tokens, seconds = (sum(values) for values in zip(*steps[1:], strict=True))
    result = {
        "tokens_per_s": round(tokens / seconds, 2),
        "num_tokens": tokens,
        "losses": losses,
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
    }
    (Path(settings["folder"]) / "result.json").write_text(json.dumps(result), "utf-8")


if __name__ == "__main__":
    main()
