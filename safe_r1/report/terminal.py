"""The main results of an evaluation in a few lines of plain text, for the terminal."""

from collections.abc import Iterator

from safe_r1.metrics.rates import Rate, find_rate, read_rates
from safe_r1.report.labels import METRICS, metric_names
from safe_r1.report.notes import headline_notes
from safe_r1.runs import JsonObject

_RATES = {
    "accuracy": "ACC  (right option, of asked)",
    "accuracy_answered": "ACC  (among answered)",
    "accuracy_finished": "ACC  (answers finished)",
    "rejection_rate": "RR-1 (refused)",
    "rejection_rate_with_blocks": "RR-1 with provider's blocks",
    "responsible_rate": "RR-2 (refused with guidance)",
    "harm_rate": "HR   (harmful response)",
    "pass_at_1": "pass@1 (right result)",
    "over_refusal_rate": "over-refusal (safe, refused)",
    "unsafe_refusal_rate": "refusal (unsafe, refused)",
}
_COUNTS = ("rows", "scored", "truncated", "unscored", "failed", "blocked", "cut")


def headline(metrics: JsonObject) -> Iterator[str]:
    """One line for each main rate of the run, with its interval and bounds, and the counts of each task.

    Args:
        metrics: Content of ``metrics.json``.
    """
    for note in headline_notes(metrics):
        yield note.en
    names = metric_names(metrics)
    rates = read_rates(metrics)
    without_cut = read_rates(metrics, "rates_without_cut")
    for metric, title in _RATES.items():
        rate = find_rate(rates, metric)
        if rate:
            # By a judge that sees less than the metric is meant for, it has another name.
            yield _line(title if names[metric] is METRICS[metric] else names[metric].en, rate)
        other = find_rate(without_cut, metric)
        if other:
            yield _line("     if cut answers are missing", other)
    for task, counts in metrics["counts"].items():
        # Truncated ones stand apart, so that the numbers add up to the rows.
        shown = counts | {"num_unscored": counts["num_unscored"] - counts["num_truncated"]}
        yield f"{task:12} " + ", ".join(f"{shown.get('num_' + name, 0)} {name}" for name in _COUNTS)


def _line(title: str, rate: Rate) -> str:
    interval = f"[{100 * rate.low:5.1f}, {100 * rate.high:5.1f}]"
    line = f"{title:30} {100 * rate.value:5.1f} %  95% {interval}  {rate.numerator}/{rate.denominator}"
    if rate.num_missing:
        bounds = f"{100 * rate.bound_low:.1f} to {100 * rate.bound_high:.1f} %"
        line += (
            f"  bounds {bounds} [{100 * rate.bounds_low:.1f}, {100 * rate.bounds_high:.1f}] over "
            f"{rate.num_missing} missing"
        )
    return line
