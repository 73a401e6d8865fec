"""The command `safe-r1`: tools that need no cluster, and the jobs of `ray_jobs`.

Every command imports what it needs when it runs, so that `safe-r1 --help` is fast.
"""

import dataclasses
import errno
import importlib
import json
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from safe_r1 import __version__
from safe_r1.attacks import commands as attacks
from safe_r1.calibration import commands as calibration
from safe_r1.compare import commands as compare
from safe_r1.corpus import commands as corpus
from safe_r1.errors import ConfigError, SafeR1Error, reading
from safe_r1.evaluation import commands as evaluation
from safe_r1.filing import commands as filing
from safe_r1.filing.annex_commands import annexes
from safe_r1.gate import commands as gate
from safe_r1.language import use_utf8
from safe_r1.redaction import hide_credentials

if TYPE_CHECKING:
    from safe_r1.benchmarks import OwnBenchmark

JOBS = {
    "evaluate": ("ray_jobs.evaluate", "Evaluate one model variant and write a report."),
    "rejudge": (
        "ray_jobs.rejudge",
        "Add the verdicts of another judge to finished runs, without generating again.",
    ),
    "build-corpus": ("ray_jobs.build_corpus", "Build a corpus and its dataset card."),
    "finetune": (
        "ray_jobs.finetune",
        "Fine-tune, and export a model that vLLM, transformers and the evaluation job load.",
    ),
    "serve": (
        "ray_jobs.serve",
        "Serve models and a judge over HTTP: OpenAI's API, and batched safety evaluation.",
    ),
    "campaign": (
        "ray_jobs.campaign",
        "Evaluate, fine-tune, evaluate again and compare many variants in parallel.",
    ),
}
"""Command to the module of its job script and the first line of its help."""

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        print(f"safe-r1 {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit."),
    ] = False,
) -> None:
    """Measure and repair the Chinese-language safety of DeepSeek-R1 models."""


def _add_job(name: str, module: str, summary: str) -> None:
    """Add the command of a job script; its module, its options and its help are loaded when it is called."""

    def run(context: typer.Context) -> None:
        importlib.import_module(module).app(args=context.args, prog_name=context.command_path)

    passed_on = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command(name, help=summary, add_help_option=False, context_settings=passed_on)(run)


for _name, (_module, _summary) in JOBS.items():
    _add_job(_name, _module, _summary)


@app.command()
def models(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False) -> None:
    """List the known model variants."""
    from safe_r1.models.registry import VARIANTS

    if as_json:
        print(json.dumps([dataclasses.asdict(variant) for variant in VARIANTS.values()], indent=1))
        return
    print(f"{'name':28} {'kind':9} {'family':12} {'params':>8} {'GPUs':>4} {'prompt':6} source")
    for variant in VARIANTS.values():
        gpus = variant.num_gpus
        head = f"{variant.name:28} {variant.kind:9} {variant.family:12} {variant.params_b:6.4g} B"
        print(f"{head} {gpus:4} {variant.style:6} {variant.source}")
    print(
        "Variants too: a hub id (owner/model or owner/model@revision), modelscope:OWNER/MODEL, a model "
        "folder, and a URI (s3://, gs://)."
    )


@app.command()
def fetch(
    benchmark: Annotated[str, typer.Argument(help="Name of the benchmark, e.g. math-500.")],
    target: Annotated[
        str | None, typer.Option(help="Folder for the files; default: where the jobs look for them.")
    ] = None,
) -> None:
    """Download a benchmark at its pinned commit and check its hashes."""
    from safe_r1.benchmarks import find_benchmark, names
    from safe_r1.benchmarks.fetch import fetch as download

    found = find_benchmark(benchmark) if benchmark in names() else None
    if found is None or found.source is None:
        known = [name for name in names() if (each := find_benchmark(name)) and each.source]
        raise ConfigError(f"cannot fetch {benchmark!r}: known are {', '.join(known)}")
    print(f"{benchmark}: {download(found.source, target)}")


app.add_typer(corpus.recipes, name="recipe")
app.add_typer(attacks.app, name="attacks")
questions = typer.Typer(no_args_is_help=True, help="Own questions: how a file of them is read.")
app.add_typer(questions, name="benchmark")
QuestionsFile = Annotated[
    str, typer.Argument(help="File, URI or hf:OWNER/NAME[:CONFIG][:SPLIT] with questions.")
]
QuestionsSettings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any setting, e.g. benchmark.task=refusal; may be repeated."),
]


@questions.command()
def check(
    file: QuestionsFile,
    set_: QuestionsSettings = None,
) -> None:
    """Show the columns, counts and samples of a file of questions, and every row that does not fit."""
    from safe_r1.benchmarks import check_questions
    from safe_r1.report.text import printable

    found = check_questions(_own_questions(file, set_))
    print("\n".join(map(printable, found.lines)))
    if found.num_misfits:
        raise typer.Exit(ConfigError.exit_code)


@questions.command("init")
def init_questions(
    file: QuestionsFile,
    set_: QuestionsSettings = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a TOML file that exists.")] = False,
) -> None:
    """Write the TOML file beside a file of questions: what was recognised, and why."""
    from safe_r1.benchmarks import write_settings
    from safe_r1.report.text import printable

    text, path = write_settings(_own_questions(file, set_), force)
    print(printable(text) + (f"written: {path}" if path else ""))


def _own_questions(file: str, overrides: list[str] | None) -> "OwnBenchmark":
    from safe_r1.benchmarks import evaluate_schema, own_questions
    from safe_r1.settings import load_config

    return own_questions(file, load_config(evaluate_schema(), None, overrides or [], variant="demo"))


@app.command("judge-agreement")
def judge_agreement(
    labels: Annotated[str, typer.Option(help="Labelled answers: the gold set's JSONL or XSTest's CSV.")],
    judge: Annotated[
        str,
        typer.Option(
            help="lexicon, [GUARD:]URL[#MODEL] of an OpenAI-compatible endpoint, with a guard of qwen3guard, "
            "llamaguard, wildguard and shieldgemma, or name of an installed judge."
        ),
    ] = "lexicon",
    model: Annotated[str | None, typer.Option(help="Model name at the endpoint.")] = None,
    judge_prompt: Annotated[
        str | None, typer.Option(help="Text or TOML file with a prompt for a model behind a URL.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any setting of a judge, e.g. max_tokens=64; may be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure how far a judge agrees with labelled answers."""
    from safe_r1.config import JudgeConfig
    from safe_r1.judge.agreement import measure_agreement
    from safe_r1.judge.factory import make_judge
    from safe_r1.settings import load_config

    config = load_config(JudgeConfig, None, set_ or [], kind=judge, model=model, policy=judge_prompt)
    agreement = measure_agreement(make_judge(config), labels)
    print(json.dumps(agreement.to_json(), ensure_ascii=False) if as_json else agreement.to_text())


@app.command()
def plan(
    variant: Annotated[
        str | None, typer.Option(help="A name of `safe-r1 models`, a hub id, or a model folder.")
    ] = None,
    all_variants: Annotated[bool, typer.Option("--all", help="Plan for all R1 models.")] = False,
    gpu: Annotated[
        str | None, typer.Option(help="GPU type, e.g. h100-80; default: the variant's own.")
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option(min=1, help="Number of nodes, with all their GPUs; default: the variant's own."),
    ] = None,
    seq_len: Annotated[int | None, typer.Option(min=32, help="Tokens per packed sequence.")] = None,
    global_batch_size: Annotated[
        int | None, typer.Option(min=1, help="Sequences per optimizer step.")
    ] = None,
    corpus_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens in the corpus.")] = None,
    volume_gib: Annotated[
        float | None, typer.Option(min=1, help="GiB of the volume for model, checkpoints and export.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, or a list with --all.")
    ] = False,
) -> None:
    """Estimate GPUs, memory, time by part, disk and volume for fine-tuning; run nothing."""
    from safe_r1.models.registry import VARIANTS, get_variant
    from safe_r1.train.plan import plan_variant
    from safe_r1.train.plan_text import table, to_json, to_text

    if all_variants == (variant is not None):
        raise ConfigError("plan takes either --variant NAME or --all")
    settings = {"seq_len": seq_len, "global_batch_size": global_batch_size, "corpus_tokens": corpus_tokens}
    settings = {name: value for name, value in settings.items() if value is not None}
    chosen = [get_variant(variant)] if variant else [each for each in VARIANTS.values() if each.kind == "r1"]
    plans = {
        each.name: plan_variant(each, gpu, nodes, volume_limit_gib=volume_gib, **settings) for each in chosen
    }
    if as_json:
        found = [to_json(name, plan) for name, plan in plans.items()]
        print(json.dumps(found if all_variants else found[0], indent=1))
    else:
        print(table(plans) if all_variants else to_text(*next(iter(plans.items()))))


@app.command()
def report(
    run: Annotated[
        str,
        typer.Argument(
            help="Folder of a finished run: OUTPUT/RUN/VARIANT/BENCHMARK, with all of its judges; or "
            "judges/NAME in it, for one of them."
        ),
    ],
) -> None:
    """Compute the metrics of a finished run again from its rows, and render its reports."""
    from safe_r1.evaluation.rewrite import rewrite

    with reading(run):
        for page in rewrite(run):
            print(f"report: {hide_credentials(page)}")


@app.command()
def export(
    run: Annotated[
        str,
        typer.Argument(help="Finished runs: OUTPUT/RUN/VARIANT/BENCHMARK, or a folder or URI above it."),
    ],
    format_: Annotated[
        list[str] | None,
        typer.Option("--format", help="parquet, csv, xlsx; by comma or repeated. Default: all three."),
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="Folder or URI of the files; default: each run's own folder.")
    ] = None,
) -> None:
    """Write the rows of finished runs as tables: results.parquet, results.csv, results.xlsx."""
    from safe_r1.config import split_names
    from safe_r1.report.export import FORMATS, export_runs

    formats = split_names(format_) if format_ else FORMATS
    with reading(run):
        for exported in export_runs(run, formats, output):
            print(f"export: {exported.to_text()}")


app.command()(evaluation.repair)
app.command("label-sample")(calibration.label_sample)
app.command()(calibration.calibrate)
app.command()(compare.compare)
app.command()(gate.gate)
app.command()(filing.dossier)
app.command()(annexes)


@app.command()
def status(output: Annotated[str, typer.Argument(help="Folder or URI of a campaign.")]) -> None:
    """Show the status of a campaign, from any machine that can read its folder."""
    from rich.console import Console

    from safe_r1.campaign.view import read_snapshot, to_table

    Console().print(to_table(read_snapshot(output)))


def main() -> None:
    """Entry point: a ``SafeR1Error`` becomes one line on stderr and its exit code; jobs are supervised."""
    if sys.argv[1:2] and sys.argv[1] in JOBS:
        from ray_jobs.supervise import supervise

        supervise(_run)
    else:
        _run()


def _run() -> None:
    use_utf8()
    try:
        try:
            app()
        finally:
            # Here, as Python itself tells of a full disk in several lines.
            sys.stdout.flush()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        # What is still to be printed cannot be.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        where = f" {error.filename}" if error.filename else ""
        print(
            f"safe-r1: cannot write{where}: {error.strerror}; free space, then run it again", file=sys.stderr
        )
        raise SystemExit(ConfigError.exit_code) from None
    except SafeR1Error as error:
        print(f"safe-r1: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
