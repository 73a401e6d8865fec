"""Fine-tune every parameter of a model on a safety corpus: `python ray_jobs/finetune.py --help`.

Runs the same on a laptop and, under `ray job submit`, on a cluster. The same command again does only what is
missing.
"""

from typing import Annotated, Any

import typer

from ray_jobs.common import Console, job
from safe_r1.config import load_config
from safe_r1.train.config import FinetuneConfig


def main(
    variant: Annotated[
        str | None, typer.Option(help="A name of `safe-r1 models`, a hub id, or a model folder.")
    ] = None,
    corpus: Annotated[str | None, typer.Option(help="Folder or URI that build_corpus wrote.")] = None,
    output: Annotated[str | None, typer.Option(help="Folder or URI of the runs.")] = None,
    num_workers: Annotated[str | None, typer.Option(help="N, or MIN-MAX for elastic.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Stop after so many optimizer steps.")] = None,
    lora: Annotated[
        bool, typer.Option("--lora", help="Train low-rank adapters in place of every parameter.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Only go on with a run that is there.")] = False,
    config: Annotated[str | None, typer.Option(help="Settings as a TOML or YAML file.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting, e.g. optimizer.lr=2e-5.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and the first batch; train nothing.")
    ] = False,
) -> None:
    """Fine-tune, and export a model that vLLM, transformers and the evaluation job load."""
    with job("finetune") as console:
        flags = {
            "variant": variant,
            "corpus": corpus,
            "output": output,
            "num_workers": num_workers,
            "max_steps": max_steps,
        }
        extra = ([] if not lora else ["lora={}"]) + (["resume=true"] if resume else [])
        settings = load_config(FinetuneConfig, config, [*extra, *(set_ or [])], **flags)
        from safe_r1.train.finetune import dry_run as show_plan
        from safe_r1.train.finetune import finetune

        if dry_run:
            show_plan(settings, console.show)
            return
        console.show(
            f"finetune: {settings.variant} on {settings.corpus} → {settings.output}; log: {console.log}"
        )
        _summarize(console, finetune(settings, console.progress, console.log))


def _summarize(console: Console, outcome: Any) -> None:
    info = outcome.info
    console.show(f"\n{info['variant']['name']}{' (was complete)' if outcome.was_complete else ''}")
    console.show(
        f"  {info['num_steps']} steps; exported step {info['exported_step']}, {info['wall_s']:.0f} s"
    )
    for kind, loss in info["validation"].items():
        console.show(
            f"  validation loss, {kind:18} {info['first_validation'].get(kind, loss):.3f} → {loss:.3f}"
        )
    console.show(f"  model: {outcome.model}")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    app()
