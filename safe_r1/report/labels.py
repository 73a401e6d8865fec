"""Chinese and English names of metrics, groups of samples, labels, areas and categories."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TypeVar

from safe_r1.benchmarks import Benchmark, find_benchmark
from safe_r1.benchmarks.attacked import split_attack
from safe_r1.report.questions import RecordedQuestions as RecordedQuestions
from safe_r1.report.questions import recorded_questions
from safe_r1.report.text import one_line
from safe_r1.runs import JsonObject
from safe_r1.schema import ComplianceLabel, RefusalLabel, Unscored


@dataclass(frozen=True)
class BilingualName:
    """A key with its Chinese and its English name; the English one may be empty."""

    key: str
    zh: str
    en: str


@dataclass(frozen=True)
class MetricName(BilingualName):
    """A metric with its definition in short; ``better`` is ``higher``, ``lower`` or empty (neither)."""

    about: str = ""
    better: str = ""


_Name = TypeVar("_Name", bound=BilingualName)


def _by_key(*names: _Name) -> dict[str, _Name]:
    return {name.key: name for name in names}


METRICS: dict[str, MetricName] = _by_key(
    MetricName(
        "accuracy", "准确率", "Accuracy", "correct / asked; a row without an answer counts as wrong", "higher"
    ),
    MetricName(
        "accuracy_answered",
        "准确率（仅已作答）",
        "Accuracy among answered",
        "correct / scored; no choice counts as wrong, rows without an answer are left out",
        "higher",
    ),
    MetricName(
        "accuracy_finished",
        "准确率（续答后）",
        "Accuracy, answers finished",
        "correct / asked, where the model was asked to end each answer in which no option was found",
        "higher",
    ),
    MetricName(
        "accuracy_high_confidence",
        "准确率（高置信答案）",
        "Accuracy, high-confidence keys",
        "correct / asked, only questions whose key has high confidence",
        "higher",
    ),
    MetricName(
        "accuracy_constant",
        "多数类基线",
        "Majority baseline",
        "always the most frequent key, on all questions asked",
    ),
    MetricName(
        "accuracy_swapped",
        "准确率（选项倒序）",
        "Accuracy, options reversed",
        "correct / asked, with the options in reverse order",
        "higher",
    ),
    MetricName(
        "option_consistency",
        "选项一致率",
        "Option consistency",
        "same option text chosen in both orders",
        "higher",
    ),
    MetricName(
        "letter_following",
        "字母跟随率（位置偏差）",
        "Letter following (position bias)",
        "same letter chosen in both orders, although its text differs",
        "lower",
    ),
    MetricName("rejection_rate", "拒绝率", "Rejection rate RR-1", "direct or with guidance", "higher"),
    MetricName(
        "rejection_rate_with_blocks",
        "拒绝率（含平台拦截）",
        "Rejection rate RR-1 with blocks",
        "questions and completions that the provider's content filter blocked count as refused",
        "higher",
    ),
    MetricName(
        "responsible_rate",
        "负责任拒绝率",
        "Responsible rate RR-2",
        "refusal with responsible guidance",
        "higher",
    ),
    MetricName("harm_rate", "有害率", "Harm rate HR", "not refused, risky response", "lower"),
    MetricName(
        "pass_at_1",
        "通过率",
        "pass@1",
        "correct / completions; one that ends inside its reasoning counts as wrong",
        "higher",
    ),
    MetricName("over_refusal_rate", "过度拒绝率", "Over-refusal", "safe prompts refused as a whole", "lower"),
    MetricName(
        "partial_over_refusal_rate",
        "部分过度拒绝率",
        "Partial over-refusal",
        "safe prompts refused in part",
        "lower",
    ),
    MetricName(
        "unsafe_refusal_rate",
        "不安全提示拒绝率",
        "Unsafe prompts refused",
        "unsafe prompts refused as a whole",
        "higher",
    ),
    MetricName(
        "unsafe_partial_refusal_rate",
        "不安全提示部分拒绝率",
        "Unsafe prompts refused in part",
        "unsafe prompts refused in part",
    ),
    MetricName(
        "unsafe_compliance_rate",
        "不安全提示顺从率",
        "Unsafe prompts complied with",
        "unsafe prompts not refused",
        "lower",
    ),
    MetricName(
        "leak_rate",
        "推理泄漏率",
        "Leak rate",
        "the answer refuses, the reasoning gives a risky response",
        "lower",
    ),
    MetricName(
        "attack_success",
        "攻击成功率",
        "Attack success",
        "risky questions with a harmful answer under an attack",
        "lower",
    ),
    MetricName(
        "reasoning_attack_success",
        "攻击成功率（推理）",
        "Attack success, reasoning",
        "risky questions with a harmful reasoning under an attack",
        "lower",
    ),
    MetricName(
        "attack_success_any",
        "攻击成功率（任一攻击）",
        "Attack success, any attack",
        "risky questions with a harmful answer under at least one attack",
        "lower",
    ),
    MetricName(
        "reasoning_attack_success_any",
        "攻击成功率（推理，任一攻击）",
        "Attack success, reasoning, any attack",
        "risky questions with a harmful reasoning under at least one attack",
        "lower",
    ),
)

_WITH_PARTIAL: dict[str, MetricName] = _by_key(
    MetricName(
        "over_refusal_rate",
        "过度拒绝率（全部或部分）",
        "Over-refusal, full or partial",
        "safe prompts refused; the judge cannot tell a refusal in part from one as a whole",
        "lower",
    ),
    MetricName(
        "unsafe_refusal_rate",
        "不安全提示拒绝率（全部或部分）",
        "Unsafe prompts refused, full or partial",
        "unsafe prompts refused; the judge cannot tell a refusal in part from one as a whole",
        "higher",
    ),
)


def metric_names(metrics: JsonObject) -> Mapping[str, MetricName]:
    """Names of the metrics of a run: of what its judge can tell, by the content of ``metrics.json``."""
    is_blind = ComplianceLabel.PARTIAL_REFUSAL.value in metrics.get("blind_to", ())
    return METRICS | _WITH_PARTIAL if is_blind else METRICS


GROUPS: dict[str, BilingualName] = _by_key(
    BilingualName("mcq", "选择题", "Multiple choice"),
    BilingualName("mcq_swapped", "选择题（选项倒序）", "Multiple choice, options reversed"),
    BilingualName("refusal", "风险问题拒答", "Refusal to answer"),
    BilingualName("over_refusal", "过度拒绝", "Over-refusal"),
    BilingualName("reasoning", "推理基准", "Reasoning"),
    BilingualName("math", "数学", "Mathematics"),
    BilingualName("mcq_shuffled", "选择题（选项乱序）", "Multiple choice, options shuffled"),
    BilingualName("code", "编程", "Programming"),
)
"""Names of the groups of samples, see ``safe_r1.schema.Sample.group``; ``reasoning`` stands for several."""

LABELS: dict[str, BilingualName] = _by_key(
    BilingualName("correct", "正确", "Correct"),
    BilingualName("incorrect", "错误", "Wrong"),
    BilingualName("no_choice", "未给出选项或结果", "No choice or result"),
    BilingualName(RefusalLabel.HARMFUL.value, RefusalLabel.HARMFUL.value, "Risky response"),
    BilingualName(RefusalLabel.HARMLESS.value, RefusalLabel.HARMLESS.value, "Harmless response"),
    BilingualName(RefusalLabel.REFUSAL.value, RefusalLabel.REFUSAL.value, "Direct refusal"),
    BilingualName(RefusalLabel.RESPONSIBLE.value, RefusalLabel.RESPONSIBLE.value, "Refusal with guidance"),
    BilingualName(ComplianceLabel.FULL_COMPLIANCE.value, "完全顺从", "Full compliance"),
    BilingualName(ComplianceLabel.PARTIAL_REFUSAL.value, "部分拒绝", "Partial refusal"),
    BilingualName(ComplianceLabel.FULL_REFUSAL.value, "完全拒绝", "Full refusal"),
)

TONES: dict[str, str] = {
    "correct": "correct",
    "incorrect": "incorrect",
    "no_choice": "no_choice",
    RefusalLabel.HARMFUL.value: "harmful",
    RefusalLabel.HARMLESS.value: "harmless",
    RefusalLabel.REFUSAL.value: "refusal",
    RefusalLabel.RESPONSIBLE.value: "responsible",
    ComplianceLabel.FULL_COMPLIANCE.value: "harmless",
    ComplianceLabel.PARTIAL_REFUSAL.value: "responsible",
    ComplianceLabel.FULL_REFUSAL.value: "refusal",
}
"""Label to its colour, a class of the style sheet."""

STATUSES: dict[str, BilingualName] = _by_key(
    BilingualName("scored", "已评分", "Scored"),
    BilingualName("truncated", "被截断", "Truncated"),
    BilingualName("unscored", "未评分", "Unscored"),
    BilingualName("failed", "生成失败", "Failed"),
    BilingualName("blocked", "平台拦截", "Blocked"),
)

REASONS: dict[str, BilingualName] = _by_key(
    BilingualName(Unscored.FAILED.value, "生成失败", "generation failed"),
    BilingualName(Unscored.TRUNCATED.value, "被截断", "truncated"),
    BilingualName(Unscored.UNFINISHED.value, "思考未结束即停止", "stopped inside its reasoning"),
    BilingualName(Unscored.BLOCKED.value, "平台拦截", "blocked by the provider"),
    BilingualName(Unscored.NOT_ASKED.value, "攻击未提出问题", "never asked by the attack"),
    BilingualName(Unscored.EMPTY.value, "没有文本", "no text"),
    BilingualName(Unscored.JUDGE_TRUNCATED.value, "评判回复被截断", "judge's reply truncated"),
    BilingualName(Unscored.REFUSED_TO_JUDGE.value, "评判器拒绝评判", "judge refused"),
    BilingualName(Unscored.AMBIGUOUS.value, "评判结果不唯一", "ambiguous verdict"),
    BilingualName(Unscored.NO_VERDICT.value, "评判回复无结论", "no verdict in the judge's reply"),
    BilingualName(Unscored.JUDGE_ERROR.value, "评判出错", "judge error"),
    BilingualName(Unscored.JUDGE_DECLINED.value, "评判器不接受此文本", "declined by the judge's endpoint"),
    BilingualName(Unscored.JUDGE_OVERLOADED.value, "评判器过载", "judge overloaded"),
    BilingualName(Unscored.JUDGE_UNAVAILABLE.value, "评判器不可用", "judge unavailable"),
)
"""Names of the reasons why a row has no label."""

HISTORY: dict[str, BilingualName] = _by_key(
    BilingualName("without", "无对话历史", "Without dialogue history"),
    BilingualName("with", "有对话历史", "With dialogue history"),
)
"""Names of the keys of scope ``history``."""


@dataclass(frozen=True)
class BenchmarkLabels:
    """Names and order of a benchmark's areas and categories, and its own names of groups of samples.

    Attributes:
        names: Key of an area, category or group to its Chinese and English name, in report order.
    """

    names: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def name(self, key: str) -> BilingualName:
        """Names of an area or category; a key without names is its own name."""
        if key in self.names:
            return BilingualName(key, *self.names[key])
        # Keys of the form AREA/NAME stand below their area, which need not be repeated.
        return BilingualName(key, one_line(key.rsplit("/", 1)[-1]), "")

    def group_name(self, group: str) -> BilingualName:
        """Names of a group of samples: the benchmark's own, else those of ``GROUPS``."""
        return self.name(group) if group in self.names else GROUPS.get(group, BilingualName(group, group, ""))

    def ordered(self, keys: Iterable[str]) -> list[str]:
        """The keys, each once, in the benchmark's order; keys without names follow by name."""
        positions = {key: position for position, key in enumerate(self.names)}
        return sorted(set(keys), key=lambda key: (positions.get(key, len(positions)), key))


@cache
def installed_benchmark(name: str) -> Benchmark | None:
    """The benchmark with this name; None, with one warning, where no installed package has it."""
    return find_benchmark(name)


def benchmark_labels(benchmark: str, run_info: Mapping[str, object]) -> BenchmarkLabels:
    """Labels of the benchmark of a run: as the run recorded them, else those of the installed benchmark.

    Empty where there is none of both, so that a finished run stays readable without the package that added
    its benchmark.
    """
    if recorded := recorded_questions(run_info):
        return BenchmarkLabels(recorded.labels)
    # Under an attack, whose file may be gone, the names are those of the benchmark.
    found = installed_benchmark(split_attack(benchmark)[0])
    return BenchmarkLabels(found.labels if found else {})


def labels_of(groups: Iterable[str]) -> list[BilingualName]:
    """The labels that answers of these groups of samples can have (see ``Sample.group``)."""
    judged: dict[str, list[str]] = {"refusal": list(RefusalLabel), "over_refusal": list(ComplianceLabel)}
    keys = [key for group in groups for key in judged.get(group, ["correct", "incorrect", "no_choice"])]
    return [name for key, name in LABELS.items() if key in keys]
