"""Fine-tune a model on a safety corpus: `python ray_jobs/finetune.py --help`.

Runs the same on a laptop and, under `ray job submit`, on a cluster. Repeating the command continues an
interrupted run.
"""

import tempfile
from typing import TYPE_CHECKING, Annotated

import typer

from ray_jobs.common import Console, job, join_ray
from ray_jobs.supervise import supervise
from safe_r1.settings import hide_credentials, load_config
from safe_r1.train.config import FinetuneConfig

if TYPE_CHECKING:
    from safe_r1.train.finetune import TrainResult


def main(
    variant: Annotated[
        str | None, typer.Option(help="A name of `safe-r1 models`, a hub id, a model folder, or a URI.")
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            help="Folder or URI that build_corpus wrote, or your own data: a file, folder or glob of "
            "conversations, or hf:OWNER/NAME[:CONFIG][:SPLIT]."
        ),
    ] = None,
    output: Annotated[str | None, typer.Option(help="Folder or URI for the runs.")] = None,
    num_workers: Annotated[
        str | None, typer.Option(help="Number of workers: N, or MIN-MAX for elastic training.")
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="Maximum number of optimizer steps.")] = None,
    lora: Annotated[
        bool, typer.Option("--lora", help="Train low-rank adapters instead of all parameters.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Fail unless there is a run to resume.")] = False,
    config: Annotated[str | None, typer.Option(help="TOML or YAML file with settings.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override any setting, e.g. optimizer.lr=2e-5.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and the first batch without training.")
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
        overrides = []
        if lora:
            overrides.append("lora={}")
        if resume:
            overrides.append("resume=true")
        settings = load_config(FinetuneConfig, config, [*overrides, *(set_ or [])], **flags)
        # Imported late: these import torch, which takes seconds that a wrong setting should not cost.
        from safe_r1.evaluation.safety_check import make_measure
        from safe_r1.train.finetune import dry_run as show_plan
        from safe_r1.train.finetune import finetune

        join_ray(console)
        with tempfile.TemporaryDirectory() as scratch:
            # A dry run leaves nothing behind.
            settings = _with_corpus(settings, scratch if dry_run else settings.output, console)
            if dry_run:
                show_plan(settings, console.show)
                return
        console.show(
            f"finetune: {settings.variant} on {settings.corpus} → {settings.output}; log: {console.log}"
        )
        _show_result(console, finetune(settings, console.progress, console.log, make_measure))


def _with_corpus(settings: FinetuneConfig, output: str, console: Console) -> FinetuneConfig:
    """The settings with a corpus that was built, from the user's own data where they are given."""
    from safe_r1.corpus.own import build_own, is_own_data
    from safe_r1.resources import disconnect

    if not is_own_data(settings.corpus):
        return settings
    from ray_jobs.build_corpus import summarize

    console.show(f"finetune: your own data {hide_credentials(settings.corpus)}, made into a corpus first")
    result = build_own(settings.corpus, output, console.progress)
    summarize(console, settings.corpus, result)
    # A Ray that was started for the corpus is smaller than what training needs.
    disconnect()
    return settings.model_copy(update={"corpus": str(result.folder.path)})


def _show_result(console: Console, result: "TrainResult") -> None:
    info = result.info
    console.show(f"\n{info['variant']['name']}{' (was complete)' if result.was_complete else ''}")
    console.show(
        f"  {info['num_steps']} steps; exported step {info['exported_step']}, {info['wall_s']:.0f} s"
    )
    for kind, loss in info["validation"].items():
        first_loss = info["first_validation"].get(kind, loss)
        console.show(f"  validation loss, {kind:18} {first_loss:.3f} → {loss:.3f}")
    for step, score in info.get("safety_checks", {}).items():
        console.show(
            f"  safety check after step {step:>4}: refuses {score['refused']:.0%} of {score['num_risky']} "
            f"risky, {score['over_refused']:.0%} of {score['num_harmless']} harmless questions"
        )
    console.show(f"  model: {result.model}")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    supervise(app)
