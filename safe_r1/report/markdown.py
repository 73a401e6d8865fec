"""The report as Markdown: all figures without the samples, for terminals and code hosts."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from safe_r1.metrics.rates import Rate
from safe_r1.redaction import hide_secrets
from safe_r1.report.data import build_report
from safe_r1.report.text import markdown_text, printable
from safe_r1.schema import Sample


def percent(value: float) -> Markup:
    """A fraction as percent with one decimal, without the percent sign."""
    return Markup(f"{100 * value:.1f}")


def rate_with_interval(rate: Rate | None) -> Markup:
    """``72.4 [70.1, 74.6]`` in percent; a dash for None, and for a rate of no row."""
    if rate is None or not rate.denominator:
        return Markup("–")
    return Markup(f"{percent(rate.value)} [{percent(rate.low)}, {percent(rate.high)}]")


def bounds_with_interval(rate: Rate) -> Markup:
    """``60.0 – 80.0 [57.1, 83.0]``: the rate's range over its missing rows; a dash where none is."""
    if not rate.num_missing:
        return Markup("–")
    ends = f"{percent(rate.bound_low)} – {percent(rate.bound_high)}"
    return Markup(f"{ends} [{percent(rate.bounds_low)}, {percent(rate.bounds_high)}]")


def rate_with_bounds(rate: Rate | None) -> Markup:
    """``rate_with_interval``, and the bounds in parentheses where rows are missing."""
    if rate is None or not rate.num_missing:
        return rate_with_interval(rate)
    return Markup(f"{rate_with_interval(rate)} ({percent(rate.bound_low)} – {percent(rate.bound_high)})")


def figure(value: float | None) -> Markup:
    """A published figure, which is in percent already; a dash for None."""
    return Markup("–" if value is None else f"{value:.2f}")


def markdown_environment() -> jinja2.Environment:
    """Environment of Markdown templates: every value is escaped by ``markdown_text``, except ``Markup`` and
    integers, which are safe already.
    """
    return jinja2.Environment(
        loader=jinja2.PackageLoader("safe_r1.report"),
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: value if isinstance(value, int | Markup) else markdown_text(value),
    )


def render_markdown(
    samples: Sequence[Sample],
    metrics: dict[str, Any],
    run_info: Mapping[str, object],
    calibration: Mapping[str, object] | None = None,
) -> str:
    """Render ``report.md``.

    Args:
        samples: All samples of the run.
        metrics: Content of ``metrics.json``, see ``safe_r1.metrics.rates.compute_metrics``.
        run_info: Content of ``run.json``; any entry may be missing.
        calibration: Content of ``calibration.json``; None where there is none.
    """
    template = markdown_environment().get_template("report.md.jinja")
    # Earlier releases wrote settings as they were given.
    run_info = hide_secrets(run_info)
    # Inside a code fence nothing is Markdown, and no line of indented JSON can close the fence.
    facts = (
        Markup(printable(json.dumps(run_info, ensure_ascii=False, indent=2, default=str))) if run_info else ""
    )
    return template.render(
        data=build_report(samples, metrics, run_info, calibration),
        ci=rate_with_interval,
        bounds=bounds_with_interval,
        cell=rate_with_bounds,
        percent=percent,
        figure=figure,
        facts_json=facts,
    )
