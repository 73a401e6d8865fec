"""Disturbs jobs for some time, prints what came of it as a table, and writes it as JSON.

Each trial takes a random job, a random kind of its processes and a random moment, kills that process with
SIGKILL, repeats the same command until it is finished, and compares the result with that of a run that
nothing disturbed: rows of an evaluation, bytes of a corpus, losses and weights of a fine-tuning,
answers and labels of a batch that a service works on.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.chaos.jobs import make_jobs
from tests.chaos.trial import Trial, run_trial, run_undisturbed

_OUTCOMES = ("equal", "unequal", "hung", "failed", "missed")


def main() -> int:
    """Exit code 0 if everything that was killed came out equal, else 1."""
    args = _arguments()
    if args.show:
        print(
            table(
                [
                    Trial(**each)
                    for file in args.show
                    for each in json.loads(file.read_text("utf-8"))["trials"]
                ]
            )
        )
        return 0
    folder = Path(tempfile.mkdtemp(prefix="safe-r1-chaos-"))
    dice = random.Random(args.seed)
    jobs = [job for job in make_jobs(folder / "data") if job.name in args.jobs]
    expected = {job.name: run_undisturbed(job, folder / f"undisturbed-{job.name}") for job in jobs}
    for name, (_, seconds) in expected.items():
        print(f"chaos: {name} undisturbed: {seconds:.0f} s", flush=True)
    trials: list[Trial] = []
    end = time.monotonic() + 60 * args.minutes
    while time.monotonic() < end and len(trials) < args.kills:
        job = dice.choice(jobs)
        victim = dice.choice(job.victims)
        output = folder / f"trial-{len(trials)}"
        trial = run_trial(job, *expected[job.name], victim, output, dice)
        trials.append(trial)
        if trial.missed_s is not None:
            # The machine is less busy than it was: a moment after the end would kill nothing again.
            result, duration_s = expected[job.name]
            expected[job.name] = result, min(duration_s, trial.missed_s)
        at = f"after {trial.moment_s} s" if trial.moment_s is not None else "never there"
        print(
            f"chaos: {len(trials)}: {job.name}, {victim} {at}: {trial.outcome}, exit codes {trial.codes}"
            + (f", different: {', '.join(trial.different)}" if trial.different else "")
            + (f", outlived by {', '.join(trial.outlived)}" if trial.outlived else ""),
            flush=True,
        )
        if trial.outcome == "equal":
            shutil.rmtree(output, ignore_errors=True)
        if args.output:
            _write(args.output, args.seed, trials)
    print(table(trials))
    num_killed = sum(trial.outcome != "missed" for trial in trials)
    num_equal = sum(trial.outcome == "equal" for trial in trials)
    print(f"chaos: {num_equal} of {num_killed} kills came out equal; outputs of the others are in {folder}")
    return 0 if num_killed and num_equal == num_killed else 1


def table(trials: Sequence[Trial]) -> str:
    """Outcomes by job and victim, as Markdown."""
    counts = Counter((trial.job, trial.victim, trial.outcome) for trial in trials)
    lines = [f"| job | killed | {' | '.join(_OUTCOMES)} |", f"|---|---|{'--:|' * len(_OUTCOMES)}"]
    for job, victim in sorted({(trial.job, trial.victim) for trial in trials}):
        cells = " | ".join(str(counts[job, victim, outcome]) for outcome in _OUTCOMES)
        lines.append(f"| {job} | {victim} | {cells} |")
    totals = Counter(trial.outcome for trial in trials)
    lines.append(f"| all | | {' | '.join(str(totals[outcome]) for outcome in _OUTCOMES)} |")
    return "\n".join(lines)


def _write(file: Path, seed: int, trials: Sequence[Trial]) -> None:
    content = {"seed": seed, "trials": [asdict(trial) for trial in trials]}
    file.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="no trial begins later")
    parser.add_argument("--kills", type=int, default=sys.maxsize, help="largest number of trials")
    parser.add_argument("--seed", type=int, default=0, help="of jobs, processes and moments")
    names = ("evaluate", "build_corpus", "finetune", "serve")
    parser.add_argument("--jobs", nargs="+", choices=names, default=names, help="jobs that are disturbed")
    parser.add_argument(
        "--show", nargs="+", type=Path, help="print the table of files of trials, and disturb nothing"
    )
    parser.add_argument("--output", type=Path, help="JSON file of all trials")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
