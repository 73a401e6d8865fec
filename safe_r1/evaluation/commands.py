"""Commands of the command line about runs."""

from typing import Annotated

import typer


def repair(
    run: Annotated[
        str, typer.Argument(help="Runs: OUTPUT/RUN/VARIANT/BENCHMARK, or a folder or URI above it.")
    ],
) -> None:
    """Move damaged files of runs aside; the same evaluation command then does only what is missing."""
    from safe_r1.evaluation.repair import repair as repair_runs

    for repaired in repair_runs(run):
        print("\n".join(repaired.lines))
