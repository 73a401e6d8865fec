"""The command ``safe-r1 annexes``; it imports what it needs when it runs, so that `--help` is fast."""

from typing import Annotated

import typer

from safe_r1.errors import reading


def annexes(
    output: Annotated[str, typer.Option(help="Folder or URI of the workbooks.")],
    keywords: Annotated[
        str | None,
        typer.Option(
            help="Your list of keywords: a table (csv, xlsx) with columns keyword and risk, or a .txt with a "
            "word a line and its risk behind a tab."
        ),
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option(help="Finished runs, OUTPUT/RUN/VARIANT/BENCHMARK or above; may be repeated."),
    ] = None,
    questions: Annotated[
        list[str] | None,
        typer.Option(
            help="BANK=FILE with your own questions of a bank (content, refuse, answer), which follow those "
            "of safe_r1; may be repeated."
        ),
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="TOML file with other figures; default: gb-t-45654-2025.")
    ] = None,
) -> None:
    """Write the annex tables of a filing: keywords and question banks, and results of runs, as workbooks."""
    from safe_r1.filing.annexes import write_annexes
    from safe_r1.report.text import printable

    with reading(", ".join(run or [output])):
        for line in write_annexes(output, keywords, run or [], questions or [], policy):
            print(printable(line))
