"""The command `safe-r1`: what needs no cluster."""

import dataclasses
import json
import sys
from typing import Annotated

import typer

from safe_r1.errors import ConfigError, SafeR1Error

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.command()
def models(as_json: Annotated[bool, typer.Option("--json", help="One JSON list.")] = False) -> None:
    """List the model variants by name."""
    from safe_r1.models.registry import VARIANTS

    if as_json:
        print(json.dumps([dataclasses.asdict(variant) for variant in VARIANTS.values()], indent=1))
        return
    print(f"{'name':28} {'kind':9} {'family':12} {'params':>8} {'GPUs':>4} {'prompt':6} source")
    for variant in VARIANTS.values():
        gpus = variant.tensor_parallel_size
        hub = "" if variant.hub == "huggingface" else f" ({variant.hub})"
        head = f"{variant.name:28} {variant.kind:9} {variant.family:12} {variant.params_b:6.4g} B"
        print(f"{head} {gpus:4} {variant.style:6} {variant.source}{hub}")
    print("Any hub id (owner/model, owner/model@revision) or model folder works as a variant too.")


@app.command()
def fetch(
    benchmark: Annotated[str, typer.Argument(help="chisafetybench, math-500, gsm8k or xstest.")],
    target: Annotated[
        str | None, typer.Option(help="Folder for the files; the default is where the jobs look.")
    ] = None,
) -> None:
    """Download a benchmark at its pinned commit and check it."""
    from safe_r1.benchmarks.fetch import SOURCES
    from safe_r1.benchmarks.fetch import fetch as download

    if benchmark not in SOURCES:
        raise ConfigError(f"cannot fetch {benchmark!r}: known are {', '.join(SOURCES)}")
    print(f"{benchmark}: {download(SOURCES[benchmark], target)}")


@app.command("judge-agreement")
def judge_agreement(
    labels: Annotated[str, typer.Option(help="Labelled answers: the gold set's JSONL or XSTest's CSV.")],
    judge: Annotated[
        str,
        typer.Option(help="lexicon, the URL of an OpenAI-compatible endpoint, or the name of an installed judge."),
    ] = "lexicon",
    model: Annotated[str | None, typer.Option(help="Model name at the endpoint.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Measure how far a judge agrees with labelled answers."""
    from safe_r1.config import JudgeConfig, load_config
    from safe_r1.judge.agreement import measure_agreement
    from safe_r1.judge.factory import make_judge

    if judge == "llm":
        raise ConfigError(
            "judge-agreement runs without a cluster: serve the model and give its URL as --judge"
        )
    agreement = measure_agreement(
        make_judge(load_config(JudgeConfig, None, [], kind=judge, model=model)), labels
    )
    print(json.dumps(agreement.to_json(), ensure_ascii=False) if as_json else agreement.to_text())


@app.command()
def plan(
    variant: Annotated[
        str | None, typer.Option(help="A name of `safe-r1 models`, a hub id, or a folder.")
    ] = None,
    all_variants: Annotated[bool, typer.Option("--all", help="The seven R1 models.")] = False,
    gpu: Annotated[
        str | None, typer.Option(help="Kind of GPU, e.g. h100-80; else the variant's own.")
    ] = None,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Machines, all their GPUs; else the variant's own.")
    ] = None,
    seq_len: Annotated[int | None, typer.Option(min=32, help="Tokens of a packed sequence.")] = None,
    global_batch_size: Annotated[
        int | None, typer.Option(min=1, help="Sequences of an optimizer step.")
    ] = None,
    corpus_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of the corpus.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, or a list with --all.")] = False,
) -> None:
    """Say what fine-tuning takes: GPUs, memory by part, time and disk. Starts nothing."""
    from safe_r1.models.registry import VARIANTS, get_variant
    from safe_r1.train.plan import plan_variant
    from safe_r1.train.plan_text import table, to_json, to_text

    if all_variants == (variant is not None):
        raise ConfigError("plan takes either --variant NAME or --all")
    settings = {"seq_len": seq_len, "global_batch_size": global_batch_size, "corpus_tokens": corpus_tokens}
    settings = {name: value for name, value in settings.items() if value is not None}
    chosen = [get_variant(variant)] if variant else [each for each in VARIANTS.values() if each.kind == "r1"]
    plans = {each.name: plan_variant(each, gpu, nodes, **settings) for each in chosen}
    if as_json:
        found = [to_json(name, plan) for name, plan in plans.items()]
        print(json.dumps(found if all_variants else found[0], indent=1))
    else:
        print(table(plans) if all_variants else to_text(*next(iter(plans.items()))))


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="OUTPUT/RUN/VARIANT/BENCHMARK of a finished run.")],
) -> None:
    """Write the report of a finished run again, from its rows."""
    from safe_r1.evaluation.job import rewrite_report

    print(f"report: {rewrite_report(run)}")


@app.command()
def compare(
    runs: Annotated[
        list[str], typer.Argument(help="Finished runs: OUTPUT, OUTPUT/RUN, .../VARIANT or .../BENCHMARK.")
    ],
    baseline: Annotated[
        str, typer.Option(help="The variant that all others are compared with; A,B: B where A was not run.")
    ],
    output: Annotated[str, typer.Option(help="Folder of the report.")],
    allow: Annotated[
        bool, typer.Option("--allow", help="Compare what is not alike; the report says so.")
    ] = False,
    margin: Annotated[
        float | None, typer.Option(help="Loss of pass@1 that counts as none; 0.03 is three points.")
    ] = None,
) -> None:
    """Compare finished runs of several variants: differences, tests, what it cost."""
    from safe_r1.compare.run import compare as write_comparison
    from safe_r1.report.labels import METRICS

    outcome = write_comparison(runs, baseline, output, allow, margin)
    for problem in outcome.content.problems:
        print(f"not alike: {problem}")
    for pair in outcome.content.pairs:
        print(f"{pair.first} → {pair.second} ({pair.relation.en})")
        for one in pair.comparisons:
            found = one.found
            change = f"{100 * found.value:+6.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
            rates = f"{100 * found.first:5.1f} → {100 * found.second:5.1f} %"
            print(
                f"  {one.benchmark:22} {METRICS[one.metric].en:32} {rates}  {change:24} p (Holm) {one.p_holm:.3g}"
            )
    print(f"report: {outcome.report}")


@app.command()
def status(output: Annotated[str, typer.Argument(help="Folder or URI of a campaign.")]) -> None:
    """Show how far a campaign is, from anywhere that its folder can be read."""
    from rich.console import Console

    from safe_r1.campaign.view import read_snapshot, to_table

    Console().print(to_table(read_snapshot(output)))


def main() -> None:
    """Entry point: an error of the user's is one line on stderr and its exit code."""
    try:
        app()
    except SafeR1Error as error:
        print(f"safe-r1: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
