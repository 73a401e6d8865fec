"""Chinese and English names of everything that a report shows: metrics, labels, tasks, areas and categories."""

from collections.abc import Iterable
from dataclasses import dataclass

from safe_r1.report.text import one_line
from safe_r1.schema import ComplianceLabel, RefusalLabel
from safe_r1.taxonomy import AREAS, CATEGORIES


@dataclass(frozen=True)
class Name:
    """A key with its two names."""

    key: str
    zh: str
    en: str


@dataclass(frozen=True)
class MetricName(Name):
    """A metric with what it counts; ``better`` is ``higher``, ``lower`` or empty."""

    about: str = ""
    better: str = ""


METRICS: dict[str, MetricName] = {
    name.key: name
    for name in (
        MetricName("accuracy", "准确率", "Accuracy", "correct / scored; no choice counts as wrong", "higher"),
        MetricName(
            "accuracy_strict",
            "严格准确率",
            "Strict accuracy",
            "truncated and failed rows count as wrong too",
            "higher",
        ),
        MetricName(
            "accuracy_high_confidence",
            "准确率·高置信",
            "Accuracy, sure keys",
            "only keys of high confidence",
            "higher",
        ),
        MetricName(
            "accuracy_constant",
            "恒选基线",
            "Constant baseline",
            "always the same letter, on the same questions",
        ),
        MetricName(
            "accuracy_swapped",
            "准确率·选项倒序",
            "Accuracy, options reversed",
            "same questions, reversed",
            "higher",
        ),
        MetricName(
            "option_consistency",
            "跟随选项内容",
            "Follows the option",
            "same option text chosen in both orders",
            "higher",
        ),
        MetricName(
            "letter_following",
            "跟随选项字母",
            "Follows the letter",
            "same letter, other text, in both orders",
            "lower",
        ),
        MetricName("rejection_rate", "拒绝率", "Rejection rate RR-1", "direct or with guidance", "higher"),
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
            "right / asked; cut off before an answer counts as wrong",
            "higher",
        ),
        MetricName("over_refusal_rate", "过度拒绝率", "Over-refusal", "harmless requests refused", "lower"),
        MetricName(
            "partial_over_refusal_rate",
            "部分过度拒绝率",
            "Partial over-refusal",
            "harmless, refused in part",
            "lower",
        ),
        MetricName(
            "unsafe_refusal_rate", "危险请求拒绝率", "Unsafe requests refused", "refused as a whole", "higher"
        ),
        MetricName(
            "unsafe_partial_refusal_rate", "危险请求部分拒绝率", "Unsafe requests refused in part", "in part"
        ),
        MetricName(
            "unsafe_compliance_rate",
            "危险请求顺从率",
            "Unsafe requests complied with",
            "not refused",
            "lower",
        ),
        MetricName(
            "leak_rate",
            "推理泄漏率",
            "Leak rate",
            "the answer refuses, the reasoning gives a risky response",
            "lower",
        ),
    )
}

TASKS: dict[str, Name] = {
    name.key: name
    for name in (
        Name("mcq", "风险内容识别（选择题）", "Risk identification (multiple choice)"),
        Name("mcq_swapped", "选择题·选项倒序", "Multiple choice, options reversed"),
        Name("refusal", "风险问题拒答", "Refusal to answer"),
        Name("over_refusal", "过度拒绝", "Over-refusal"),
        Name("reasoning", "推理基准", "Reasoning"),
        Name("math", "数学", "Mathematics"),
        Name("mcq_shuffled", "选择题·选项乱序", "Multiple choice, options shuffled"),
        Name("code", "编程", "Programming"),
    )
}

LABELS: dict[str, Name] = {
    name.key: name
    for name in (
        Name("correct", "正确", "Correct"),
        Name("incorrect", "错误", "Wrong"),
        Name("no_choice", "未作选择", "No choice or result"),
        Name(RefusalLabel.HARMFUL.value, RefusalLabel.HARMFUL.value, "Risky response"),
        Name(RefusalLabel.HARMLESS.value, RefusalLabel.HARMLESS.value, "Harmless response"),
        Name(RefusalLabel.REFUSAL.value, RefusalLabel.REFUSAL.value, "Direct refusal"),
        Name(RefusalLabel.RESPONSIBLE.value, RefusalLabel.RESPONSIBLE.value, "Refusal with guidance"),
        Name(ComplianceLabel.FULL_COMPLIANCE.value, "完全配合", "Full compliance"),
        Name(ComplianceLabel.PARTIAL_REFUSAL.value, "部分拒绝", "Partial refusal"),
        Name(ComplianceLabel.FULL_REFUSAL.value, "完全拒绝", "Full refusal"),
    )
}

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

STATUSES: dict[str, Name] = {
    name.key: name
    for name in (
        Name("scored", "已评分", "Scored"),
        Name("truncated", "被截断", "Truncated"),
        Name("unscored", "未评分", "Unscored"),
        Name("failed", "生成失败", "Failed"),
    )
}


def area_name(key: str) -> Name:
    """Names of a risk area; a key of another benchmark is its own name."""
    area = AREAS.get(key)
    return Name(key, area.name_zh, area.name_en) if area else _unknown(key)


def category_name(key: str) -> Name:
    """Names of a risk category; a key of another benchmark is its own name."""
    category = CATEGORIES.get(key)
    return Name(key, category.name_zh, category.name_en) if category else _unknown(key)


def labels_of(groups: Iterable[str]) -> list[Name]:
    """The labels that answers of these groups of samples can have (see ``Sample.group``)."""
    judged: dict[str, list[str]] = {"refusal": list(RefusalLabel), "over_refusal": list(ComplianceLabel)}
    keys = [key for group in groups for key in judged.get(group, ["correct", "incorrect", "no_choice"])]
    return [name for key, name in LABELS.items() if key in keys]


def in_report_order(keys: set[str]) -> list[str]:
    """Area or category keys in the order of the taxonomy, others after them by name."""
    order = {key: place for place, key in enumerate([*AREAS, *CATEGORIES])}
    return sorted(keys, key=lambda key: (order.get(key, len(order)), key))


def _unknown(key: str) -> Name:
    return Name(key, one_line(key.rsplit("/", 1)[-1]), "")
