"""The main results of an evaluation in a few lines of plain text, for the terminal."""

from collections.abc import Iterator

from safe_r1.metrics.rates import find_rate, read_rates
from safe_r1.runs import JsonObject

_RATES = {
    "accuracy": "ACC  (right option)",
    "rejection_rate": "RR-1 (refused)",
    "rejection_rate_with_blocks": "RR-1 with provider's blocks",
    "responsible_rate": "RR-2 (refused with guidance)",
    "harm_rate": "HR   (harmful response)",
    "pass_at_1": "pass@1 (right result)",
    "over_refusal_rate": "over-refusal (safe, refused)",
    "unsafe_refusal_rate": "refusal (unsafe, refused)",
}
_COUNTS = ("rows", "scored", "truncated", "unscored", "failed", "blocked")


def headline(metrics: JsonObject) -> Iterator[str]:
    """One line for each main rate that the run has, with its interval, and the counts of each task.

    Args:
        metrics: Content of ``metrics.json``.
    """
    rates = read_rates(metrics)
    for metric, title in _RATES.items():
        rate = find_rate(rates, metric)
        if rate:
            interval = f"[{100 * rate.low:5.1f}, {100 * rate.high:5.1f}]"
            yield f"{title:30} {100 * rate.value:5.1f} %  95% {interval}  {rate.numerator}/{rate.denominator}"
    for task, counts in metrics["counts"].items():
        yield f"{task:12} " + ", ".join(f"{counts.get('num_' + name, 0)} {name}" for name in _COUNTS)
