"""Judge finished runs again by another judge: `python ray_jobs/rejudge.py --help`.

Nothing is generated again. The same command again judges only what is missing.
"""

from typing import Annotated

import typer

from ray_jobs.common import Console, job, join_ray
from safe_r1.evaluation.rejudge import RejudgeConfig, Rejudged
from safe_r1.settings import load_config


def main(
    run: Annotated[
        str,
        typer.Argument(help="Finished runs: OUTPUT/RUN/VARIANT/BENCHMARK, or a folder or URI above it."),
    ],
    judge: Annotated[
        str | None,
        typer.Option(
            help="lexicon, llm, a guard (qwen3guard, llamaguard, wildguard, shieldgemma), "
            "[GUARD:]URL[#MODEL] of an OpenAI-compatible endpoint, or the name of an installed judge."
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
        settings = load_config(
            RejudgeConfig, config, set_ or [], run=run, judge__kind=judge, judge__policy=judge_prompt
        )
        from safe_r1.evaluation.rejudge import rejudge
        from safe_r1.inference.startup import show_startup
        from safe_r1.judge.forms import needs_engine

        if needs_engine(settings.judge):
            join_ray(console)
        with show_startup(console.show):
            results = rejudge(settings, console.progress)
        for result in results:
            _summarize(console, result)


def _summarize(console: Console, result: Rejudged) -> None:
    from safe_r1.report.terminal import headline

    state = " (was complete)" if result.was_complete else ""
    console.show(f"\n{result.run.path.name} by {result.judge}{state}")
    for line in headline(result.metrics):
        console.show(f"  {line}")
    console.show(f"  report: {result.folder.path / 'report.html'}")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    app()
