"""Build a corpus for safety fine-tuning from a recipe: `python ray_jobs/build_corpus.py --help`.

Runs the same on a laptop and, under `ray job submit`, on a cluster. The same command again does only what is
missing.
"""

from typing import Annotated, Any

import typer

from ray_jobs.common import Console, job
from safe_r1.corpus.recipe import load_recipe


def main(
    recipe: Annotated[str, typer.Option(help="A recipe of the package (paper-50k, local) or a TOML file.")],
    data: Annotated[
        str | None, typer.Option(help="Folder or URI that the recipe's relative paths start from.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="template, llm, or the URL of an OpenAI-compatible endpoint.")
    ] = None,
    output: Annotated[str | None, typer.Option(help="Folder or URI of the corpus.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting of the recipe, e.g. total=1000.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show sources, quotas and costs; run nothing.")
    ] = False,
) -> None:
    """Build a corpus and write its card."""
    with job("build_corpus") as console:
        settings = load_recipe(recipe, set_ or [], data=data, teacher=teacher, output=output)
        if dry_run:
            from safe_r1.corpus.plan import dry_run as show_plan

            show_plan(settings, console.show)
            return
        from safe_r1.corpus.build import build

        console.show(f"build_corpus: {settings.name} → {settings.output}; log: {console.log}")
        _summarize(console, build(settings, console.progress))


def _summarize(console: Console, outcome: Any) -> None:
    from safe_r1.corpus.card import sum_rows

    info = outcome.info
    console.show(f"\n{info['recipe']['name']}{' (was complete)' if outcome.was_complete else ''}")
    console.show(
        f"  {info['num_read']:,} rows read = {info['num_kept']:,} kept + {info['num_dropped']:,} dropped"
    )
    for kind, count in sum_rows(info["kept"], "kind", "language").most_common():
        console.show(f"  {'/'.join(kind):28} {count:>8,}")
    for reason, count in sum_rows(info["dropped"], "stage", "reason").most_common():
        console.show(f"  dropped, {': '.join(reason):35} {count:>8,}")
    console.show(
        f"  {', '.join(f'{count:,} {split}' for split, count in info['splits'].items())}; {info['sessions'][-1]:.0f} s"
    )
    console.show(f"  card: {outcome.folder.path / 'README.md'}")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    app()
