"""The report as Markdown: the figures without the samples, to be read in a terminal or a code host."""

import json

import jinja2
from markupsafe import Markup

from safe_r1.metrics.rates import Rate
from safe_r1.report.data import build_report
from safe_r1.report.text import markdown_text, printable


def percent(value: float) -> Markup:
    """A share in percent with one decimal, without the sign."""
    return Markup(f"{100 * value:.1f}")


def rate_with_interval(rate: Rate | None) -> Markup:
    """``72.4 [70.1, 74.6]`` in percent; a dash where there is no rate."""
    return Markup(f"{percent(rate.value)} [{percent(rate.low)}, {percent(rate.high)}]" if rate else "–")


def figure(value: float | None) -> Markup:
    """A published figure, which is in percent already; a dash where there is none."""
    return Markup("–" if value is None else f"{value:.2f}")


def markdown_environment() -> jinja2.Environment:
    """Templates of Markdown, not HTML: every value goes through ``markdown_text``, but for ``Markup``, which
    is fit already.
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


def render_markdown(metrics: dict, run_info: dict) -> str:
    """Render ``report.md``.

    Args:
        metrics: Content of ``metrics.json``, see ``safe_r1.metrics.rates.compute_metrics``.
        run_info: Content of ``run.json``; missing entries are tolerated.
    """
    template = markdown_environment().get_template("report.md.jinja")
    # Within a fence nothing is Markdown, and no line of indented JSON can close it.
    facts = (
        Markup(printable(json.dumps(run_info, ensure_ascii=False, indent=2, default=str))) if run_info else ""
    )
    return template.render(
        data=build_report(metrics, run_info), ci=rate_with_interval, figure=figure, facts_json=facts
    )
