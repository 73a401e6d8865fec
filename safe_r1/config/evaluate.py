"""One evaluation job, and its report."""

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, field_validator

from safe_r1.config.adaptive import AdaptiveSettings
from safe_r1.config.endpoint import EndpointConfig
from safe_r1.config.engine import EngineConfig, GenerationConfig
from safe_r1.config.judge import JudgeConfig, JudgeRule
from safe_r1.settings import Settings

TrackerName = Literal["tensorboard", "mlflow", "wandb"]
ExportFormat = Literal["parquet", "csv", "xlsx"]


class ReportConfig(Settings):
    """The report of an evaluation."""

    max_rows: int = Field(
        default=5000,
        ge=1,
        description="rows in the browser of a report; of a larger run a stratified sample, with truncated, "
        "unscored and contradictory ones first",
    )
    margin: float = Field(
        default=0.03,
        gt=0,
        lt=1,
        description="non-inferiority margin for pass@1 in comparisons, as a fraction (`compare --margin` "
        "takes points); declared here before rates are seen",
    )


class EvaluateConfig(Settings):
    """One evaluation job: one variant on some benchmarks.

    ``safe_r1.benchmarks.evaluate_schema`` adds the groups of settings that benchmarks own.
    """

    variant: str = Field(
        description="a name of `safe-r1 models`, a hub id, a folder, a URI, endpoint:URL#MODEL, or its TOML "
        "file"
    )
    benchmarks: tuple[str, ...] = Field(
        default=("chisafetybench",), description="names of benchmarks, all-paper, or files of own questions"
    )
    attacks: tuple[str, ...] = Field(
        default=(),
        description="attacks under which the risky questions are asked, beside the questions as they are: "
        "names of `safe-r1 attacks list`, combinations (pinyin+role), sets (zh-quick, zh-standard, all), a "
        "TOML file, or an attack that adapts (pair, tap, crescendo, bon)",
    )
    data: str | None = Field(
        default=None, description="folder or URI of the benchmark's files, or of a folder for each benchmark"
    )
    answer_key: str | None = Field(
        default=None, description="file or URI of an answer key that replaces the shipped one"
    )
    output: str = Field(default="runs", description="folder or URI of the results")
    run: str = Field(
        default="main",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="name of the run inside the output",
    )
    repeats: int | None = Field(
        default=None, ge=1, description="completions of each question; None: the benchmark's default"
    )
    limit: int | None = Field(
        default=None, ge=1, description="maximum number of questions per benchmark, stratified and seeded"
    )
    swap_options: bool = Field(
        default=False, description="ask each multiple-choice question a second time with its options reversed"
    )
    finish_answers: bool = Field(
        default=False,
        description="ask the model to end each multiple-choice answer in which no option was found, cut "
        "thoughts included; reported as accuracy_finished beside the strict accuracy",
    )
    max_failed_share: float = Field(
        default=0.01, ge=0, lt=1, description="maximum share of failed rows; above it nothing is published"
    )
    min_scored_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="minimum share of answers with a label, in each task; below it, and always where no "
        "answer has one, nothing is published",
    )
    export: tuple[ExportFormat, ...] = Field(
        default=(), description="tables written beside the report, one row a completion: results.FORMAT"
    )
    trackers: tuple[TrackerName, ...] = Field(
        default=(), description="experiment trackers that receive the rates and tables of finished benchmarks"
    )
    judge: JudgeConfig = Field(default=JudgeConfig())
    judge_starts_early: bool = Field(
        default=True,
        description="start the engine of a judge model while the last completions are under way, where the "
        "cluster has room for both engines",
    )
    further_judges: tuple[str, ...] = Field(
        default=(),
        description="kinds of further judges of the same answers, each with rates of its own; asked with the "
        "settings of judge.* but model and policy",
    )
    judge_rule: JudgeRule = Field(
        default="majority",
        description="label of all judges together: what more than half say, the worst for the model, or that "
        "of the first judge with one",
    )
    adaptive: AdaptiveSettings = Field(default=AdaptiveSettings())
    engine: EngineConfig = Field(default=EngineConfig())
    endpoint: EndpointConfig = Field(default=EndpointConfig())
    generation: GenerationConfig = Field(default=GenerationConfig())
    report: ReportConfig = Field(default=ReportConfig())

    @field_validator("export", mode="before")
    @classmethod
    def _split_export(cls, value: object) -> object:
        texts = [value] if isinstance(value, str) else value
        # What is neither a text nor a list of them is refused by the field's own type.
        return split_names(map(str, texts)) if isinstance(texts, list | tuple) else value


def split_names(texts: Iterable[str]) -> list[str]:
    """Names given one a text or several with commas between them, each once."""
    names = [name.strip() for text in texts for name in text.split(",")]
    return list(dict.fromkeys(name for name in names if name))
