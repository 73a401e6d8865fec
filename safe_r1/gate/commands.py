"""The command ``safe-r1 gate``; it imports what it needs when it runs, so that `--help` is fast."""

from typing import Annotated

import typer

from safe_r1.errors import reading


def gate(
    runs: Annotated[
        list[str], typer.Argument(help="Finished runs: OUTPUT, OUTPUT/RUN, .../VARIANT or .../BENCHMARK.")
    ],
    lower: Annotated[
        list[str] | None,
        typer.Option("--min", help="[BENCHMARK/]METRIC=PERCENT that a rate must reach; repeat for more."),
    ] = None,
    upper: Annotated[
        list[str] | None,
        typer.Option("--max", help="[BENCHMARK/]METRIC=PERCENT that a rate may reach; repeat for more."),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            "--no-regression", help="Finished runs of one variant that no main metric may be worse than."
        ),
    ] = None,
    margin: Annotated[
        str | None,
        typer.Option(
            help="Percentage points by which a main metric may be worse: 3 (the default), or 0.5pp for less "
            "than one."
        ),
    ] = None,
    policy: Annotated[str | None, typer.Option(help="TOML or YAML file with rules.")] = None,
    decide: Annotated[
        str | None, typer.Option(help="interval (default) or point: what has to keep the line.")
    ] = None,
    json_file: Annotated[str | None, typer.Option("--json", help="File for the result as JSON.")] = None,
    junit_file: Annotated[
        str | None, typer.Option("--junit", help="File for the result as JUnit XML.")
    ] = None,
) -> None:
    """Hold finished runs against a policy: exit 0 pass, 4 fail, 3 not enough evidence."""
    from rich.console import Console

    from safe_r1.compare.margin import read_margin
    from safe_r1.gate.policy import load_policy
    from safe_r1.gate.render import to_json, to_junit, to_table
    from safe_r1.gate.run import run_gate
    from safe_r1.runs import as_path, write_bytes

    points = None if margin is None else read_margin(margin)
    lines = load_policy(policy, lower or [], upper or [], points, decide)
    with reading(", ".join([*runs, *([baseline] if baseline else [])])):
        result = run_gate(runs, lines, baseline)
    Console().print(to_table(result))
    for file, render in ((json_file, to_json), (junit_file, to_junit)):
        if file:
            write_bytes(as_path(file), render(result).encode("utf-8", errors="replace"))
    raise typer.Exit(result.status.value)
