"""Fine-tuning without Ray Train, as a module for ``torchrun``.

``torchrun --nproc-per-node=2 -m safe_r1.train --variant demo --corpus CORPUS --output RUNS``
"""

import sys
from typing import Annotated

import typer

from safe_r1.errors import SafeR1Error
from safe_r1.settings import load_config
from safe_r1.train.config import FinetuneConfig


def main(
    variant: Annotated[
        str | None, typer.Option(help="A name of `safe-r1 models`, a hub id, or a model folder.")
    ] = None,
    corpus: Annotated[str | None, typer.Option(help="Folder or URI that build_corpus wrote.")] = None,
    output: Annotated[str | None, typer.Option(help="Folder or URI for the runs.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Maximum number of optimizer steps.")] = None,
    config: Annotated[str | None, typer.Option(help="TOML or YAML file with settings.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override any setting, e.g. optimizer.lr=2e-5.")
    ] = None,
) -> None:
    """Fine-tune in the processes that torchrun started."""
    from safe_r1.train.torchrun import finetune_with_torchrun

    flags = {"variant": variant, "corpus": corpus, "output": output, "max_steps": max_steps}
    try:
        settings = load_config(FinetuneConfig, config, set_ or [], **flags)
        finetune_with_torchrun(settings, lambda text: print(text, flush=True))
    except SafeR1Error as error:
        print(f"safe_r1.train: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    typer.run(main)
