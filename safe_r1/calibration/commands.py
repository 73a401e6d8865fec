"""The commands ``safe-r1 label-sample`` and ``safe-r1 calibrate``.

They import what they need when they run, so that ``safe-r1 --help`` is fast.
"""

from typing import Annotated

import typer

from safe_r1.errors import reading


def label_sample(
    run: Annotated[str, typer.Argument(help="Folder of a finished run: OUTPUT/RUN/VARIANT/BENCHMARK.")],
    num: Annotated[
        int, typer.Option("--n", min=1, help="Texts to label, of each kind that --of names.")
    ] = 120,
    of: Annotated[
        list[str] | None,
        typer.Option(
            help="What is labelled: answer, reasoning, or key (the answer key's letters); by comma or "
            "repeated. Default: answers, or the key where no answer was judged."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    output: Annotated[
        str | None, typer.Option(help="Folder of the files; default: label-sample/ in the run folder.")
    ] = None,
) -> None:
    """Draw texts of a finished run for people to label: an offline page, a table, a record."""
    from safe_r1.calibration.label_sample import write_label_sample
    from safe_r1.config import split_names

    with reading(run):
        print(write_label_sample(run, num, seed, split_names(of or []), output).to_text())


def calibrate(
    run: Annotated[str, typer.Argument(help="Folder of a finished run: OUTPUT/RUN/VARIANT/BENCHMARK.")],
    labels: Annotated[
        list[str] | None,
        typer.Option(
            help="Labels of texts of this run (csv, xlsx, jsonl, json), from the page, the table, Argilla or "
            "Label Studio; may be repeated. They are recorded in the run folder, beside earlier ones, which "
            "count too."
        ),
    ] = None,
    sample: Annotated[
        list[str] | None,
        typer.Option(help="Folder that label-sample --output wrote; may be repeated."),
    ] = None,
    decides: Annotated[
        str | None, typer.Option(help="Annotator whose label counts alone where annotators disagree.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
) -> None:
    """Correct the rates of a run by people's labels of its own texts; writes calibration.json."""
    from safe_r1.calibration.calibrate import calibrate as correct

    with reading(run):
        print(correct(run, labels or [], sample or [], decides, seed).to_text())
