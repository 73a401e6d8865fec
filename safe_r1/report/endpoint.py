"""What a report says of a model behind a URL: who answered, what was not sent, what it took."""

from collections.abc import Iterator, Mapping
from typing import Any

from safe_r1.report.labels import BilingualName
from safe_r1.report.text import one_line

_MAX_REASON_CHARS = 160


def endpoint_notes(endpoint: object) -> list[BilingualName]:
    """One note a fact, from the entry ``endpoint`` of ``run.json``; none for an engine."""
    return list(_notes(endpoint)) if isinstance(endpoint, Mapping) and endpoint.get("model") else []


def _notes(endpoint: Mapping[str, Any]) -> Iterator[BilingualName]:
    adapted: Mapping[str, str] = endpoint.get("adapted") or {}
    yield from _served_notes(endpoint)
    yield from _adapted_notes(adapted)
    yield _seed_note("seed" in adapted, endpoint.get("seeded", True))
    yield _usage_note(endpoint)
    yield from _overhead_notes(endpoint.get("overhead") or {})


def _served_notes(endpoint: Mapping[str, Any]) -> Iterator[BilingualName]:
    """Who answered."""
    model, host = one_line(endpoint["model"]), one_line(endpoint.get("host", ""))
    yield BilingualName("model", f"接口 {host} 上的 {model}", f"{model} at {host}")
    served: Mapping[str, int] = endpoint.get("served_by") or {}
    listed = ", ".join(f"{one_line(name)}: {rows:,}" for name, rows in served.items())
    if len(served) > 1:
        yield BilingualName(
            "changed",
            f"运行中途，接口报告的模型或 system_fingerprint 发生了变化（{listed}）：结果来自多个版本",
            f"the model or system_fingerprint that the endpoint reports changed in the middle ({listed}): "
            "the results are those of several versions",
        )
    elif served:
        yield BilingualName(
            "served", f"接口报告的模型（行数）：{listed}", f"as the endpoint reports it (rows): {listed}"
        )


def _adapted_notes(adapted: Mapping[str, str]) -> Iterator[BilingualName]:
    """What was not sent as configured, and why."""
    if "usage" in adapted:
        yield BilingualName(
            "estimated",
            "接口不返回用量：token 数和费用为估计值",
            "the endpoint reports no usage: tokens and cost are estimates",
        )
    for name, reason in adapted.items():
        if name == "usage":
            continue
        said = one_line(reason)[:_MAX_REASON_CHARS]
        yield BilingualName(
            f"adapted {name}",
            f"参数 {one_line(name)} 未按配置发送（{said}）",
            f"parameter {one_line(name)} was not sent as configured ({said})",
        )


def _seed_note(is_refused: bool, is_seeded: bool) -> BilingualName:
    """Whether the run can be repeated."""
    if is_refused:
        zh = "接口不接受随机种子：结果无法复现"
        en = "the endpoint takes no seed: the run cannot be repeated"
    elif is_seeded:
        zh = "每行都发送了随机种子；是否遵守由接口决定，结果可能无法逐字复现"
        en = (
            "every row was sent with a seed; whether the endpoint honours it is not known: a repeated run "
            "may differ"
        )
    else:
        zh = "温度为 0，未发送随机种子；结果是否逐字可复现由接口决定"
        en = "temperature 0, no seeds were sent; whether a repeated run is the same is up to the endpoint"
    return BilingualName("seed", zh, en)


def _usage_note(endpoint: Mapping[str, Any]) -> BilingualName:
    """What it took."""
    prompts, completions = int(endpoint.get("prompt_tokens", 0)), int(endpoint.get("completion_tokens", 0))
    cost = endpoint.get("cost")
    zh = "" if cost is None else f"，费用 {cost:.4g}"
    en = "" if cost is None else f", cost {cost:.4g}"
    return BilingualName(
        "usage",
        f"提示 {prompts:,} token，生成 {completions:,} token（按接口计数）{zh}",
        f"{prompts:,} prompt and {completions:,} completion tokens, as the endpoint counts them{en}",
    )


def _overhead_notes(overhead: Mapping[str, int]) -> Iterator[BilingualName]:
    """What was taken beyond the rows."""
    if probes := overhead.get("num_probes"):
        yield BilingualName(
            "probes",
            f"另有 {probes:,} 次探测请求，用于判断被拒绝的请求是否因内容被拦截",
            f"{probes:,} further requests found out whether refusals were about the content",
        )
    if unanswered := overhead.get("num_unanswered"):
        yield BilingualName(
            "unanswered",
            f"{unanswered:,} 次请求没有收到回复（超时或连接中断），平台可能仍然计费",
            f"{unanswered:,} attempts got no answer (time-outs, broken connections) and may have been paid",
        )
    if any(overhead.values()):
        prompts, completions = overhead.get("prompt_tokens", 0), overhead.get("completion_tokens", 0)
        yield BilingualName(
            "overhead",
            f"上述额外请求最多按提示 {prompts:,} token、生成 {completions:,} token 计入费用",
            f"counted for these, in the cost too: at most {prompts:,} prompt and {completions:,} completion "
            "tokens",
        )
