"""The command ``safe-r1 compare``; it imports what it needs when it runs, so that `--help` is fast."""

import sys
from typing import Annotated

import typer


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
        float | None,
        typer.Option(help="Non-inferiority margin for pass@1, as a fraction (0.03 = 3 points)."),
    ] = None,
) -> None:
    """Compare finished runs of several variants: differences, significance tests, report."""
    from safe_r1.compare.run import compare as write_comparison

    if allow:
        print(
            "safe-r1: --allow is now --allow-mismatch; the old name works for one more release",
            file=sys.stderr,
        )
    print(write_comparison(runs, baseline, output, allow_mismatch or allow, margin).to_text())
