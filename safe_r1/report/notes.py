"""What every report and summary of a run has to say before any figure."""

from collections.abc import Mapping

from safe_r1.metrics.counts import read_counts
from safe_r1.report.labels import BilingualName
from safe_r1.runs import JsonObject


def headline_notes(metrics: JsonObject, run_info: Mapping[str, object] | None = None) -> list[BilingualName]:
    """How many questions of the benchmark were asked, where not all were; how many completions were cut; how
    many answers the model was asked to end.

    Args:
        metrics: Content of ``metrics.json``.
        run_info: Content of ``run.json``, which tells of the limit of a run of an earlier version.
    """
    return [note for note in (_selection(metrics, run_info or {}), _cut(metrics), _finished(metrics)) if note]


def _selection(metrics: JsonObject, run_info: Mapping[str, object]) -> BilingualName | None:
    selection = metrics.get("selection")
    if selection:
        num, population = selection["num_questions"], selection["num_population"]
        if num == population:
            return None
        return BilingualName(
            "selection",
            f"{population:,} 题中的 {num:,} 题；比率按基准自身的构成加权",
            f"{num:,} of {population:,} questions; rates are weighted to the shares of the whole benchmark",
        )
    limit = _limit(run_info)
    if limit is None:
        return None
    counts = read_counts(metrics)
    num = sum(entry["num_samples"] for group, entry in counts.items() if group != "mcq_swapped")
    if num < limit:
        return None
    return BilingualName(
        "selection",
        f"仅 {num:,} 题（--limit）；基准的题数未记录，比率未加权",
        f"{num:,} questions only (--limit); how many the benchmark has was not recorded, and rates are not "
        "weighted",
    )


def _limit(run_info: Mapping[str, object]) -> int | None:
    fingerprint = run_info.get("fingerprint")
    samples = fingerprint.get("samples") if isinstance(fingerprint, Mapping) else None
    limit = samples.get("limit") if isinstance(samples, Mapping) else None
    return limit if isinstance(limit, int) else None


def _cut(metrics: JsonObject) -> BilingualName | None:
    counts = read_counts(metrics).values()
    num_cut = sum(entry.get("num_cut", 0) for entry in counts)
    if not num_cut:
        return None
    num_rows = sum(entry["num_rows"] for entry in counts)
    return BilingualName(
        "cut",
        f"{num_rows:,} 个回答中有 {num_cut:,} 个达到长度上限而被截断",
        f"{num_cut:,} of {num_rows:,} completions were cut by the token limit",
    )


def _finished(metrics: JsonObject) -> BilingualName | None:
    counts = read_counts(metrics).get("mcq", {})
    num = counts.get("num_finished", 0)
    if not num:
        return None
    num_chosen = counts.get("num_finished_chosen", 0)
    return BilingualName(
        "finished",
        f"{num:,} 个选择题回答中未读出选项，已让模型续答，其中 {num_chosen:,} 个选出了选项；"
        "只计入“准确率（续答后）”",
        f"the model was asked to end {num:,} multiple-choice answers in which no option was found, and chose "
        f"one in {num_chosen:,} of them; counted in the accuracy with answers finished alone",
    )
