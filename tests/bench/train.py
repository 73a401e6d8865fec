"""``make bench-training``: full fine-tuning by this project against TRL's SFTTrainer with packing.

Both sides run alternately, as one process each, with the same model, conversations, sequence length, batch,
precision, optimizer and threads, and the benchmark fails where threads, CPUs or niceness, read back inside
them, differ. Tokens per second are those of all steps but the first; peak memory is that of the process.
Aim: at least TRL's speed at no more memory.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from tests.bench.conditions import Conditions, check_same, read_conditions
from tests.bench.processes import REPOSITORY
from tests.bench.results import begin, make_parser, parse, show, write

_HERE = Path(__file__).parent
_SIDES = ("ours", "trl")
_ENVIRONMENT = {"OMP_NUM_THREADS": str(os.cpu_count() or 1)}


class Settings(TypedDict):
    """What a side is told; ``batch`` is the number of sequences in a step."""

    variant: str
    corpus: str
    seq_len: int
    batch: int
    steps: int
    lr: float
    folder: str


class SideRun(TypedDict):
    """Measurements of one run of one side; ``conditions`` as read in the process that trained."""

    tokens_per_s: float
    num_tokens: int
    conditions: Conditions
    losses: list[float]
    peak_gib: float


def main() -> None:
    args = _arguments()
    folder = Path(tempfile.mkdtemp(prefix="safe-r1-bench-"))
    settings = Settings(
        variant=args.variant,
        corpus=str((args.corpus or _small_corpus(folder / "corpus")).resolve()),
        seq_len=args.seq_len,
        batch=args.batch,
        steps=args.steps,
        lr=1e-5,
        folder=str(folder),
    )
    results = begin(args, "trl", conditions={"settings": settings, "environment": _ENVIRONMENT})
    sides: dict[str, list[SideRun]] = {side: [] for side in _SIDES}
    for number in range(args.pairs):
        for side in sorted(_SIDES, reverse=bool(number % 2)):
            sides[side].append(_run(side, settings, folder / f"{side}-{number}"))
            show(side, sides[side][-1])
    conditions = check_same({side: [run["conditions"] for run in runs] for side, runs in sides.items()})
    show("what both sides ran with", conditions)
    pairs = list(zip(sides["ours"], sides["trl"], strict=True))
    ratios = {
        "ratio_tokens_per_s": statistics.median(a["tokens_per_s"] / b["tokens_per_s"] for a, b in pairs),
        "ratio_peak_memory": statistics.median(a["peak_gib"] / b["peak_gib"] for a, b in pairs),
    }
    show("ours to TRL's", ratios)
    write(results | ratios | {"sides": sides}, args.output, "training", folder)


def _arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--corpus", type=Path, help="folder that build_corpus wrote; without it, a few of the package's seeds"
    )
    parser.add_argument("--variant", default="demo", help="as for the job: a name, a hub id or a folder")
    parser.add_argument("--seq-len", type=int, default=1024, help="tokens of a packed sequence")
    parser.add_argument("--batch", type=int, default=4, help="sequences of a step, computed one at a time")
    parser.add_argument("--steps", type=int, default=5, help="steps of a run")
    parser.add_argument("--pairs", type=int, default=2, help="runs of each side")
    return parse(parser, corpus=None, batch=1, steps=2, pairs=1)


def _small_corpus(folder: Path) -> Path:
    from tests.small_corpus import seed_rows, write_corpus

    rows = seed_rows(20)
    return write_corpus(folder, {"train": [rows[4:]], "validation": [rows[:4]]})


def _run(side: str, settings: Settings, folder: Path) -> SideRun:
    """Run one side as a process of its own.

    Raises:
        RuntimeError: It failed; the message names its log and shows the end.
    """
    folder.mkdir()
    command = [
        sys.executable,
        str(_HERE / f"train_{side}.py"),
        json.dumps({**settings, "folder": str(folder)}),
    ]
    log = folder / "log"
    with log.open("w", encoding="utf-8") as file:
        env = os.environ | _ENVIRONMENT | {"PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(command, cwd=REPOSITORY, env=env, stdout=file, stderr=file, check=False)
    if done.returncode:
        raise RuntimeError(
            f"{side}: exit code {done.returncode}; the end of {log}:\n{log.read_text('utf-8')[-3000:]}"
        )
    return json.loads((folder / "result.json").read_text("utf-8"))


def write_result(
    settings: Mapping[str, object], steps: Sequence[tuple[int, float]], losses: list[float]
) -> None:
    """Write what a side measured, in its own process.

    Args:
        settings: See ``Settings``.
        steps: Tokens and seconds of each step; the first is left out.
        losses: Of each step.
    """
    import resource

    num_tokens = sum(tokens for tokens, _ in steps[1:])
    seconds = sum(step_s for _, step_s in steps[1:])
    result = SideRun(
        tokens_per_s=round(num_tokens / seconds, 2),
        num_tokens=num_tokens,
        conditions=read_conditions(),
        losses=losses,
        peak_gib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
    )
    (Path(str(settings["folder"])) / "result.json").write_text(json.dumps(result), "utf-8")


if __name__ == "__main__":
    main()
