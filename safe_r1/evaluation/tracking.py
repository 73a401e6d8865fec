"""Sends the rates and counts of finished benchmarks to experiment trackers."""

import contextlib
import logging
import re
from collections.abc import Mapping, Sequence

from safe_r1.config import EvaluateConfig
from safe_r1.errors import ConfigError, StorageError
from safe_r1.evaluation.publish import BenchmarkResult
from safe_r1.metrics.counts import read_counts
from safe_r1.metrics.rates import Rate, read_rates
from safe_r1.report.labels import BenchmarkLabels, MetricName, benchmark_labels, metric_names
from safe_r1.report.trackers import Table, make_trackers
from safe_r1.runs import JsonObject, sha256
from safe_r1.settings import public_settings

_log = logging.getLogger(__name__)
# What stands beside a value: the ends of its interval, and of its bounds over missing rows.
_ENDS = ("low", "high", "bound_low", "bound_high", "bounds_low", "bounds_high")

# Letters of any script; MLflow refuses others than these.
_NOT_IN_METRIC = re.compile(r"[^\w./ -]")
# Weights & Biases refuses others in an id, MLflow's filter needs no quoting without them.
_NOT_IN_RUN = re.compile(r"[^A-Za-z0-9._-]+")


def record_results(config: EvaluateConfig, results: Sequence[BenchmarkResult]) -> None:
    """Send every benchmark's rates and tables to the configured trackers, as a run of its own.

    A repeated command sends the same values to the same run.

    Raises:
        ConfigError: A tracker is not installed.
        StorageError: A tracker does not take them; the results themselves are published already.
    """
    if not config.trackers:
        return
    settings = public_settings(config)
    for result in results:
        info = result.folder.read_json("run.json") or {}
        name = run_name(config, result, info)
        try:
            trackers = make_trackers(config.trackers, name, result.folder.path, settings)
            for tracker in trackers:
                with contextlib.closing(tracker):
                    tracker.log(0, flat_metrics(result.metrics))
                    for table, rows in metric_tables(result.benchmark, result.metrics, info).items():
                        tracker.log_table(table, rows)
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001 - each library raises its own, for any reason of its server
            _log.exception("trackers")
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise StorageError(
                f"trackers {', '.join(config.trackers)} did not take the results of {result.benchmark}: "
                f"{reason}; they are published in {result.folder.path}, and the same command sends them again"
            ) from None


def run_name(config: EvaluateConfig, result: BenchmarkResult, info: JsonObject) -> str:
    """Name and id of a tracker's run: equal for equal settings, different for different ones."""
    fingerprint = info.get("fingerprint", {})
    variant = str(result.metrics.get("variant", ""))
    parts = (config.run, variant, result.benchmark, sha256(fingerprint)[:8])
    return _NOT_IN_RUN.sub("-", "-".join(parts))


def flat_metrics(metrics: JsonObject) -> dict[str, float]:
    """Rates as fractions, ``PART/METRIC`` and ``PART/METRIC/SCOPE/KEY``, and counts, ``counts/GROUP/NUM``.

    Overall rates have the ends of their interval beside them, ``PART/METRIC.low`` and ``.high``, and of their
    bounds over missing rows, ``.bound_low``, ``.bound_high``, ``.bounds_low`` and ``.bounds_high``.
    """
    flat: dict[str, float] = {}
    for rate in read_rates(metrics):
        name = f"{rate.part}/{rate.metric}"
        if rate.scope == "overall":
            flat[name] = rate.value
            flat |= {f"{name}.{end}": getattr(rate, end) for end in _ENDS}
        else:
            flat[f"{name}/{rate.scope}/{rate.key}"] = rate.value
    for group, counts in read_counts(metrics).items():
        for name, value in counts.items():
            if isinstance(value, int):
                flat[f"counts/{group}/{name}"] = float(value)
    for rate in read_rates(metrics, "rates_without_cut"):
        flat[f"{rate.part}/{rate.metric}_without_cut"] = rate.value
    for k, entry in metrics.get("pass_at_k", {}).items():
        name = f"answer/pass_at_{k}_estimate"
        flat[name] = entry["value"]
        flat |= {f"{name}.{end}": entry[end] for end in _ENDS}
    for name, value in metrics.get("selection", {}).items():
        flat[f"selection/{name}"] = float(value)
    return {_NOT_IN_METRIC.sub("_", name): value for name, value in flat.items()}


def metric_tables(benchmark: str, metrics: JsonObject, info: JsonObject) -> dict[str, Table]:
    """The tables of a report: ``rates``, each with numerator, denominator and interval, and ``counts``."""
    labels = benchmark_labels(benchmark, info)
    names = metric_names(metrics)
    rates = [_rate_row(rate, labels, names) for rate in read_rates(metrics)]
    counts = [
        {
            "task": group,
            "rows": entry["num_rows"],
            "scored": entry["num_scored"],
            "truncated": entry["num_truncated"],
            "cut": entry.get("num_cut"),
            # Truncated ones among them, as in metrics.json.
            "unscored": entry["num_unscored"],
            "failed": entry["num_failed"],
            "blocked": entry.get("num_blocked", 0),
        }
        for group, entry in read_counts(metrics).items()
    ]
    tables: dict[str, Table] = {"rates": rates, "counts": counts}
    return {name: rows for name, rows in tables.items() if rows}


def _rate_row(
    rate: Rate, labels: BenchmarkLabels, names: Mapping[str, MetricName]
) -> dict[str, str | int | float | None]:
    key = labels.name(rate.key) if rate.scope in ("area", "category") else None
    metric = names.get(rate.metric)
    return {
        "metric": rate.metric,
        "name": metric.en if metric else rate.metric,
        "part": rate.part,
        "scope": rate.scope,
        "key": rate.key,
        "key_zh": key.zh if key else "",
        "key_en": key.en if key else "",
        "numerator": rate.numerator,
        "denominator": rate.denominator,
        "percent": round(100 * rate.value, 2),
        "low": round(100 * rate.low, 2),
        "high": round(100 * rate.high, 2),
        "missing": rate.num_missing,
        "bound_low": round(100 * rate.bound_low, 2),
        "bound_high": round(100 * rate.bound_high, 2),
        "bounds_low": round(100 * rate.bounds_low, 2),
        "bounds_high": round(100 * rate.bounds_high, 2),
        "weighted": rate.is_weighted,
    }
