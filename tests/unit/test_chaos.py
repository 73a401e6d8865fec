"""The chaos test itself, on a script in place of a job."""

import json
import random
import textwrap
from pathlib import Path

import pytest

from tests.chaos.__main__ import table
from tests.chaos.jobs import Job, Result
from tests.chaos.trial import Trial, run_trial, run_undisturbed

NUM_ROWS = 20
WRITES_ROWS = textwrap.dedent(
    """
    import pathlib, sys, time
    from ray_jobs.supervise import supervise
    supervise(lambda: None)
    file = pathlib.Path(sys.argv[-1])
    print("runs", flush=True)
    first = len(file.read_text().splitlines()) if file.exists() else 0
    for number in range(first, {rows}):
        if number == first and first and "forgets" in sys.argv:
            continue
        with file.open("a") as out:
            out.write(f"{{number}}\\n")
        time.sleep(0.1)
    sys.exit(2 if "refuses" in sys.argv and first else 0)
    """
).format(rows=NUM_ROWS)


def make_job(folder: Path, *options: str) -> Job:
    script = folder / "job.py"
    script.write_text(WRITES_ROWS, "utf-8")

    def read(output: Path) -> Result:
        return {"rows": json.dumps(output.read_text().split())}

    return Job("rows", (str(script), *options), read, ("supervisor",))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "outcome"), [("finishes", "equal"), ("forgets", "unequal"), ("refuses", "failed")]
)
def test_what_a_kill_changes_is_found(tmp_path: Path, option: str, outcome: str):
    job = make_job(tmp_path, option)
    expected, _ = run_undisturbed(job, tmp_path / "undisturbed")
    assert json.loads(expected["rows"]) == [str(number) for number in range(NUM_ROWS)]
    # A moment in the second tenth of the time, at which a slow machine has begun to write.
    dice = random.Random(0)
    trial = run_trial(job, expected, 1.0, "supervisor", tmp_path / "trial", dice)
    assert trial.outcome == outcome
    assert trial.codes[0] == -9
    assert trial.moment_s is not None
    assert bool(trial.output) == (outcome != "equal")
    assert trial.different == (["rows"] if outcome == "unequal" else [])


@pytest.mark.slow
def test_a_process_that_is_not_there_is_told(tmp_path: Path):
    job = make_job(tmp_path)
    trial = run_trial(job, {}, 0.1, "raylet", tmp_path / "trial", random.Random(0))
    assert (trial.outcome, trial.codes) == ("missed", [0])


def test_the_table_counts_each_outcome():
    trials = [Trial("a", "driver", outcome="equal")] * 2 + [Trial("a", "raylet", outcome="hung")]
    assert table(trials).splitlines()[2:] == [
        "| a | driver | 2 | 0 | 0 | 0 | 0 |",
        "| a | raylet | 0 | 0 | 1 | 0 | 0 |",
        "| all | | 2 | 0 | 1 | 0 | 0 |",
    ]
