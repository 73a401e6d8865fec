"""The command ``safe-r1 dossier``; it imports what it needs when it runs, so that `--help` is fast."""

from typing import Annotated

import typer

from safe_r1.errors import ConfigError, ExitCode


def dossier(
    plan: Annotated[
        bool, typer.Option("--plan", help="Print the policy's figures, and the chances of its samples.")
    ] = False,
    policy: Annotated[
        str | None, typer.Option(help="TOML file with other figures; default: gb-t-45654-2025.")
    ] = None,
    questions: Annotated[
        list[str] | None,
        typer.Option(
            help="BANK=FILE with questions of a bank (content, refuse, answer), your own ones too; repeat "
            "for more. Numbers by risk are held against the policy."
        ),
    ] = None,
    result: Annotated[
        list[str] | None,
        typer.Option(
            help="BANK=HITS/ANSWERS[+MISSING], as people judged them: verdict, interval, chances; repeat "
            "for more."
        ),
    ] = None,
    simulate: Annotated[
        int | None,
        typer.Option(
            min=1, max=100_000, help="Put so many simulated services of known quality through the gates."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="How files are read, e.g. benchmark.sheet=NAME; may be repeated."),
    ] = None,
) -> None:
    """Plan the filing test: figures, coverage of banks, verdicts. Exit 4: one is not met; 3: not sure."""
    if not (plan or questions or result or simulate):
        raise ConfigError("dossier: give --plan, --questions, --result or --simulate; see --help")

    from safe_r1.filing import markdown
    from safe_r1.filing.policy import load_policy
    from safe_r1.gate.decide import Status

    figures = load_policy(policy)
    lines = list(markdown.remark(figures))
    statuses = [Status.PASS]
    if plan:
        lines += [*markdown.figures(figures), *markdown.chances(figures)]
    if questions:
        from safe_r1.filing.coverage import check_coverage
        from safe_r1.filing.questions import read_questions

        check = check_coverage(read_questions(questions, figures, set_ or []), figures)
        lines += ["", *markdown.coverage(check)]
        statuses.append(Status.PASS if check.is_complete else Status.FAIL)
    if result:
        from safe_r1.filing.results import decide_results

        found = decide_results(result, figures)
        lines += markdown.verdicts(figures, found)
        statuses += [verdict.status for _, verdict in found]
    if simulate:
        from safe_r1.filing.simulate import NUM_LABELS
        from safe_r1.filing.simulate import simulate as run

        lines += ["", *markdown.simulation(figures, run(figures, num_services=simulate), NUM_LABELS)]
    print("\n".join(lines))
    code = max(status.value for status in statuses)
    if code != ExitCode.DONE:
        raise typer.Exit(code)
