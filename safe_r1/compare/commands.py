"""The command ``safe-r1 compare``; it imports what it needs when it runs, so that `--help` is fast."""

import sys
from typing import Annotated

import typer

from safe_r1.errors import reading


def compare(
    runs: Annotated[
        list[str], typer.Argument(help="Finished runs: OUTPUT, OUTPUT/RUN, .../VARIANT or .../BENCHMARK.")
    ],
    baseline: Annotated[
        str,
        typer.Option(help="The variant that all others are compared with; A,B: B where A was not run."),
    ],
    output: Annotated[str, typer.Option(help="Folder of the report.")],
    allow_mismatch: Annotated[
        bool,
        typer.Option(
            "--allow-mismatch",
            help="Compare runs even if their settings differ; the report lists the differences.",
        ),
    ] = False,
    allow: Annotated[bool, typer.Option("--allow", hidden=True)] = False,
    margin: Annotated[
        str | None,
        typer.Option(
            help="Non-inferiority margin for pass@1 in percentage points: 3, or 0.5pp for less than one. "
            "Default: the runs' report.margin, a fraction."
        ),
    ] = None,
) -> None:
    """Compare finished runs of several variants: differences, significance tests, report."""
    from safe_r1.compare.margin import read_margin
    from safe_r1.compare.run import compare as write_comparison

    if allow:
        print(
            "safe-r1: --allow is now --allow-mismatch; the old name works for one more release",
            file=sys.stderr,
        )
    fraction = None if margin is None else read_margin(margin) / 100
    with reading(", ".join(runs)):
        print(write_comparison(runs, baseline, output, allow_mismatch or allow, fraction).to_text())
