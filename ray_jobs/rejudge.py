"""Judge finished runs again by another judge: `python ray_jobs/rejudge.py --help`.

Nothing is generated again. The same command again judges only what is missing.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ray_jobs.common import Console, job, join_ray
from ray_jobs.supervise import supervise
from safe_r1.errors import reading
from safe_r1.evaluation.rejudge import RejudgeConfig
from safe_r1.settings import hide_credentials, load_config

if TYPE_CHECKING:
    from safe_r1.evaluation.panels import Panel
    from safe_r1.evaluation.rejudge import Rejudged


def main(
    run: Annotated[
        str,
        typer.Argument(help="Finished runs: OUTPUT/RUN/VARIANT/BENCHMARK, or a folder or URI above it."),
    ],
    judge: Annotated[
        list[str] | None,
        typer.Option(
            help="lexicon, llm, a guard (qwen3guard, llamaguard, wildguard, shieldgemma), "
            "[GUARD:]URL[#MODEL] of an OpenAI-compatible endpoint, or the name of an installed judge; "
            "may be repeated."
        ),
    ] = None,
    judge_rule: Annotated[
        str | None,
        typer.Option(
            help="One label of the run's own judge and these together: majority, strictest or first."
        ),
    ] = None,
    judge_prompt: Annotated[
        str | None,
        typer.Option(
            help="Text file with a prompt for llm and URLs, such as that of the benchmark's authors, or TOML "
            "file with a prompt and labels."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any setting, e.g. judge.model=NAME; may be repeated."),
    ] = None,
    config: Annotated[str | None, typer.Option(help="TOML or YAML file of settings.")] = None,
) -> None:
    """Add the verdicts of another judge to finished runs, without generating again."""
    with job("rejudge") as console:
        first, *others = judge or [None]
        settings = load_config(
            RejudgeConfig,
            config,
            set_ or [],
            run=run,
            judge__kind=first,
            judge__policy=judge_prompt,
            further_judges=others or None,
            judge_rule=judge_rule,
        )
        from safe_r1.evaluation.panels import judge_again
        from safe_r1.inference.startup import show_startup
        from safe_r1.judge.forms import needs_engine

        if any(map(needs_engine, settings.judges)):
            join_ray(console)
        with show_startup(console.show), reading(hide_credentials(settings.run)):
            judged, panels = judge_again(settings, console.progress)
        show_judges(console, judged, panels)


def show_judges(console: Console, judged: "Sequence[Rejudged]", panels: "Sequence[Panel]") -> None:
    """Show the rates by further judges, and by all judges together with their agreement.

    Where runs are under attacks, write what came of the attacks by these judges.
    """
    from safe_r1.evaluation.attack_report import report_rejudged

    for result in judged:
        _show(console, result)
    for panel in panels:
        _show(console, panel.result)
        for task, agreement in panel.agreement.items():
            alpha = "–" if agreement.alpha is None else f"{agreement.alpha:.3f}"
            console.show(
                f"  {task}: {agreement.num_disagreed} of {agreement.num_answers} answers with several "
                f"labels, Krippendorff's alpha {alpha}"
            )
            for pair, kappa in agreement.kappa.items():
                console.show(f"    {pair}: Cohen's kappa {'–' if kappa is None else f'{kappa.value:.3f}'}")
    for path, report in report_rejudged([*judged, *(panel.result for panel in panels)]):
        console.show("\n".join([f"by {report.judge}:", *report.lines(), f"  report: {path}"]))


def _show(console: Console, result: "Rejudged") -> None:
    from safe_r1.report.terminal import headline

    state = " (was complete)" if result.was_complete else ""
    console.show(f"\n{result.run.path.name} by {result.judge}{state}")
    for line in headline(result.metrics):
        console.show(f"  {line}")
    console.show(f"  report: {result.folder.path / 'report.html'}")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    supervise(app)
