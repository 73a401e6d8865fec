"""Build a corpus for safety fine-tuning from a recipe: `python ray_jobs/build_corpus.py --help`.

Runs the same on a laptop and, under `ray job submit`, on a cluster. The same command resumes an interrupted
job.
"""

from typing import TYPE_CHECKING, Annotated

import typer

from ray_jobs.common import Console, job, join_ray
from ray_jobs.supervise import supervise
from safe_r1.corpus.recipe import load_recipe

if TYPE_CHECKING:
    from safe_r1.corpus.build import CorpusResult


def main(
    recipe: Annotated[
        str,
        typer.Option(
            help="Name of a shipped recipe (seeds, seeds-attacks, local, paper-50k) or path of a TOML file."
        ),
    ],
    data: Annotated[
        str | None, typer.Option(help="Folder or URI that relative paths in the recipe start from.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Writes the missing responses: template, llm, or the URL of an OpenAI-compatible endpoint."
        ),
    ] = None,
    output: Annotated[str | None, typer.Option(help="Output folder or URI of the corpus.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override any setting of the recipe, for example total=1000."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show sources, quotas and estimated cost without starting anything."),
    ] = False,
) -> None:
    """Build a corpus and its dataset card."""
    with job("build_corpus") as console:
        settings = load_recipe(recipe, set_ or [], data=data, teacher=teacher, output=output)
        if dry_run:
            from safe_r1.corpus.plan import dry_run as show_plan

            show_plan(settings, console.show)
            return
        from safe_r1.corpus.build import build
        from safe_r1.inference.startup import show_startup

        join_ray(console)
        console.show(f"build_corpus: {settings.name} → {settings.output}; log: {console.log}")
        with show_startup(console.show):
            result = build(settings, console.progress)
        summarize(console, settings.name, result)


def summarize(console: Console, name: str, result: "CorpusResult") -> None:
    """Show the counts of a corpus."""
    from safe_r1.corpus.accounting import sum_rows

    info = result.info
    console.show(f"\n{name}{' (was complete)' if result.was_complete else ''}")
    console.show(
        f"  {info['num_read']:,} rows read = {info['num_kept']:,} kept + {info['num_dropped']:,} dropped"
    )
    for kind, count in sum_rows(info["kept"], "kind", "language").most_common():
        console.show(f"  {'/'.join(kind):28} {count:>8,}")
    for reason, count in sum_rows(info["dropped"], "stage", "reason").most_common():
        console.show(f"  dropped, {': '.join(reason):35} {count:>8,}")
    for repair, count in sum_rows(info.get("repaired", []), "repair").most_common():
        console.show(f"  repaired, {repair[0]:34} {count:>8,}")
    if attacks := info.get("attacks"):
        for attack, count in attacks["rows"].items():
            console.show(f"  asked through {attack:30} {count:>8,}")
        console.show(f"  attacks held out: {', '.join(attacks['held_out']) or 'none'}")
    splits = ", ".join(f"{count:,} {split}" for split, count in info["splits"].items())
    console.show(f"  {splits}; {info['sessions'][-1]:.0f} s")
    console.show(f"  card: {result.folder.path / 'README.md'}")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    supervise(app)
