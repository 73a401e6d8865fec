"""Evaluate one model variant on safety benchmarks: `python ray_jobs/evaluate.py --help`.

Works the same on a laptop and, with `ray job submit`, on a cluster. The same command resumes an interrupted
run.
"""

from typing import TYPE_CHECKING, Annotated

import typer

from ray_jobs.common import Console, job, join_ray
from ray_jobs.supervise import supervise
from safe_r1.benchmarks import evaluate_schema
from safe_r1.settings import hide_credentials, load_config

if TYPE_CHECKING:
    from safe_r1.config import EvaluateConfig
    from safe_r1.evaluation.publish import BenchmarkResult

# The flags, in the order of the help text; `--set` reaches every setting.
VariantOption = Annotated[
    str,
    typer.Option(
        help="Model: a name listed by `safe-r1 models`, a hub id, a folder, a URI, endpoint:URL#MODEL, "
        "or a TOML file of an endpoint."
    ),
]
BenchmarkOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Name of a benchmark, all-paper for those of the paper, or a file of your own questions "
        "(also a URI or hf:OWNER/NAME[:CONFIG][:SPLIT]); may be repeated."
    ),
]
AttackOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Ask the risky questions as attackers do: an attack of `safe-r1 attacks list`, a combination "
        "(pinyin+role), a set (zh-quick, zh-standard, all) or a TOML file; or one that adapts (pair, tap, "
        "crescendo, bon; `--set adaptive.attacker=NAME`); may be repeated."
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(help="Folder or URI of the benchmark's files, or of a folder for each benchmark."),
]
AnswerKeyOption = Annotated[
    str | None, typer.Option(help="File or URI of an answer key that replaces the shipped one.")
]
JudgeOption = Annotated[
    list[str] | None,
    typer.Option(
        help="lexicon, llm, a guard (qwen3guard, llamaguard, wildguard, shieldgemma), "
        "[GUARD:]URL[#MODEL] of an OpenAI-compatible endpoint, or the name of an installed judge; "
        "may be repeated: the first one's verdicts are the run's, each other has rates of its own."
    ),
]
JudgeRuleOption = Annotated[
    str | None,
    typer.Option(help="One label of several judges together: majority, strictest or first."),
]
JudgePromptOption = Annotated[
    str | None,
    typer.Option(
        help="Text file with a prompt for llm and URLs, such as that of the benchmark's authors, or TOML "
        "file with a prompt and labels."
    ),
]
RepeatsOption = Annotated[
    int | None, typer.Option(help="Completions of each question; by default the benchmark's own number.")
]
LimitOption = Annotated[
    int | None,
    typer.Option(help="Maximum number of questions per benchmark, stratified and seeded."),
]
SwapOption = Annotated[
    bool,
    typer.Option(
        "--swap-options",
        help="Ask each multiple-choice question a second time with its options reversed.",
    ),
]
FinishOption = Annotated[
    bool,
    typer.Option(
        "--finish-answers",
        help="Ask the model to end each multiple-choice answer in which no option was found; reported beside "
        "the strict accuracy.",
    ),
]
MaxCostOption = Annotated[
    float | None,
    typer.Option(help="Maximum cost of the run at an endpoint, in the currency of its prices."),
]
OutputOption = Annotated[str | None, typer.Option(help="Folder or URI of the results.")]
ExportOption = Annotated[
    list[str] | None,
    typer.Option(help="Tables of all completions beside the report: parquet,csv,xlsx; may be repeated."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any setting, e.g. generation.temperature=0; may be repeated."),
]
ConfigOption = Annotated[str | None, typer.Option(help="TOML or YAML file of settings.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show settings, prompts and resources without running anything.")
]


def main(
    variant: VariantOption,
    benchmark: BenchmarkOption = None,
    attack: AttackOption = None,
    data: DataOption = None,
    answer_key: AnswerKeyOption = None,
    judge: JudgeOption = None,
    judge_prompt: JudgePromptOption = None,
    judge_rule: JudgeRuleOption = None,
    repeats: RepeatsOption = None,
    limit: LimitOption = None,
    swap_options: SwapOption = False,
    finish_answers: FinishOption = False,
    max_cost: MaxCostOption = None,
    output: OutputOption = None,
    export: ExportOption = None,
    set_: SetOption = None,
    config: ConfigOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Evaluate one model variant and write a report."""
    with job("evaluate") as console:
        first, *others = judge or [None]
        settings = load_config(
            evaluate_schema(),
            config,
            set_ or [],
            variant=variant,
            benchmarks=benchmark or None,
            attacks=attack or None,
            data=data,
            answer_key=answer_key,
            judge__kind=first,
            further_judges=others or None,
            judge_rule=judge_rule,
            judge__policy=judge_prompt,
            repeats=repeats,
            limit=limit,
            swap_options=swap_options or None,
            finish_answers=finish_answers or None,
            endpoint__max_cost=max_cost,
            output=output,
            export=export or None,
        )
        if dry_run:
            from safe_r1.evaluation.dry_run import dry_run as show_plan

            show_plan(settings, console.show)
        else:
            _evaluate(settings, console)


def _evaluate(settings: "EvaluateConfig", console: Console) -> None:
    from ray_jobs.rejudge import show_judges
    from safe_r1.evaluation.job import evaluate
    from safe_r1.evaluation.panels import judge_further
    from safe_r1.evaluation.publish import check_published
    from safe_r1.evaluation.tracking import record_results
    from safe_r1.inference.startup import show_startup

    join_ray(console)
    benchmarks = hide_credentials(", ".join(settings.benchmarks))
    console.show(f"evaluate: {hide_credentials(settings.variant)} on {benchmarks}; log: {console.log}")
    with show_startup(console.show):
        results = evaluate(settings, console.progress, console.log)
    published = [result for result in results if not result.problem]
    # Of attacks one table says it all.
    for result in published if not settings.attacks else ():
        _summarize(console, result)
    if settings.attacks:
        from safe_r1.evaluation.attack_report import report_attacks

        for path, report in report_attacks(results):
            console.show("\n".join([*report.lines(), f"  report: {path}"]))
    record_results(settings, published)
    judged, panels = judge_further(settings, published, console.progress)
    show_judges(console, judged, panels)
    check_published(results)


def _summarize(console: Console, result: "BenchmarkResult") -> None:
    from safe_r1.report.terminal import headline

    console.show(f"\n{result.benchmark}{' (was complete)' if result.was_complete else ''}")
    for line in headline(result.metrics):
        console.show(f"  {line}")
    console.show(f"  report: {result.folder.path / 'report.html'}")
    for exported in result.exports:
        console.show(f"  export: {exported.to_text()}")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    supervise(app)
